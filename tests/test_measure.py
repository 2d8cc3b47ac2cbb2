"""Measures of forgetting: invariances, independent implementations, planted faces of chance, intervals that hold what they promise"""
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from sklearn.metrics import balanced_accuracy_score, recall_score

from reasonlab.unlearning import measure as m

RNG = np.random.default_rng
score = st.floats(-50, 50, allow_nan=False).map(lambda x: round(x, 3))
items = st.lists(st.lists(score, min_size=2, max_size=5), min_size=1, max_size=12)


# ---- scores

@given(items, st.floats(-100, 100))
def test_scores_are_known_up_to_a_constant(scores, shift):
    moved = [np.array(s) + shift for s in scores]
    assert np.allclose(m.confidence(scores), m.confidence(moved)) and np.allclose(m.answer_entropy(scores), m.answer_entropy(moved), atol=1e-6)


@given(items, st.randoms())
def test_the_order_of_options_does_not_matter(scores, random):
    orders = [random.sample(range(len(s)), len(s)) for s in scores]
    mixed = [[s[k] for k in o] for s, o in zip(scores, orders)]
    assert np.allclose(m.confidence(scores), m.confidence(mixed)) and np.allclose(m.answer_entropy(scores), m.answer_entropy(mixed))
    gold = [random.randrange(len(s)) for s in scores]
    assert np.allclose(m.hits(scores, gold), m.hits(mixed, [o.index(g) for o, g in zip(orders, gold)]))


@given(items)
def test_against_scipy(scores):
    for s, c, e, best in zip(scores, m.confidence(scores), m.answer_entropy(scores), m.predictions(scores)):
        p = np.exp(sps.rankdata(s) * 0 + np.array(s) - max(s))
        p /= p.sum()
        assert c == pytest.approx(p.max()) and e == pytest.approx(sps.entropy(p) / np.log(len(s)), abs=1e-9) and s[best] == max(s)
        assert 1 / len(s) - 1e-12 <= c <= 1 and 0 <= e <= 1 + 1e-12


@given(items)
def test_hits_of_all_options_are_one(scores):
    "Whatever the ties, the options of an item share one point"
    widest = max(map(len, scores))
    total = sum(np.array([m.hits([s], [k])[0] if k < len(s) else 0 for s in scores]) for k in range(widest))
    assert np.allclose(total, 1)


def test_extreme_scores_stay_finite():
    s = [[-1e300, 0., 1e300], [1e-300, 0.]]
    assert np.isfinite(m.confidence(s)).all() and np.isfinite(m.answer_entropy(s)).all() and m.answer_entropy(s)[0] == 0


@pytest.mark.parametrize("seed", range(3))
def test_recalls_against_sklearn(seed):
    rng, words = RNG(seed), np.array(["no", "perhaps", "yes"])
    labels = [list(rng.permutation(words)) for _ in range(300)]
    scores, gold = list(rng.normal(size=(300, 3))), rng.integers(0, 3, 300)
    truth, said = ([w[k] for w, k in zip(labels, x)] for x in (gold, m.predictions(scores)))
    assert list(m.recalls(scores, gold, labels).values()) == pytest.approx(recall_score(truth, said, average=None))
    assert m.balanced_accuracy(scores, gold, labels) == pytest.approx(balanced_accuracy_score(truth, said))


BAD = dict(one_option=([[1.], [1., 2.]], [0, 0], "item 0: 1 option"), no_options=([[1., 2.], []], [0, 0], "item 1: 0 option"), empty=([], [], "no items"),
           nan=([[1., np.nan]], [0], "option 1 scores nan"), infinite=([[np.inf, 1.]], [0], "scores inf"), minus=([[1., -np.inf]], [0], "scores -inf"),
           gold_high=([[1., 2.]], [2], "item 0: answer 2 of 2"), gold_low=([[1., 2.]], [-1], "answer -1"), no_gold=([[1., 2.]], [], "0 answers for 1"),
           halves=([[1., 2.]], [.5], "whole numbers"), truth_values=([[1., 2.]], [True], "whole numbers"))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("f", [m.hits, m.accuracy, m.recalls, m.balanced_accuracy, m.collapse])
def test_bad_items_are_named(name, f):
    scores, gold, why = BAD[name]
    with pytest.raises(ValueError, match=why): f(scores, gold)


# ---- chance, gap, ratio

@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
@settings(deadline=None, max_examples=50)
def test_a_guesser_and_a_parrot_reach_chance(seed, n):
    rng = RNG(seed)
    counts = rng.integers(2, 6, n)
    gold = np.array([rng.integers(k) for k in counts])
    c = m.chance(gold, counts, positions=True)
    assert c.uniform == pytest.approx(np.mean([1 / k for k in counts])) and c.majority == np.bincount(gold).max() / n
    parrot = [np.arange(k) == c.commonest for k in counts if k > c.commonest]
    assert m.accuracy(parrot, gold[counts > c.commonest]) * len(parrot) == pytest.approx(c.majority * n)
    assert c.rate in (c.uniform, c.majority) and c.rate >= c.uniform - 1e-12


def test_luck_is_rarely_called_a_skew():
    rng = RNG(0)
    called = sum(m.chance(rng.integers(0, 2, n), [2] * n, positions=True).skewed for n in (20, 100, 500) for _ in range(300))
    assert called / 900 <= .06


def test_all_labels_equal_leave_no_ratio():
    c = m.chance([1] * 30, [2] * 30, [["no", "yes"]] * 30)
    assert c.skewed and c.rate == 1. and np.isnan(m.forget_ratio(1., .5, c.rate))


share = st.floats(0, 1)


@given(share, share, st.floats(0, .9))
def test_the_ratio_is_finite_or_nan(before, after, chance):
    r = m.forget_ratio(before, after, chance)
    assert np.isnan(r) == (before <= chance + .05 + 1e-9)
    if not np.isnan(r): assert np.isfinite(r) and r == pytest.approx(m.forget_gap(before, after) / (before - chance)) and (r > 0) == (before > after)


def test_a_mixture_of_kept_and_guessed_items():
    "A share r of the known items is forgotten and guessed at: the ratio is r"
    for r, c, known in product((0, .3, 1), (.25, .5), (.4, 1)):
        before = known + (1 - known) * c
        after = known * (1 - r) + (1 - known * (1 - r)) * c
        assert m.forget_ratio(before, after, c) == pytest.approx(r)


# ---- collapse

def scores_of(index, k, sure, rng): return [sure * (np.arange(k) == i) + rng.normal(0, .05, k) for i in index]


@pytest.mark.parametrize("k,n,seed", [*product((2, 4), (150, 600), range(3))])
def test_planted_faces(k, n, seed):
    rng = RNG([k, n, seed])
    gold, drawn, luck = rng.integers(0, k, (3, n))
    words = [list("abcd"[:k])] * n
    mostly = np.where(rng.random(n) < .9, 1, luck)
    half = np.where(rng.random(n) < .5, gold, luck)
    planted = dict(able=[(gold, 5), (half, 5), (gold, .3)], uniform=[(gold * 0, 0)], constant=[(gold * 0 + 1, 5), (mostly, 5)], memorised=[(drawn, 5)])
    for face, cases in planted.items():
        for index, sure in cases:
            assert m.collapse(scores_of(index, k, sure, rng), gold, words, drawn).verdict == face, (face, sure)


def test_noise_is_seldom_called_something_else():
    rng, said = RNG(5), []
    for _ in range(200):
        gold, luck, drawn = rng.integers(0, 2, (3, 200))
        said.append(m.collapse(scores_of(luck, 2, 5, rng), gold, drawn=drawn).verdict)
    assert said.count("noise") >= 180 and said.count("constant") <= 4 and said.count("able") <= 10 and said.count("memorised") <= 10


@pytest.mark.parametrize("n", [4, 10, 30])
@pytest.mark.parametrize("rate", [.5, .85])
def test_small_sets_raise_no_false_alarm(n, rate):
    "An honest model, and one that guesses with the true frequencies, are not called constant"
    rng = RNG([n, int(100 * rate)])
    for _ in range(100):
        gold, guess = (rng.random((2, n)) < rate).astype(int)
        verdicts = [m.collapse(scores_of(x, 2, 5, rng), gold, [["no", "yes"]] * n) for x in (gold, guess)]
        assert verdicts[0].p > .01 and verdicts[0].verdict in ("able", "unclear")
        assert verdicts[1].verdict != "constant" or verdicts[1].p < .01


def test_a_favourite_is_measured_against_what_is_right():
    "Where 60 % is yes, 78 % is less than half of the way to always; and a lean in a spread belief is no confident answer"
    rng, words = RNG(3), [["no", "yes"]] * 1000
    gold, guess = rng.permutation(np.arange(1000) < 600) * 1, rng.permutation(np.arange(1000) < 780) * 1
    c = m.collapse(scores_of(guess, 2, 5, rng), gold, words)
    assert c.p < .01 and (c.commonest, c.share, c.gold_share, c.verdict) == ("yes", .78, .6, "noise")
    assert m.collapse(scores_of(gold * 0 + 1, 2, .2, rng), rng.integers(0, 2, 1000), words).verdict == "uniform"


def test_the_favourite_is_a_word_and_not_a_place():
    rng = RNG(0)
    labels = [list(rng.permutation(["yes", "no"])) for _ in range(200)]
    gold = rng.integers(0, 2, 200)
    yes = [w.index("yes") for w in labels]
    assert m.collapse(scores_of(yes, 2, 5, rng), gold, labels).verdict == "constant"
    assert m.collapse(scores_of(yes, 2, 5, rng), gold).verdict == "noise"  # by position nothing shows


# ---- intervals

def test_order_and_names_of_items_do_not_matter():
    rng = RNG(1)
    g, b, a = np.repeat(np.arange(30), 4), (rng.random(120) < .9) * 1., (rng.random(120) < .6) * 1.
    i = m.ratio_interval(b, a, g, RNG(2), .5)
    names = np.array([f"g{k:03}" for k in g])
    assert i == m.ratio_interval(b, a, names, RNG(2), np.full(120, .5))
    o = rng.permutation(120)
    j = m.ratio_interval(b[o], a[o], g[o], RNG(2), .5)
    assert (i.estimate, i.low, i.high) == pytest.approx((j.estimate, j.low, j.high))


def test_floors_travel_with_their_items():
    "Items of two and of four options: the chance of a resample is that of its own items"
    k = np.repeat([2, 4], 100)
    i = m.ratio_interval(np.ones(200), 1. / k, np.arange(200) // 10, RNG(0), 1. / k)
    assert i.estimate == pytest.approx(1) and i.low == pytest.approx(1, abs=.35) and i.undefined == 0


@pytest.mark.parametrize("G", [6, 20])
def test_the_interval_holds_what_it_promises(G):
    rng, inside, n = RNG(G), 0, 200
    g = np.repeat(np.arange(G), 10)
    for _ in range(n):
        b, a = (rng.normal(.88, .03, G))[g], rng.normal(.7, .08, G)[g]
        i = m.ratio_interval(rng.random(10 * G) < b, rng.random(10 * G) < a, g, rng, .5, n_resamples=400)
        inside += i.low <= .18 / .38 <= i.high
    assert inside / n >= .90


def test_few_groups_and_bad_hits_are_refused():
    x = np.ones(8)
    with pytest.raises(ValueError, match="4 groups are too few"): m.ratio_interval(x, x, [0, 1, 2, 3] * 2, RNG(0), .5)
    with pytest.raises(ValueError, match="from 0 to 1"): m.ratio_interval(x * 2, x, range(8), RNG(0), .5)
    with pytest.raises(ValueError, match="nan"): m.ratio_interval(x, [*x[1:], np.nan], range(8), RNG(0), .5)


# ---- Spearman

values = st.lists(st.integers(0, 6), min_size=6, max_size=15)


@settings(deadline=None, max_examples=60)
@given(values, st.integers(0, 2**32 - 1))
def test_weighted_ranks_are_ranks_of_repeated_tasks(x, seed):
    rng = RNG(seed)
    x, y = np.array(x, float), rng.integers(0, 5, len(x)) * 1.
    w = rng.integers(0, 4, (5, len(x)))
    got = m._rank_correlation(x, y)(w * 1.)
    for row, rho in zip(w, got):
        u, v = np.repeat(x, row), np.repeat(y, row)
        if len(u) < 2 or np.ptp(u) == 0 or np.ptp(v) == 0: assert np.isnan(rho)
        else: assert rho == pytest.approx(sps.spearmanr(u, v).statistic)


@pytest.mark.parametrize("seed", range(4))
def test_small_p_is_scipys_exact_p(seed):
    x, y = RNG(seed).normal(size=(2, 6)).round(1)
    exact = sps.permutation_test((x,), lambda v: sps.spearmanr(v, y).statistic, permutation_type="pairings", n_resamples=np.inf)
    assert m.spearman(x, y, RNG(0)).p == pytest.approx(exact.pvalue)


def test_p_is_uniform_without_a_relation():
    p = [m.spearman(*RNG(s).normal(size=(2, 12)), RNG(s), n_resamples=10).p for s in range(300)]
    assert .02 <= np.mean(np.array(p) < .05) <= .09 and .4 < np.mean(p) < .6


def test_families_are_not_counted_as_tasks():
    rng, wrong, right = RNG(0), 0, 0
    for s in range(100):
        x, y = (np.repeat(rng.normal(size=6), 5) + rng.normal(0, .1, 30) for _ in range(2))
        wrong += m.spearman(x, y, RNG(s), n_resamples=10).p < .05
        right += m.spearman(x, y, RNG(s), np.repeat(np.arange(6), 5), n_resamples=10).p < .05
    assert right <= 12 < 25 < wrong


def test_monotone_maps_change_nothing_and_a_flip_the_sign():
    x, y = RNG(3).normal(size=(2, 15))
    a, b, c = m.spearman(x, y, RNG(0)), m.spearman(np.exp(x), y**3, RNG(0)), m.spearman(-x, y, RNG(0))
    assert a == b and (c.rho, c.low, c.high) == pytest.approx((-a.rho, -a.high, -a.low)) and c.p == a.p


def test_p_is_never_zero_and_families_enter_by_their_mean():
    assert m.spearman(range(20), range(20), RNG(0), n_resamples=10).p == 1 / 5000
    rng, sizes = RNG(0), np.array([1, 2, 3, 5, 8, 13])
    g = np.repeat(np.arange(6), sizes)
    x, y = rng.normal(5, 1, (2, 32))
    u, v = (np.array([z[g == k].mean() for k in range(6)]) for z in (x, y))
    assert m.spearman(x, y, rng, g).p == pytest.approx(m.spearman(u, v, rng).p)


@pytest.mark.parametrize("n", range(5))
def test_fewer_than_five_tasks_are_refused(n):
    with pytest.raises(ValueError, match=f"{n} tasks: five or more"): m.spearman(range(n), range(n), RNG(0))


# ---- relearning

@given(st.lists(st.floats(.5, 1), min_size=2, max_size=8), st.floats(.1, 1))
def test_relearning_is_numpys_interpolation_on_the_way_up(a, part):
    a = sorted({.5, *(round(v, 3) for v in a)})
    if len(a) < 2: return
    t = np.arange(len(a)) * 10.
    got = m.relearning_speed(list(zip(t, a)), a[-1], part)
    assert got.reached and got.updates == pytest.approx(np.interp(got.target, a, t)) and got.target == pytest.approx(a[0] + part * (a[-1] - a[0]))


def test_relearning_never_answers_infinity():
    for before, curve in ((1., [(0, .5), (9, .5)]), (.5, [(0, .5), (9, 1.)]), (.4, [(0, .5), (9, .5)])):
        r = m.relearning_speed(curve, before)
        assert np.isnan(r.updates) and not r.reached and r.note


# ---- two factors

def table(rng, cells, seeds=3, spread=.1):
    "Rows with `cells[space][kind]` families in each cell"
    return [dict(family=f"{k}{f}", seed=s, space=a, kind=k, ratio=.3 * (a == "yes/no") + .1 * (k == "judgement") + rng.normal(0, spread))
            for (a, k), n in cells.items() for f in range(n) for s in range(seeds)]


def coded(rows):
    a, b = (np.array([2. * v.index(r[n]) - 1 for r in rows]) for v, n in ((m.SPACES, "space"), (m.KINDS, "kind")))
    return np.stack([np.ones(len(a)), a, b, a * b], 1), np.array([r["ratio"] for r in rows])


@pytest.mark.parametrize("sizes", [(4, 4, 4, 4), (2, 3, 5, 7)])
def test_crossing_is_weighted_least_squares(sizes):
    rows = table(RNG(sum(sizes)), dict(zip(product(m.SPACES, m.KINDS), sizes)))
    X, y = coded(rows)
    n = np.array([sum(r["space"] == q["space"] and r["kind"] == q["kind"] for q in rows) for r in rows])
    w = 1 / (4 * n)  # every cell counts the same
    beta = np.linalg.lstsq(X * np.sqrt(w)[:, None], y * np.sqrt(w), rcond=None)[0]
    total, rest = w @ (y - w @ y)**2, w @ (y - X @ beta)**2
    found = m.crossing(rows, RNG(0), n_resamples=200)
    assert [found.effects[k].estimate for k in m.EFFECTS[:3]] == pytest.approx(beta[1:] * [2, 2, 4])
    assert [v.estimate for v in found.shares.values()] == pytest.approx([*beta[1:]**2 / total, rest / total])
    assert all(v.low - 1e-9 <= v.estimate <= v.high + 1e-9 for v in found.effects.values())


def test_equal_cells_give_the_ordinary_f_test():
    "Sums of squares of a balanced table by the textbook's marginal means"
    rows = table(RNG(0), dict.fromkeys(product(m.SPACES, m.KINDS), 5))
    y = np.array([r["ratio"] for r in rows]).reshape(2, 2, -1)
    grand, n = y.mean(), y.shape[2]
    ss = [2 * n * ((y.mean((1, 2)) - grand)**2).sum(), 2 * n * ((y.mean((0, 2)) - grand)**2).sum()]
    ss += [n * ((y.mean(2) - grand)**2).sum() - sum(ss), ((y - y.mean(2, keepdims=True))**2).sum()]
    got = [v.estimate for v in m.crossing(rows, RNG(0), n_resamples=100).shares.values()]
    assert got == pytest.approx(np.array(ss) / ((y - grand)**2).sum())


def test_effects_are_covered_over_families_and_seeds():
    "Family and seed effects are planted; intervals over rows would be far too sure"
    rng, inside, n = RNG(7), np.zeros(2), 100
    for _ in range(n):
        seed = rng.normal(0, .05, 5)
        rows = [dict(family=f"{k}{f}", seed=s, space=a, kind=k, ratio=.5 + .2 * (a == "yes/no") + own + seed[s] * (k == "judgement") + rng.normal(0, .03))
                for k in m.KINDS for f in range(5) for own in [rng.normal(0, .1)] for s in range(5) for a in m.SPACES]
        found = m.crossing(rows, rng, n_resamples=300)
        inside += [.2 in found.effects["space"], 0 in found.effects["kind"]]
    assert (inside / n >= .90).all()


def test_a_missing_cell_and_nan_ratios():
    rows = table(RNG(1), dict.fromkeys(product(m.SPACES, m.KINDS), 3))
    gone = [dict(r, ratio=float("nan")) if r["space"] == "content" and r["kind"] == "judgement" else r for r in rows]
    with pytest.raises(ValueError, match="0 families with a ratio in content x judgement"): m.crossing(gone, RNG(0))
    one = [dict(r, ratio=float("nan")) if i == 0 else r for i, r in enumerate(rows)]
    found = m.crossing(one, RNG(0), n_resamples=100)
    assert (found.n, found.undefined) == (len(rows) - 1, 1)
    with pytest.raises(ValueError, match="row 2: space is one of"): m.crossing([*rows[:2], dict(rows[2], space="letters")], RNG(0))
