"""Training: killed and resumed equals uninterrupted, in bits; a checkpoint is whole or absent."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra [models] is not installed")
from reasonlab.core import seed_all  # noqa: E402
from dataclasses import replace  # noqa: E402

from hypothesis import given, settings, strategies as st  # noqa: E402

from reasonlab.files import BadFile  # noqa: E402
from reasonlab.models import train as loop  # noqa: E402
from reasonlab.models.train import (BucketSampler, Sampler, TrainConfig, learned, load_checkpoint, load_weights,  # noqa: E402
                                    native_bf16, parameter_groups, rate_at, save_checkpoint, train)

CONFIG = TrainConfig(steps=20, size=8, rate=1e-2, save_every=5, log_every=5)


def build(seed):
    """A net with dropout, and a loss that draws from all three generators."""
    seed_all(seed)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).float()
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(.2), torch.nn.Linear(16, 1))

    def loss(model, rows):
        noise = .01 * np.random.rand() + .01 * random.random()
        return torch.nn.functional.binary_cross_entropy_with_logits(model(x[rows] + noise)[:, 0], y[rows])
    return net, loss


def bits(net):
    return [p.detach().numpy().tobytes() for p in net.state_dict().values()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    net, loss = build(1)
    log = train(net, loss, 50, CONFIG, tmp_path_factory.mktemp("straight"))
    return bits(net), log


@pytest.mark.parametrize("stop", [1, 5, 10, 13, 19, 20])
def test_resumed_equals_uninterrupted(straight, tmp_path, stop):
    net, loss = build(1)
    train(net, loss, 50, CONFIG, tmp_path, until=stop)
    if stop >= CONFIG.save_every:
        net, loss = build(999)          # another process: other weights, other random states
    else:
        net, loss = build(1)            # nothing saved yet: it starts again
    log = train(net, loss, 50, CONFIG, tmp_path)
    assert (bits(net), log) == straight


def test_without_a_folder_the_same(straight):
    net, loss = build(1)
    log = train(net, loss, 50, CONFIG)
    assert (bits(net), log) == straight


SCRIPT = """
import sys; sys.path.insert(0, {here!r})
import test_train as t, torch, time
torch.set_num_threads(1)
net, loss = t.build(1)
def slow(model, rows):
    time.sleep(.02)
    return loss(model, rows)
t.train(net, slow, 50, t.CONFIG, {folder!r})
"""


def test_kill_nine_in_a_real_process(straight, tmp_path):
    """Killed without warning somewhere, several times, then finished."""
    code = SCRIPT.format(here=os.path.dirname(__file__), folder=str(tmp_path))
    ckpt = tmp_path / "checkpoint.safetensors"
    p = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(1200):
        if ckpt.exists() or p.poll() is not None:
            break
        time.sleep(.05)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert ckpt.exists()
    net, loss = build(5)
    log = train(net, loss, 50, CONFIG, tmp_path)
    assert (bits(net), log) == straight


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    net, loss = build(1)
    train(net, loss, 50, CONFIG, tmp_path, until=5)
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        save_checkpoint(path, net, torch.optim.AdamW(net.parameters()), Sampler(50, 8, 0), 6, {}, [])
    assert path.read_bytes() == before


def test_checkpoint_holds_the_full_state_and_no_pickle(tmp_path):
    from safetensors import safe_open
    net, loss = build(1)
    train(net, loss, 50, CONFIG, tmp_path, until=5)
    blob = (tmp_path / "checkpoint.safetensors").read_bytes()
    assert int.from_bytes(blob[:8], "little") < len(blob)
    with safe_open(str(tmp_path / "checkpoint.safetensors"), "pt") as f:
        meta, names = json.loads(f.metadata()["state"]), set(f.keys())
    assert meta["step"] == 5 and meta["sampler"]["at"] and set(meta["rng"]) == {"python", "numpy"}
    assert {"rng.torch", "model.0.weight", "opt.0.exp_avg", "opt.0.exp_avg_sq", "opt.0.step"} <= names


@pytest.mark.parametrize("part,owner,name", [("python", random, "setstate"), ("numpy", np.random, "set_state"),
                                            ("torch", torch, "set_rng_state"), ("sampler", Sampler, "load")])
def test_each_of_the_four_states_is_needed(straight, tmp_path, monkeypatch, part, owner, name):
    """With all of them the resumed run has the same bits; leave one out, and it has not."""
    def resumed():
        net, loss = build(999)
        log = train(net, loss, 50, CONFIG, tmp_path)
        return bits(net), log
    net, loss = build(1)
    train(net, loss, 50, CONFIG, tmp_path, until=10)
    saved = (tmp_path / "checkpoint.safetensors").read_bytes()
    assert resumed() == straight
    (tmp_path / "checkpoint.safetensors").write_bytes(saved)
    monkeypatch.setattr(owner, name, lambda *_: None)
    assert resumed()[0] != straight[0], f"the state of {part} makes no difference"


def test_another_configuration_is_refused(tmp_path):
    net, loss = build(1)
    train(net, loss, 50, CONFIG, tmp_path, until=5)
    with pytest.raises(ValueError, match="another configuration"):
        train(net, loss, 50, TrainConfig(steps=21, size=8, save_every=5), tmp_path)


def test_a_checkpoint_from_before_a_choice_goes_on(straight, tmp_path, monkeypatch):
    """It has the default of what it does not know; with another choice it is refused."""
    known = loop.asdict
    net, loss = build(1)
    with monkeypatch.context() as m:
        m.setattr(loop, "asdict", lambda c: {k: v for k, v in known(c).items() if k not in ("dtype", "average", "rates")})
        train(net, loss, 50, CONFIG, tmp_path, until=10)
    net, loss = build(999)
    with pytest.raises(ValueError, match="another configuration"):
        train(net, loss, 50, replace(CONFIG, average="ema"), tmp_path)
    log = train(net, loss, 50, CONFIG, tmp_path)
    assert (bits(net), log) == straight


def test_a_pickle_named_safetensors_does_not_load(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    net, _ = build(1)
    with pytest.raises(Exception, match="(?i)header|safetensor"):
        load_checkpoint(path, net, torch.optim.AdamW(net.parameters()), Sampler(50, 8, 0), {})


def test_sampler_visits_every_row_once_per_epoch():
    s = Sampler(12, 4, seed=3)
    for _ in range(4):
        assert sorted(np.concatenate([s.next() for _ in range(3)])) == list(range(12))


def test_rate_rises_and_falls():
    c = TrainConfig(steps=100, warmup=.1, rate=1.)
    rates = [rate_at(i, c) for i in range(100)]
    assert max(rates) == 1. and rates.index(1.) in (9, 10) and all(r > 0 for r in rates)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


# What is looked at: early stop, averages, parts, other samplers; each resumed from every point

DEV = torch.randn(40, 4, generator=torch.Generator().manual_seed(9))
LENGTHS = np.random.default_rng(0).integers(1, 9, 50)
BASE = TrainConfig(steps=24, size=8, rate=3e-2, save_every=3, log_every=5, eval_every=4)
RUNS = {
    "stop": replace(BASE, patience=1, rate=.3, steps=60), "ema": replace(BASE, average="ema", patience=9), "last": replace(BASE, average="last", last=2),
    "less": replace(BASE, better="less"), "parts": replace(BASE, accumulate=3, schedule="cosine"),
    "groups": replace(BASE, rates=(("3.", 1e-3),), decay_all=False, schedule="constant", decay=.3, clip=0.),
}


def accuracy(model):
    """A score that draws from every generator, and says so if dropout is on."""
    assert not model.training and not torch.is_grad_enabled()
    torch.rand(1), np.random.rand(), random.random()
    return ((model(DEV)[:, 0] > 0) == (DEV.sum(1) > 0)).float().mean().item()


def run(name, folder=None, until=None, seed=1):
    net, loss = build(seed)
    log = train(net, loss, 50, RUNS[name], folder, until, accuracy, bucket(name))
    return bits(net), log


def bucket(name): return BucketSampler(LENGTHS, 8, 3, np.full(50, .7), pool=2) if name in ("stop", "parts") else None


@pytest.mark.parametrize("name", RUNS)
def test_every_stop_resumes_to_the_same_bits(tmp_path, name):
    whole = run(name)
    steps = whole[1][-1]["step"]
    assert steps < 60
    for stop in range(3, steps + 1):
        folder = tmp_path / str(stop)
        run(name, folder, until=stop)
        assert run(name, folder, seed=999) == whole, f"{name}: stopped after {stop}"
    assert run(name, folder, seed=999) == whole, "a finished run is only read"


def test_a_run_that_is_watched_takes_the_same_steps():
    net, loss = build(1)
    plain = train(net, loss, 50, replace(BASE, eval_every=0))
    watched = run("less")[1]
    at = {r["step"]: (r["loss"], r["rate"]) for r in watched}
    assert all(at[r["step"]] == (r["loss"], r["rate"]) for r in plain) and len(watched) > len(plain)


@pytest.mark.parametrize("better,pick", [("more", max), ("less", min)])
def test_the_best_weights_come_back_and_the_run_stops(better, pick):
    """The score is a script; the weights at each look are noted, so we know which ones must come back."""
    script, seen = iter([.5, .7, .6, .65, .1, .9, .2, .3]), []

    def score(model):
        seen.append((next(script), bits(model)))
        return seen[-1][0]
    net, loss = build(1)
    log = train(net, loss, 50, replace(BASE, steps=999, better=better, patience=2), evaluate=score)
    stop = dict(more=4, less=3)[better] # two looks after .7, two looks after .5
    assert [r["dev"] for r in log if "dev" in r] == [s for s, _ in seen] and len(seen) == stop
    assert log[-1]["step"] == 4 * stop and bits(net) == pick(seen, key=lambda x: x[0])[1]


def test_averages_against_a_second_hand():
    """The moving average and the mean of the last looks, computed again from the weights of every step."""
    net, loss = build(1)
    every, update = [], loop._update

    def noted(model, *a):
        out = update(model, *a)
        every.append([p.detach().double().clone() for p in model.parameters()])
        return out
    for average in ("ema", "last"):
        every.clear()
        net, loss = build(1)
        loop._update, first = noted, [p.detach().double().clone() for p in net.parameters()]
        try: train(net, loss, 50, replace(BASE, average=average, ema=.8, last=3))
        finally: loop._update = update
        if average == "last": want = [sum(ws) / 3 for ws in zip(*[every[i - 1] for i in (16, 20, 24)])]
        else:
            want = first
            for t, ws in enumerate(every, 1):
                stay = min(.8, t / (t + 9))
                want = [stay * m + (1 - stay) * w for m, w in zip(want, ws)]
        assert all(torch.allclose(p.double(), w, atol=1e-6) for p, w in zip(net.parameters(), want))
        assert not all(torch.allclose(p.double(), w, atol=1e-6) for p, w in zip(every[-1], want))


def test_seventy_ways_to_run_and_to_be_killed(tmp_path_factory):
    """Any configuration, any stop: the same bits and the same log."""
    @settings(max_examples=70, deadline=None, derandomize=True)
    @given(st.data())
    def check(data):
        draw = lambda *x: data.draw(st.sampled_from(x))
        every = draw(0, 1, 3, 4)
        c = TrainConfig(steps=data.draw(st.integers(1, 14)), size=draw(1, 3, 8), rate=draw(1e-3, .3), warmup=draw(0., .5), clip=draw(0., 1.),
                        save_every=draw(1, 2, 5), log_every=draw(1, 4), schedule=draw("linear", "cosine", "constant"), accumulate=draw(1, 2, 5),
                        rates=draw((), (("0.", 1e-3), ("3.", .1))), decay_all=draw(True, False), eval_every=every, better=draw("more", "less"),
                        patience=draw(0, 1, 2) if every else 0, average=draw("", "ema", "last") if every else draw("", "ema"), last=draw(1, 2))
        make = draw(lambda: None, lambda: BucketSampler(LENGTHS, c.size, 5, pool=2))

        def go(folder, until, seed=1):
            net, loss = build(seed)
            return train(net, loss, 50, c, folder, until, accuracy if every else None, make()), bits(net)
        folder, stop = tmp_path_factory.mktemp("any"), data.draw(st.integers(1, c.steps))
        go(folder, stop)
        assert go(folder, None, 999 if (folder / "checkpoint.safetensors").exists() else 1) == go(None, None)
    check()


# Parts, groups, schedules

@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 23), st.integers(1, 30))
def test_parts_add_up_to_the_gradient_of_the_batch(n, parts):
    """Against one backward pass over all rows, the parts even or not."""
    net, loss = build(1)
    net.eval()
    net[2].p = 0.
    rows = np.random.default_rng(n).permutation(50)[:n]
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))

    def plain(model, rows): return (model(x[rows])[:, 0] - 1).square().mean()
    net.zero_grad()
    value = loop._gradient(net, plain, rows, TrainConfig(accumulate=parts))
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    want = plain(net, rows)
    want.backward()
    assert abs(value - want.item()) < 1e-6
    assert all((g - p.grad).abs().max() < 1e-6 for g, p in zip(got, net.parameters()))


def test_groups_against_plain_adamw():
    """Two rates and no decay of vectors: the same steps as an optimizer set up by hand."""
    c = replace(BASE, rates=(("3.", 1e-3),), decay_all=False, decay=.3, schedule="constant", warmup=0., clip=0., eval_every=0, steps=7)
    net, loss = build(1)
    train(net, loss, 50, c)
    other, loss = build(1)
    opt = torch.optim.AdamW([
        dict(params=[other[0].weight], lr=3e-2, weight_decay=.3), dict(params=[other[0].bias], lr=3e-2, weight_decay=0.),
        dict(params=[other[3].weight], lr=1e-3, weight_decay=.3), dict(params=[other[3].bias], lr=1e-3, weight_decay=0.)])
    rows = Sampler(50, 8, 0)
    for _ in range(7):
        opt.zero_grad()
        loss(other, rows.next()).backward()
        opt.step()
    assert bits(net) == bits(other)


def test_the_schedules_share_their_rise():
    for schedule, last in (("linear", 1 / 90), ("cosine", 3.05e-4), ("constant", 1.)):
        c = TrainConfig(steps=100, warmup=.1, rate=1., schedule=schedule)
        rates = [rate_at(i, c) for i in range(100)]
        assert rates[:10] == pytest.approx([.1 * i for i in range(1, 11)])
        assert rates[-1] == pytest.approx(last, rel=1e-2) and rates[10:] == sorted(rates[10:], reverse=True)
        assert rate_at(50, c, 2.) == pytest.approx(2 * rates[50])


# A frozen body below a small head

def headed(seed, body=0):
    net, loss = build(seed)
    net[0].weight.data = torch.randn(16, 4, generator=torch.Generator().manual_seed(body))
    net[0].bias.data.zero_()
    net[0].requires_grad_(False)
    return net, loss


def test_a_frozen_body_stays_out_of_the_checkpoint(tmp_path):
    from safetensors import safe_open
    net, loss = headed(1)
    whole = train(net, loss, 50, CONFIG), bits(net)
    other, loss = headed(1)
    train(other, loss, 50, CONFIG, tmp_path, until=10)
    with safe_open(str(tmp_path / "checkpoint.safetensors"), "pt") as f: names = set(f.keys())
    assert {k for k in names if k.startswith("model.")} == {"model.3.weight", "model.3.bias"} == {f"model.{k}" for k in learned(net)}
    assert {k.split(".")[1] for k in names if k.startswith("opt.")} == {"0", "1"}
    resumed, loss = headed(999)
    assert (train(resumed, loss, 50, CONFIG, tmp_path), bits(resumed)) == whole


def test_another_body_is_refused(tmp_path):
    net, loss = headed(1)
    train(net, loss, 50, CONFIG, tmp_path, until=10)
    for other in (headed(1, body=5)[0], build(1)[0]):
        with pytest.raises(ValueError, match="another configuration"): train(other, loss, 50, CONFIG, tmp_path)
    with pytest.raises(ValueError, match="other trained weights"):
        load_weights(tmp_path / "checkpoint.safetensors", build(1)[0])


def test_nothing_to_train_is_said():
    net, loss = build(1)
    with pytest.raises(ValueError, match="nothing to train"): train(net.requires_grad_(False), loss, 50, CONFIG)
    with pytest.raises(ValueError, match="'hed'"): parameter_groups(build(1)[0], replace(CONFIG, rates=(("hed", 1.),)))


# Rows of like length

@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_buckets_take_a_row_at_most_once(n, size, pool, seed, thin):
    size = min(n, size)
    rng = np.random.default_rng(seed)
    weights = np.clip(rng.random(n) + .5, 0, 1) if thin else None
    if thin and weights.sum() < size: return
    lengths = rng.integers(1, 50, n)
    s = BucketSampler(lengths, size, seed, weights, pool)
    for _ in range(3):
        batches = [s.next()]
        while s.at < len(s.batches): batches.append(s.next())
        rows = np.concatenate(batches)
        assert len(set(rows)) == len(rows) and all(len(b) == size for b in batches)
        if not thin: assert len(rows) == n - n % size
        assert all((np.diff(lengths[b]) >= 0).all() for b in batches)
    for _ in range(3):
        s.next()
        other = BucketSampler(lengths, size, seed + 1, weights, pool)
        other.load(json.loads(json.dumps(s.state())))
        state = s.state()
        assert all((other.next() == s.next()).all() for _ in range(4))
        s.load(state)


def test_buckets_pad_less_and_miss_nobody():
    lengths = np.random.default_rng(0).integers(3, 60, 2000)
    waste = lambda s: 1 - np.mean([lengths[b].mean() / lengths[b].max() for b in (s.next() for _ in range(100))])
    assert waste(BucketSampler(lengths, 16, 0)) < waste(Sampler(2000, 16, 0)) / 5
    s, seen = BucketSampler(lengths, 16, 0, weights=np.full(2000, .3)), set()
    for _ in range(40): seen |= set(s.epoch().ravel())
    assert len(seen) == 2000
    order = [lengths[b].mean() for b in BucketSampler(lengths, 16, 0, pool=999).epoch()]
    assert abs(np.corrcoef(order, range(len(order)))[0, 1]) < .3, "short ones first"


def test_other_rows_are_another_run(tmp_path):
    for lengths, fine in ((LENGTHS, True), (LENGTHS[::-1], False)):
        net, loss = build(1)
        go = lambda until=None: train(net, loss, 50, CONFIG, tmp_path, until, sampler=BucketSampler(lengths, 8, 3))
        if fine: go(10)
        else:
            with pytest.raises(ValueError, match="another configuration"): go()


# Faults

def test_a_gradient_that_is_no_number_changes_nothing():
    """The loss is fine, its slope is not: a root at zero."""
    net, loss = build(1)
    before = bits(net)
    with pytest.raises(FloatingPointError, match="length of the gradient is (nan|inf) at step 1: lower the learning rate"):
        train(net, lambda m, r: loss(m, r) + (0 * m[3].bias).sum().sqrt(), 50, CONFIG)
    assert bits(net) == before


def test_a_score_that_is_no_number_is_said():
    net, loss = build(1)
    with pytest.raises(ValueError, match="gave nan"): train(net, loss, 50, BASE, evaluate=lambda m: float("nan"))


@pytest.mark.parametrize("wrong", [dict(patience=2), dict(average="last"), dict(evaluate=accuracy)])
def test_settings_that_do_nothing_are_refused(wrong):
    net, loss = build(1)
    evaluate = wrong.pop("evaluate", None)
    with pytest.raises(ValueError, match="eval"): train(net, loss, 50, replace(CONFIG, **wrong), evaluate=evaluate)


def test_a_truncated_checkpoint_is_refused_at_every_length(tmp_path):
    run("ema", tmp_path, until=9)
    path = tmp_path / "checkpoint.safetensors"
    blob = path.read_bytes()
    for n in [0, 5, 8, 50, len(blob) // 2, len(blob) - 1]:
        path.write_bytes(blob[:n])
        with pytest.raises(BadFile): run("ema", tmp_path)
    path.write_bytes(blob)
    assert run("ema", tmp_path) == run("ema")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch, call, fault):
    """At every step of the write; no half file stays, and the next try ends in the same bits."""
    run("ema", tmp_path, until=6)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def fails(*_): raise fault
    with monkeypatch.context() as m:
        m.setattr(os, call, fails)
        with pytest.raises(type(fault)) as e: run("ema", tmp_path)
    if isinstance(fault, OSError): assert "Make room and run the same command again" in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert run("ema", tmp_path, seed=999) == run("ema")


LOOP = """
import sys; sys.path.insert(0, {here!r})
import test_train as t, torch, os, time
torch.set_num_threads(1)
sync = os.fsync
def slow(fd):
    print('in a save', flush=True)
    time.sleep(.5)
    sync(fd)
os.fsync = slow
t.run({name!r}, {folder!r})
"""


@pytest.mark.parametrize("name,how", [("ema", signal.SIGINT), ("last", signal.SIGKILL)])
def test_killed_in_a_save(tmp_path, name, how):
    """A real process, stopped twice inside a save; then it is finished here."""
    code, path = LOOP.format(here=os.path.dirname(__file__), name=name, folder=str(tmp_path)), tmp_path / "checkpoint.safetensors"
    for sync in (3, 4): # of the second save: of the file, before it has its name; of the folder, after
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as p:
            assert [p.stdout.readline() for _ in range(sync)] == [b"in a save\n"] * sync
            p.send_signal(how)
        assert p.returncode != 0 and path.exists()
    assert run(name, tmp_path, seed=999) == run(name)


# Shorter products, and what one sees

def test_bfloat16_only_where_it_is_native(monkeypatch):
    net, loss = build(1)
    monkeypatch.setattr(loop, "native_bf16", lambda device: False)
    with pytest.raises(ValueError, match="only imitates bfloat16"): train(net, loss, 50, replace(CONFIG, dtype="bfloat16"))


@pytest.mark.skipif(not native_bf16(), reason="this processor has no bfloat16")
def test_bfloat16_is_for_the_products_only(tmp_path):
    """The weights stay in float32, the run is near the other one, and resumes to the same bits."""
    c = replace(CONFIG, dtype="bfloat16")
    net, loss = build(1)
    log = train(net, loss, 50, c)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    plain = train(*build(1), 50, CONFIG)
    assert log != plain and all(abs(a["loss"] - b["loss"]) < .05 for a, b in zip(log, plain))
    half, loss = build(1)
    train(half, loss, 50, c, tmp_path, until=10)
    other, loss = build(999)
    assert (train(other, loss, 50, c, tmp_path), bits(other)) == (log, bits(net))


class Screen:
    """Stands in for a running notebook."""
    version_info = (9, 0)
    def __init__(self): self.seen = []
    def get_ipython(self): return type("Shell", (), dict(kernel=1))()
    def display(self, pic, display_id=None): self.seen.append(pic.alt); return self
    def update(self, pic): self.seen.append(pic.alt)


def test_a_notebook_gets_a_curve_and_changes_nothing(straight, monkeypatch):
    screen, clock = Screen(), iter(range(0, 999, 1))
    monkeypatch.setitem(sys.modules, "IPython", screen)
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    monkeypatch.setattr(loop, "perf_counter", lambda: next(clock))
    net, loss = build(1)
    log = train(net, loss, 50, CONFIG)
    assert (bits(net), log) == straight and len(screen.seen) > 2
    assert f"{log[-1]['loss']:.3g}; 20 steps" in screen.seen[-1]


def test_outside_a_notebook_nothing_is_shown(capsys):
    """No IPython is imported, nothing is written when no terminal is there; with one, the bar says loss, rate and speed."""
    code = ("import sys; sys.path.insert(0, %r); import test_train as t; t.run('ema');"
            "assert 'IPython' not in sys.modules and 'matplotlib' not in sys.modules" % os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stderr


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    net, loss = build(1)
    train(net, loss, 50, CONFIG)
    said = capsys.readouterr().err
    assert all(x in said for x in ("20/20", "loss 0.", "rows/s", "rate "))
