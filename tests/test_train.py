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

from reasonlab.models import train as loop  # noqa: E402
from reasonlab.models.train import (BucketSampler, Sampler, TrainConfig, load_checkpoint, rate_at,  # noqa: E402
                                    save_checkpoint, train)

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
    stop = 4 if better == "more" else 3 if [.5, .7, .6][1:] > [.5, .5] else 0
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
