"""Probes: planted truths, invariances, independent implementations, and the ways in which a probe fools its reader"""
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from reasonlab import stats
from reasonlab.unlearning import probes as p

RNG = np.random.default_rng


def world(seed, n=400, d=24, per=4, signal=3.):
    "States with a planted direction, labels, entities"
    rng = RNG(seed)
    y, axis = rng.integers(0, 2, n), rng.normal(size=d)
    return rng.normal(size=(n, d)) + signal * np.outer(y - .5, axis / np.linalg.norm(axis)), y, np.arange(n) // per


def words(seed, n=400, d=24, e=10, per=4, vocab=30, noise=.4, k=(2, 4)):
    "States that hold the right word, its options with embeddings, its place, entities"
    rng = RNG(seed)
    E, group = rng.normal(size=(vocab, e)), np.arange(n) // per
    fact = rng.integers(0, vocab, group.max() + 1)[group]
    x = E[fact] @ rng.normal(size=(e, d)) / e**.5 + noise * rng.normal(size=(n, d))
    options, gold = [], []
    for f in fact:
        o = rng.permutation([f, *rng.choice(np.delete(np.arange(vocab), f), rng.integers(k[0], k[1] + 1) - 1, replace=False)])
        options.append(E[o])
        gold.append(int(np.flatnonzero(o == f)[0]))
    return x, options, np.array(gold), group


# ---- splits

@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 2**32 - 1))
def test_no_group_is_on_two_sides(groups, seed):
    if len(set(groups)) < 5:
        with pytest.raises(ValueError, match="five or more"): p.split_groups(groups, RNG(seed))
        return
    parts = p.split_groups(groups, RNG(seed))
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    names = [set(np.array(groups)[k]) for k in parts]
    assert all(names) and not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    again = p.split_groups([f"name {g:02}" for g in groups], RNG(seed))  # names do not matter
    assert all((a == b).all() for a, b in zip(parts, again))


@pytest.mark.parametrize("pair,what", [((0, 2), "fitted and tested"), ((0, 1), "fitted and tuned"), ((1, 2), "tuned and tested")])
def test_one_leaking_group_is_found(pair, what):
    x, y, g = world(0)
    parts = [list(q) for q in p.split_groups(g, RNG(0))]
    parts[pair[1]].append(parts[pair[0]].pop())  # one row of a group goes astray
    with pytest.raises(ValueError, match=f"group .* is both {what}"): p.linear_probe(x, y, g, RNG(0), parts)
    with pytest.raises(ValueError, match=f"group .* is both {what}"): p.probe_layers([x], y, g, RNG(0), parts=parts)


# ---- linear

@pytest.mark.parametrize("signal,low,high", [(0, .3, .7), (2, .7, .95), (6, .97, 1)])
def test_a_planted_direction_is_read_as_well_as_it_can_be(signal, low, high):
    read = np.mean([p.linear_probe(*world(s, signal=signal), RNG(s)).accuracy.estimate for s in range(4)])
    assert low <= read <= high


def test_against_scikit_learn():
    x, y, g = world(1, signal=2)
    parts = fit, tune, test = p.split_groups(g, RNG(1))
    got, scale = p.linear_probe(x, y, g, RNG(0), parts), StandardScaler().fit(x[fit])
    models = {s: LogisticRegression(C=1 / s, max_iter=5000).fit(scale.transform(x[fit]), y[fit]) for s in p.STRENGTHS}
    best = max(p.STRENGTHS, key=lambda s: (models[s].score(scale.transform(x[tune]), y[tune]), s))
    assert got.strength == best and got.accuracy.estimate == pytest.approx(models[best].score(scale.transform(x[test]), y[test]))
    assert (got.rows == test).all() and got.chance == max(y[test].mean(), 1 - y[test].mean())


def test_units_names_and_repeats_do_not_matter():
    x, y, g = world(2, signal=2)
    a = p.linear_probe(x, y, g, RNG(0))
    rng = RNG(9)
    b = p.linear_probe(x * rng.uniform(.01, 100, x.shape[1]) + rng.normal(size=x.shape[1]), y, g, RNG(0))
    c = p.linear_probe(np.pad(x, ((0, 0), (0, 3)), constant_values=7.), np.where(y, "yes", "no"), g, RNG(0))  # dead units
    assert a.accuracy == p.linear_probe(x, y, g, RNG(0)).accuracy == c.accuracy and a.accuracy.estimate == pytest.approx(b.accuracy.estimate, abs=.01)


def test_many_classes():
    rng = RNG(3)
    y = rng.integers(0, 5, 500)
    read = p.linear_probe(rng.normal(size=(500, 20)) + 4 * np.eye(20)[y], np.array(list("abcde"))[y], np.arange(500) // 5, rng)
    assert read.accuracy.estimate > .9 and read.chance < .35


def test_rows_of_their_own_get_wilsons_interval():
    x, y, _ = world(4, signal=1)
    a = p.linear_probe(x, y, np.arange(400), RNG(0)).accuracy
    w = stats.wilson(round(a.estimate * a.n), a.n)
    assert (a.low, a.high) == pytest.approx((w.low, w.high))


def test_siblings_do_not_narrow_the_interval():
    "Ten copies of each entity: as uncertain as one, and the truth is inside as often as promised"
    inside, wide = 0, 0
    for s in range(40):
        rng = RNG(s)
        x, y = np.repeat(rng.normal(size=(60, 8)), 10, 0), np.repeat(rng.integers(0, 2, 60), 10)
        a = p.linear_probe(x, y, np.arange(600) // 10, rng).accuracy
        w = stats.wilson(round(a.estimate * a.n), a.n)
        inside, wide = inside + (.5 in a), wide + (a.high - a.low > 2 * (w.high - w.low))
    assert inside >= 36 and wide >= 38


def test_perfect_probes_choose_the_strongest_penalty_and_keep_some_doubt():
    x, y, g = world(1, signal=60)
    y = y[g * 4]  # a label for each entity
    a = p.linear_probe(x + 60 * y[:, None], y, g, RNG(0))
    assert a.accuracy.estimate == 1 and a.strength == max(p.STRENGTHS) and a.accuracy.low == pytest.approx(stats.wilson(30, 30).low)


def test_no_warning_escapes():
    rng = RNG(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p.linear_probe(rng.normal(size=(100, 300)), rng.integers(0, 2, 100), np.arange(100), rng, strengths=(1e-9,))


@pytest.mark.parametrize("change,why", [
    (dict(states=np.zeros((400, 2, 2))), "shape"), (dict(states=np.zeros((3, 2))), "400 groups"), (dict(labels=["yes"] * 400), "all labels are 'yes'"),
    (dict(labels=[1, 2]), "2 labels for 400"), (dict(groups=np.arange(400) % 4), "4 groups"), (dict(parts=[[0], [4], []]), "no rows to test"),
    (dict(parts=[[0], [4], [400]]), "rows to test: each once"), (dict(parts=[[0], [4], [8]]), "one label only"), (dict(states=np.full((400, 2), np.inf)), "row 0: a state")])
def test_bad_input_is_refused(change, why):
    x, y, g = world(0)
    with pytest.raises(ValueError, match=why): p.linear_probe(**(dict(states=x, labels=y, groups=g, rng=RNG(0)) | change))


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="0 groups"): p.linear_probe(np.zeros((0, 3)), [], [], RNG(0))
    with pytest.raises(ValueError, match="0 groups"): p.bilinear_probe(np.zeros((0, 3)), [], [], [], RNG(0))


# ---- bilinear

@pytest.mark.parametrize("seed", range(3))
def test_the_word_is_found_and_the_slot_is_not(seed):
    x, options, gold, g = words(seed, k=(2, 2))
    word, slot = p.bilinear_probe(x, options, gold, g, RNG(seed)), p.linear_probe(x, gold, g, RNG(seed))
    assert word.accuracy.low > .8 and word.chance == .5 and .38 < slot.accuracy.estimate < .62


def test_ridge_is_scikit_learns():
    x, options, gold, g = words(5)
    parts = fit, _, test = p.split_groups(g, RNG(5))
    k = .1
    got = p.bilinear_probe(x, options, gold, g, RNG(0), parts, strengths=(k,))
    h, e = StandardScaler().fit(x[fit]).transform(x), p._whitened(options, fit, 32)
    m = Ridge(alpha=k * len(fit), fit_intercept=False).fit(h[fit], np.stack([e[i][gold[i]] for i in fit]))
    right = [np.argmax(e[i] @ m.predict(h[i:i + 1])[0]) == gold[i] for i in test]
    assert (got.right == right).all() and got.strength == k


def test_order_of_options_and_coordinates_of_embeddings_do_not_matter():
    x, options, gold, g = words(6, noise=1.5)
    a = p.bilinear_probe(x, options, gold, g, RNG(0))
    rng = RNG(1)
    orders = [rng.permutation(len(o)) for o in options]
    b = p.bilinear_probe(x, [o[q] for o, q in zip(options, orders)], [int(np.flatnonzero(q == k)[0]) for q, k in zip(orders, gold)], g, RNG(0))
    turn, move = rng.normal(size=(10, 10)), 100 * rng.normal(size=10)
    c = p.bilinear_probe(x, [o @ turn + move for o in options], gold, g, RNG(0))
    assert (a.right == b.right).all() and (a.right == c.right).all() and a.strength == b.strength == c.strength


def test_it_cannot_prefer_words():
    "The right word is always of one kind: a probe without the state would be perfect, this one knows nothing"
    rng = RNG(0)
    E, n = rng.normal(size=(20, 6)), 400
    kind = np.stack([E[rng.integers(0, 10, n)], E[rng.integers(10, 20, n)]], 1)
    read = p.bilinear_probe(rng.normal(size=(n, 30)), kind, np.zeros(n, int), np.arange(n), rng)
    assert read.accuracy.estimate < .7


def test_one_hot_words_and_yes_no_are_options_too():
    rng = RNG(0)
    y, g = rng.integers(0, 2, 300), np.arange(300) // 3
    x = rng.normal(size=(300, 12)) + 3 * np.outer(y - .5, np.ones(12))
    order = rng.integers(0, 2, 300)
    both = [np.eye(2)[[a, 1 - a]] for a in order]
    assert p.bilinear_probe(x, both, (y != order).astype(int), g, rng).accuracy.estimate > .97


@pytest.mark.parametrize("change,why", [
    (dict(answers=np.full(400, 9)), "item 0: answer 9"), (dict(answers=[0]), "1 answers"), (dict(options=[np.ones((1, 10))] * 400), "item 0: 1 option"),
    (dict(options=[np.ones((2, 10))] * 400), "twice"), (dict(options=[np.eye(10)] * 399 + [np.eye(9)]), "item 399"), (dict(rank=0), "rank is 1 or more")])
def test_bad_options_are_refused(change, why):
    x, options, gold, g = words(0)
    with pytest.raises(ValueError, match=why): p.bilinear_probe(**(dict(states=x, options=options, answers=gold, groups=g, rng=RNG(0)) | change))


# ---- controls

def test_controls_are_fixed_by_type_and_even():
    g = np.repeat(np.arange(30), 3)
    c = p.control_labels(g, ["a", "b", "c"] * 30, RNG(0))
    assert all(len(set(c[g == k])) == 1 for k in range(30)) and [list(c[::3]).count(k) for k in "abc"] == [10] * 3
    a = p.control_answers(g, [np.eye(5)] * 90, RNG(0))
    assert all(len(set(a[g == k])) == 1 for k in range(30)) and len(set(a)) == 5


def test_control_answers_do_not_depend_on_the_order():
    rng = RNG(0)
    o, t = rng.normal(size=(50, 3, 4)), np.arange(50) % 5
    a, b = p.control_answers(t, o, RNG(1)), p.control_answers(t, o[:, ::-1], RNG(1))
    assert (a == 2 - b).all()


def test_a_memorising_probe_has_no_selectivity():
    rng = RNG(0)
    g = np.arange(400) // 5
    x = rng.normal(size=(80, 120))[g] + .1 * rng.normal(size=(400, 120))
    y = rng.integers(0, 2, 80)[g]
    careless = p.selectivity(x, y, np.arange(400), RNG(0), types=g)
    assert careless.probe.accuracy.low > .9 and abs(careless.selectivity) < .05 and careless.shuffled < .65
    careful = p.selectivity(x, y, g, RNG(0))
    assert .5 in careful.probe.accuracy


def test_a_memorising_bilinear_probe_has_no_selectivity():
    rng = RNG(1)
    g, E = np.arange(1200) // 40, rng.normal(size=(40, 3))
    x = rng.normal(size=(30, 60))[g] + .1 * rng.normal(size=(1200, 60))
    options = [E[rng.choice(40, 2, replace=False)] for _ in range(1200)]
    gold = p.control_answers(g, options, rng)
    careless = p.selectivity(x, gold, np.arange(1200), RNG(0), options=options, types=g)
    careful = p.selectivity(x, gold, g, RNG(0), options=options)
    assert careless.probe.accuracy.low > .7 and abs(careless.selectivity) < .1 and careful.probe.accuracy.low < .5


def test_an_untrained_model_that_does_as_well_is_shown():
    "The answer is a word of the prompt: any embedding carries it, trained or not"
    x, y, g = world(7)
    rng = RNG(7)
    s = p.selectivity(x, y, g, RNG(0), untrained=np.eye(2)[y] @ rng.normal(size=(2, 24)) + .1 * rng.normal(size=(400, 24)))
    assert s.untrained > .95 and s.untrained > s.probe.accuracy.estimate - .05


def test_few_types_never_stop_a_control():
    "With five groups the rows to fit may all have one control label"
    x, y, _ = world(8)
    for s in range(10): p.selectivity(x, y, np.arange(400) % 5, RNG(s))


def test_layers_share_their_rows():
    x, y, g = world(9)
    noise = RNG(0).normal(size=x.shape)
    rows = p.probe_layers({"embeddings": noise, 6: x, 12: x}, y, g, RNG(0), untrained={"embeddings": noise, 6: noise, 12: noise})
    assert [r["layer"] for r in rows] == ["embeddings", 6, 12] and {**rows[1], "layer": 12} == rows[2]
    assert rows[0]["high"] < rows[1]["low"] and rows[0]["untrained"] == rows[0]["accuracy"] and rows[1]["selectivity"] == rows[1]["accuracy"] - rows[1]["control"]
    assert len({r["n"] for r in rows}) == 1 and p.probe_layers(np.stack([x]), y, g, RNG(0))[0]["layer"] == 0
    with pytest.raises(ValueError, match="give the same"): p.probe_layers([x], y, g, RNG(0), untrained=[x, x])
    with pytest.raises(ValueError, match="no layers"): p.probe_layers({}, y, g, RNG(0))
