"How sure a judge may be: nothing is measured where it was fitted, and the card says what was left out"
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonlab import stats
from reasonlab.core import LABELS
from reasonlab.nli import held_out
from reasonlab.nli.judge import confidence, crossfit, fit_temperature


def drawn(n, groups, seed=0, sure=3.0):
    "Logits that are `sure` times too sure, and labels"
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (n, 3))
    y = np.array([rng.choice(3, p=np.exp(v) / np.exp(v).sum()) for v in z])
    return sure * z, y, [f"g{i % groups}" for i in range(n)]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(0, 99))
def test_a_row_has_no_say_in_its_own_temperature(groups, seed):
    "Other labels in one group change nothing in that group or its half, and what changes is the other half"
    z, y, g = drawn(120, groups, seed)
    before, mine = crossfit(z, y, g), np.array([x == "g0" for x in g])
    after = crossfit(z, np.where(mine, (y + 1) % 3, y), g)
    same = (before == after).all(1)
    assert same[mine].all() and not same.all()
    assert {x for x, k in zip(g, same) if k}.isdisjoint(x for x, k in zip(g, same) if not k)  # whole groups


def test_it_is_the_temperature_of_the_other_half():
    z, y, g = drawn(400, 40)
    p, at = crossfit(z, y, g), np.array(g)
    for name in set(g):
        ratio = np.log(p[at == name])
        scale = [(z[i, 0] - z[i, 1]) / (r[0] - r[1]) for i, r in zip(np.flatnonzero(at == name), ratio)]
        assert np.allclose(scale, scale[0])  # one temperature for a group
    temperatures = {round(float((z[i, 0] - z[i, 1]) / (np.log(p[i, 0]) - np.log(p[i, 1]))), 3) for i in range(400)}
    assert len(temperatures) == 2 and all(2 < t < 4.5 for t in temperatures)


def test_in_sample_flatters():
    "Averaged over small dev parts: measured where it was fitted, the error is smaller"
    inside, apart = [], []
    for s in range(30):
        z, y, g = drawn(60, 20, s)
        t = fit_temperature(z, y)
        e = np.exp(z / t - (z / t).max(1, keepdims=True))
        loss = lambda p: -np.log(p[np.arange(60), y]).mean()
        inside.append(loss(e / e.sum(1, keepdims=True)))
        apart.append(loss(crossfit(z, y, g)))
    assert np.mean(inside) < np.mean(apart)


def test_dev_is_measured_both_ways():
    "From the probabilities of a judge and its temperature the logits come back: the numbers are those of the logits"
    torch = pytest.importorskip("torch")
    z, y, g = drawn(600, 90)
    dev = [dict(set="mnli", label=LABELS[k], group=x, premise="p", hypothesis=str(i)) for i, (k, x) in enumerate(zip(y, g))]
    other = [dict(set="help", label="neutral", group="h", premise="p", hypothesis="0")]
    probs = torch.softmax(torch.tensor(z) / 2, 1)
    judge = SimpleNamespace(temperature=2.0, results=lambda p, h, progress: SimpleNamespace(errors={}, probs=probs[list(map(int, h))]))
    got = held_out.on_dev(judge, SimpleNamespace(dev=dev))
    assert got["ece"] == round(float(stats.ece(*confidence(probs, y))), 4)
    assert got["ece_crossfit"] == pytest.approx(float(stats.ece(*confidence(crossfit(z, y, g), y))), abs=2e-3) and got["rows"] == 600
    assert held_out.on_dev(judge, SimpleNamespace(dev=dev + other))["rows"] == 600  # told of SNLI and MultiNLI


@pytest.mark.parametrize("stored", ["about", "table", "neither"])
def test_the_card_says_what_was_left_out_and_where_it_was_measured(stored):
    line = dict(set="snli", about="", n=90, groups=40, left_out=55, labels=3, majority=.4, accuracy=[.8, .7, .9], without_premise=.5, ece=.031)
    about = dict(encoder="an encoder", kind="lora", pairs=10, temperature=2., dev_ece=.044, recipe=dict(rank=4, most=77, weights=[["snli", 1.]]))
    table = dict(lines=[line])
    if stored == "about": about |= dict(dev_ece_crossfit=.051)
    if stored == "table": table |= dict(dev=dict(rows=9, groups=5, ece=.045, ece_crossfit=.052))
    text = held_out.card(about, table)
    assert "Pairs of more than 77 tokens were left out of" in text and "| 0.031 | 55 |" in text and "snli 0.031" in text
    assert ("0.045" if stored == "table" else "0.044") + " in sample" in text
    assert dict(about="0.051", table="0.052", neither="cut")[stored] in text and ("Cross-fitted" in text) == (stored != "neither")
    assert "`mpe` and\n`crowd_wiki` are not measured" in text
