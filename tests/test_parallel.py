"Two processes under torchrun take the steps of one; what they share is exact, what they keep is their own."
import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the extra [models] is not installed")
from reasonlab.core import seed_all  # noqa: E402
from reasonlab.models.parallel import ranks  # noqa: E402
from reasonlab.models.train import TrainConfig, load_weights, train  # noqa: E402

PLAIN = TrainConfig(steps=12, size=7, rate=1e-2, log_every=3, clip=.5, accumulate=2)  # seven rows: four and three
LOOKED = TrainConfig(steps=40, size=5, rate=.3, eval_every=3, save_every=4, patience=2, average="ema", ema=.5)
ROWS = 31


def build(seed, dropout=0.):
    seed_all(seed)
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).float()
    body = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1))
    # a weight that only some rows use, and one that nobody uses
    net = torch.nn.ModuleDict(dict(body=body, rare=torch.nn.Linear(1, 1), idle=torch.nn.Linear(1, 1)))

    def loss(model, rows):
        out = model["body"](x[rows])[:, 0]
        odd = torch.tensor(rows % 5 == 0)
        if odd.any(): out = out + odd * model["rare"](torch.ones(1))
        return torch.nn.functional.binary_cross_entropy_with_logits(out, y[rows])
    return net, loss


def new_rows(model):
    x = torch.randn(99, 4, generator=torch.Generator().manual_seed(7))
    return ((model["body"](x)[:, 0] > 0) == (x.sum(1) > 0)).float().mean().item()


def numbers(net): return [p.detach().flatten().tolist() for p in net.parameters()]


def gradients(net): return [None if p.grad is None else p.grad.flatten().tolist() for p in net.parameters()]


def one_step(net, loss):
    train(net, loss, ROWS, PLAIN, until=1)
    return gradients(net)


SCRIPT = """
import json, sys
sys.path.insert(0, {here!r})
import test_parallel as t, torch
from pathlib import Path
from reasonlab.core import seed_all
from reasonlab.models.parallel import distributed
torch.set_num_threads(1)
room = Path({room!r})
with distributed() as (rank, world):
    out = dict(world=world)
    net, loss = t.build(1 + 5*rank) # process 1 starts elsewhere, until it takes over the weights
    out['gradient'] = t.one_step(net, loss)
    net, loss = t.build(1 + 5*rank)
    out['log'] = t.train(net, loss, t.ROWS, t.PLAIN)
    out['weights'] = t.numbers(net)
    def looked(folder, until=None, seed=1):
        net, loss = t.build(seed, .3)
        seed_all(seed + 50*rank) # other dropout for other rows
        log = t.train(net, loss, t.ROWS, t.LOOKED, folder, until, t.new_rows)
        return [log, t.numbers(net)]
    out['whole'] = looked(room/'whole')
    looked(room/'half', 6)
    out['resumed'] = looked(room/'half', None, 999)
    net, loss = t.build(1)
    try: t.train(net, lambda m, r: loss(m, r)*(float('nan') if rank else 1), t.ROWS, t.PLAIN)
    except FloatingPointError as e: out['error'] = str(e)
    (room/f'{{rank}}.json').write_text(json.dumps(out))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "What each of two processes found, and their folder"
    room = tmp_path_factory.mktemp("two")
    (room / "script.py").write_text(SCRIPT.format(here=os.path.dirname(__file__), room=str(room)))
    env = os.environ | dict(OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", room / "script.py"],
                          capture_output=True, text=True, timeout=180, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return *[json.loads((room / f"{i}.json").read_text()) for i in (0, 1)], room


def near(a, b): return all(torch.allclose(torch.tensor(x), torch.tensor(y), rtol=0, atol=1e-6) for x, y in zip(a, b, strict=True))


def test_two_processes_have_the_gradient_of_one(two):
    net, loss = build(1)
    alone = one_step(net, loss)
    for other in two[:2]:
        assert other["world"] == 2
        assert [g is None for g in other["gradient"]] == [g is None for g in alone] and None in alone, "an idle weight stays without one"
        assert near([g for g in other["gradient"] if g], [g for g in alone if g])


def test_two_processes_end_where_one_ends(two):
    net, loss = build(1)
    log = train(net, loss, ROWS, PLAIN)
    assert two[0]["weights"] == two[1]["weights"], "the processes differ"
    assert near(two[0]["weights"], numbers(net))
    assert [r["step"] for r in two[0]["log"]] == [r["step"] for r in log]
    assert all(abs(a["loss"] - b["loss"]) < 2e-6 for a, b in zip(two[0]["log"], log))
    assert not near(two[0]["weights"], numbers(build(1)[0])), "nothing was learned: the comparison says nothing"


def test_only_the_first_has_a_log(two):
    assert two[0]["log"] and not two[1]["log"] and not two[1]["whole"][0]


def test_two_processes_stop_together_and_resume_to_the_same_bits(two):
    "With early stop, an average, and a dropout of its own in each process"
    for one in two[:2]: assert one["whole"] == one["resumed"]
    assert two[0]["whole"][1] == two[1]["whole"][1]
    assert two[0]["whole"][0][-1]["step"] < LOOKED.steps
    assert [p.name for p in (two[2] / "whole").iterdir()] == ["checkpoint.safetensors"]


def test_the_generators_of_the_second_process_are_needed(two):
    "Its state is in the checkpoint, and differs from that of the first"
    from safetensors import safe_open
    with safe_open(str(two[2] / "whole" / "checkpoint.safetensors"), "pt") as f:
        first, second = f.get_tensor("rng.torch"), json.loads(bytes(f.get_tensor("rank.1").tolist()))
    assert second[0]["rng.torch"] != first.tolist()


def test_a_checkpoint_of_two_is_not_one_of_one(two):
    net, loss = build(1, .3)
    with pytest.raises(ValueError, match="another configuration"):
        train(net, loss, ROWS, LOOKED, two[2] / "whole", None, new_rows)
    assert load_weights(two[2] / "whole" / "checkpoint.safetensors", net)["score"] == pytest.approx(new_rows(net.eval()))


def test_what_one_sees_all_are_told(two):
    "Only process 1 had a loss that is no number"
    assert two[0]["error"] == two[1]["error"] and "the loss is nan at step 1" in two[0]["error"]


def test_torchrun_without_the_context_is_refused(monkeypatch):
    "Or every process would train alone, and write over the others"
    monkeypatch.setenv("WORLD_SIZE", "2")
    net, loss = build(1)
    with pytest.raises(RuntimeError, match=r"distributed\(\)"): train(net, loss, ROWS, PLAIN)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ranks() == (0, 1)
