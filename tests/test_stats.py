"""Intervals and tests: invariances, independent implementations, coverage."""
import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as sps
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from reasonlab import hierarchical, stats

RNG = np.random.default_rng


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_inverts_the_score_test(k, n):
    k = min(k, n)
    i = stats.wilson(k, n)
    assert 0 <= i.low <= k / n <= i.high <= 1
    for p in (i.low, i.high):  # at an inner bound the score statistic is exactly the quantile
        if 1e-9 < p < 1 - 1e-9: assert abs((k / n - p) / math.sqrt(p * (1 - p) / n)) == pytest.approx(1.959964, abs=1e-5)


weights = hnp.arrays(int, (3, 24), elements=st.integers(0, 3))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), weights)
def test_a_weight_is_a_repeated_row(seed, w):
    rng = RNG(seed)
    y, p, s = rng.random(24) < .5, rng.random(24) < .5, rng.integers(0, 5, 24) / 4
    for row in w:
        i = np.repeat(np.arange(24), row)
        if len(set(y[i])) < 2: continue
        assert stats.accuracy(y, p, row) == pytest.approx((y[i] == p[i]).mean())
        assert stats.balanced_accuracy(y, p, row) == pytest.approx(balanced_accuracy_score(y[i], p[i]))
        assert stats.auc(y, s, row) == pytest.approx(roc_auc_score(y[i], s[i]))
        assert stats.ece(y, s, row) == pytest.approx(stats.ece(y[i], s[i]))
    assert stats.mean(s, w[:1]).shape == stats.auc(y, s, w[:1]).shape == stats.ece(y, s, w[:1]).shape == (1,)


def test_ece_against_a_loop():
    rng = RNG(0)
    p, total = rng.random(500), 0.
    y = rng.random(500) < p**2
    for b in range(10):
        inside = (p >= b / 10) & (p < (b + 1) / 10)
        if inside.any(): total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
    assert stats.ece(y, p) == pytest.approx(total)
    assert stats.ece([1], [1.]) == 0  # the last bin is closed


def test_permutation_against_all_arrangements():
    rng = RNG(1)
    a, b = rng.normal(.5, 1, 7), rng.normal(0, 1, 7)
    seen = abs((a - b).sum()) - 1e-12
    exact = np.mean([abs(np.dot(s, a - b)) >= seen for s in product((-1, 1), repeat=7)])
    assert stats.permutation(a, b, RNG(2)).p == pytest.approx(exact)
    x, y = rng.normal(1, 1, 5), rng.normal(0, 1, 4)
    both, seen = np.r_[x, y], x.mean() - y.mean()
    other = [both[list(c)].mean() - np.delete(both, list(c)).mean() for c in combinations(range(9), 5)]
    one_sided = min(np.mean(np.array(other) >= seen - 1e-12), np.mean(np.array(other) <= seen + 1e-12))
    assert stats.permutation(x, y, RNG(3), paired=False).p == pytest.approx(min(1, 2 * one_sided))


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_is_a_coin(only_a, only_b):
    a, b = [1] * only_a + [0] * only_b + [1], [0] * only_a + [1] * only_b + [1]
    n, k = only_a + only_b, min(only_a, only_b)
    exact = min(1, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1
    assert stats.mcnemar(a, b).p == pytest.approx(exact)


def test_cluster_bootstrap_is_the_sandwich():
    """For a ratio of sums the linearised cluster-robust standard error is known."""
    rng = RNG(4)
    g = np.repeat(np.arange(300), rng.integers(1, 8, 300))
    x = rng.normal(size=300)[g] + rng.normal(size=len(g))
    r = np.bincount(g, x - x.mean())
    half = 1.96 * math.sqrt((r**2).sum()) / len(g)
    for method in "percentile", "bca", "stretched":
        i = stats.cluster_bootstrap(lambda w: stats.mean(x, w), g, RNG(5), method, 4000)
        assert (i.low, i.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=.12 * half)


def test_balanced_accuracy_interval_against_a_plain_loop():
    rng = RNG(6)
    g, y = rng.integers(0, 80, 300), rng.random(300) < .4
    p = y ^ (rng.random(300) < .25)
    rows = [np.flatnonzero(g == c) for c in np.unique(g)]
    loop = []
    for _ in range(600):
        i = np.concatenate([rows[c] for c in rng.integers(0, len(rows), len(rows))])
        loop.append(balanced_accuracy_score(y[i], p[i]))
    i = hierarchical.balanced_accuracy_interval(y, p, g, RNG(7), method="percentile")
    assert (i.low, i.high) == pytest.approx(np.quantile(loop, [.025, .975]), abs=.012)


def test_invariances_of_the_cluster_bootstrap():
    rng = RNG(8)
    x, g = rng.normal(size=90), rng.integers(0, 30, 90)
    def at(x, g): return stats.cluster_bootstrap(lambda w: stats.mean(x, w), g, RNG(9))
    a, order = at(x, g), rng.permutation(90)
    b, named = at(x[order], g[order]), at(x, np.array([f"q{i:03d}" for i in g]))
    for other in (b, named): assert (a.low, a.high) == pytest.approx((other.low, other.high))
    shifted = at(3 + 2 * x, g)
    assert (shifted.low, shifted.high) == pytest.approx((3 + 2 * a.low, 3 + 2 * a.high))
    assert a == at(x, g)  # the generator decides, nothing global
    with pytest.raises(ValueError, match="one cluster"): at(x, np.zeros(90))


def test_a_class_absent_from_some_resamples():
    """One positive cluster of 12: a third of the resamples lack the class and are left out."""
    y = np.arange(12) < 1
    i = hierarchical.balanced_accuracy_interval(y, y, np.arange(12), RNG(0))
    assert i.low <= i.estimate == 1 and not math.isnan(i.low)


def nested(rng, S, G, seed_sd, shared):
    """Per-seed (stat, groups); rows = seed + cluster + noise, truth 0."""
    c, parts = rng.normal(size=G), []
    for s in range(S):
        if not shared: c = rng.normal(size=G)
        g = np.repeat(np.arange(G), 2)
        x = seed_sd * rng.normal() + c[g] + rng.normal(size=2 * G)
        parts.append((lambda w, x=x: stats.mean(x, w), g if shared else g + G * s))
    return parts


@pytest.mark.parametrize("seed_sd", [0, .3, 1.])
@pytest.mark.parametrize("shared", [True, False])
def test_hierarchical_coverage(seed_sd, shared):
    """Misses of a 95 % interval, five seeds, 40 clusters: not significantly more than 5 %."""
    rng, missed, N = RNG(10), 0, 250
    for _ in range(N):
        missed += 0 not in hierarchical.hierarchical_bootstrap(nested(rng, 5, 40, seed_sd, shared), rng, 250)
    assert stats.wilson(missed, N).low < .05, f"{missed} of {N} missed"


def test_shared_questions_are_not_multiplied_by_seeds():
    """Naming one question differently in each seed would make the interval far too narrow."""
    rng, wrong, right, N = RNG(11), 0, 0, 150
    for _ in range(N):
        x = rng.normal(size=60)
        def parts(names): return [(lambda w: stats.mean(x, w), names(s)) for s in range(5)]
        right += 0 not in hierarchical.hierarchical_bootstrap(parts(lambda s: np.arange(60)), rng, 200)
        wrong += 0 not in hierarchical.hierarchical_bootstrap(parts(lambda s: np.arange(60) + 60 * s), rng, 200)
    assert wrong / N > .25 and stats.wilson(right, N).low < .05


def test_widened_share_covers_where_the_bootstrap_cannot():
    rng, plain, wide, N = RNG(12), 0, 0, 300
    for _ in range(N):
        x = rng.random(40) < .97
        i = stats.cluster_bootstrap(lambda w: stats.mean(x, w), np.arange(40), rng, n_resamples=200)
        plain, wide = plain + (.97 not in i), wide + (.97 not in stats.widen_share(i, 40))
    assert plain / N > .2 and stats.wilson(wide, N).low < .05


def test_bootstrap_is_scipys():
    x = RNG(13).exponential(size=50)
    a = stats.bootstrap(x, RNG(1), np.median, "percentile", 999)
    b = sps.bootstrap((x,), np.median, method="percentile", n_resamples=999, batch=100, rng=RNG(1)).confidence_interval
    assert (a.low, a.high) == (b.low, b.high)


def test_balanced_accuracy_with_few_of_one_label_covers():
    """About 30 rows of one label at recall .97: often all are right, and a bare bootstrap sees no doubt there."""
    rng, bare, ours, N = RNG(14), 0, 0, 150
    for _ in range(N):
        y = rng.random(300) >= .1
        p, g = y ^ (rng.random(300) > .97), np.arange(300)
        bare += .97 < stats.cluster_bootstrap(lambda w: stats.balanced_accuracy(y, p, w), g, rng, n_resamples=200).low
        ours += .97 < hierarchical.balanced_accuracy_interval(y, p, g, rng, n_resamples=200).low
    assert bare / N > .15 and stats.wilson(ours, N).low < .025


def test_leaving_out_is_leaving_out():
    """The pull of a cluster against the statistic recomputed without its rows."""
    rng = RNG(15)
    x, g = rng.exponential(size=60), rng.integers(0, 12, 60)
    change = stats._leave_out(lambda w: stats.mean(x, w), g, 12)
    assert change == pytest.approx([x.mean() - x[g != k].mean() for k in range(12)])


def slow_studentized(x, rng, n):
    """Bootstrap-t of a mean, one resample at a time, as a textbook has it: reach below and above."""
    se, t = x.std(ddof=1) / len(x)**.5, []
    for _ in range(n):
        y = x[rng.integers(0, len(x), len(x))]
        s = max(y.std(ddof=1), x.std(ddof=1) / 4) / len(x)**.5
        t.append((y.mean() - x.mean()) / s)
    low, high = np.quantile(t, [.025, .975])
    return se * high, -se * low


@pytest.mark.parametrize("tail", [1, -1])
def test_studentized_is_the_textbooks(tail):
    x = tail * RNG(16).exponential(size=25)
    i = stats.cluster_bootstrap(lambda w: stats.mean(x, w), np.arange(25), RNG(1), "studentized", 4000)
    plain = stats.cluster_bootstrap(lambda w: stats.mean(x, w), np.arange(25), RNG(1), "stretched", 4000)
    down, up = slow_studentized(x, RNG(2), 8000)
    far, ours, theirs = (up, i.high - i.estimate, plain.high - plain.estimate) if tail > 0 else (down, i.estimate - i.low, plain.estimate - plain.low)
    assert ours == pytest.approx(far, rel=.08) and ours > 1.1 * theirs  # on the side of the tail
    assert i.low <= plain.low and i.high >= plain.high


@given(st.lists(st.integers(-9999, 9999), min_size=3, max_size=40), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_skew_is_at_least_one_and_knows_no_units(change, scale):
    change = np.array(change, float)
    down, up = stats._skew(change, RNG(3), 400, .95)
    assert down >= 1 and up >= 1 and np.isfinite([down, up]).all()
    mirrored = stats._skew(-change, RNG(3), 400, .95)
    assert mirrored == pytest.approx((up, down), rel=1e-6)
    assert stats._skew(change * scale, RNG(3), 400, .95) == pytest.approx((down, up), rel=1e-6)


def test_the_column_of_a_difference_is_the_difference_of_columns():
    rng = RNG(17)
    a, b, g = rng.normal(size=50), rng.exponential(size=50), np.arange(50) // 2
    both = [(lambda w: np.stack([stats.mean(a, w), stats.mean(b, w)], 1), g)] * 3
    alone = [(lambda w: stats.mean(a - b, w), g)] * 3
    one = hierarchical.hierarchical_interval(hierarchical.hierarchical_draws(both, RNG(4)).column(0, minus=1), RNG(5))
    two = hierarchical.hierarchical_interval(hierarchical.hierarchical_draws(alone, RNG(4)), RNG(5))
    assert (one.low, one.estimate, one.high) == pytest.approx((two.low, two.estimate, two.high))


def test_many_clusters_are_left_out_in_groups():
    x = RNG(18).exponential(size=3000)
    d = hierarchical.hierarchical_draws([(lambda w: stats.mean(x, w), np.arange(3000))] * 2, RNG(6), 300)
    assert d.clusters == 3000 and len(d.change) == 500
    se = x.std() / 3000**.5  # a group's pull is the sum of its clusters' pulls
    assert d.change.std() * 500**.5 == pytest.approx(se, rel=.1)
