"""The world study gives every arm the same labels; the vote's formula agrees with counting everything."""
import itertools

import numpy as np
import pytest

from reasonlab.verification import filtered_vote as fv
from reasonlab.verification import local_whole as lw
from reasonlab.worlds import ArithmeticWorld


@pytest.fixture(scope="module")
def rows():
    return ArithmeticWorld(ops=(2, 6), top=99).items(np.random.default_rng(4), 300)


def test_the_label_of_the_step_is_the_label_of_the_chain(rows):
    rng = np.random.default_rng(0)
    for r in rows:
        at = lw.draw_step(r, rng)
        assert (r["label"] == "corrupt") == (at == r["bad_index"])


def test_views_hold_what_they_promise(rows):
    rng = np.random.default_rng(0)
    for r in rows:
        at = lw.draw_step(r, rng)
        step = r["steps"][at]
        local, whole, pointed, rand = (lw.view(r, at, arm, rng) for arm in lw.ARMS)
        assert [s["label"] for s, _ in local] == [*step["cites"], step["label"]]
        assert len(rand) == len(local) and [h for _, h in rand] == [h for _, h in local]
        assert all(int(s["label"]) < int(step["label"]) for s, h in rand if not h)
        assert [s for s, _ in whole] == [s for s, _ in pointed] == r["premises"] + r["steps"]
        assert [s["label"] for s, h in pointed if h] == [step["label"]] and not any(h for _, h in whole)


def test_the_network_sees_no_label(rows):
    hidden = ("label", "kind", "bad_step", "bad_index", "truth", "gold", "answer", "id", "family", "program")
    for r in rows[:100]:
        blank = {k: None if k in hidden else v for k, v in r.items()}
        for arm in lw.ARMS:
            a, b = (lw.encode(lw.view(x, 1, arm, np.random.default_rng(1))) for x in (r, blank))
            assert (a == b).all()


def test_tokens_fit_the_tables(rows):
    for r in rows:
        for s in r["premises"] + r["steps"]:
            assert all(0 <= w < len(lw.TOKENS) + 2 * lw.LABELS and 0 <= v < 1000 for w, v in lw.tokens(s))


def test_every_arm_has_the_same_labels_and_steps():
    pytest.importorskip("torch", reason="the extra [models] is not installed")
    seen = []
    keep = lw._learn
    try:
        def spy(x, y, size, seed, folder):
            seen.append((len(x), y.copy(), size, seed))
            return keep(x, y, size, seed, folder)
        lw._learn = spy
        lw.world_rows.__wrapped__("smoke", 3)
    finally:
        lw._learn = keep
    assert len(seen) == 5 and all(s[0] == seen[0][0] and s[2:] == seen[0][2:] for s in seen)
    assert all((s[1] == seen[0][1]).all() for s in seen[:4])        # the sham's are shuffled
    assert sorted(seen[4][1]) == sorted(seen[0][1]) and (seen[4][1] != seen[0][1]).any()


def _brute(p, accept, k):
    """Every sequence of k (answer, accepted) outcomes, counted one by one."""
    outcomes = [(j, ok) for j in range(len(p)) for ok in (True, False)]
    chance = {(j, ok): p[j] * (accept[j] if ok else 1 - accept[j]) for j, ok in outcomes}
    total = 0.
    for seq in itertools.product(outcomes, repeat=k):
        w = np.prod([chance[s] for s in seq])
        if not w:
            continue
        votes = [j for j, ok in seq if ok] or [j for j, _ in seq]
        count = np.bincount(votes, minlength=len(p))
        total += w * (count[0] == count.max()) / (count == count.max()).sum()
    return total


@pytest.mark.parametrize("p,accept", [([.5, .3, .2], [.9, .3, .3]), ([.2, .7, .1], [.5, .5, .1]), ([.4, .6], [.8, .9])])
def test_the_formula_counts_right(p, accept):
    for k in (1, 2, 4):
        assert fv.filtered_right(p, k, accept) == pytest.approx(_brute(p, accept, k), abs=1e-12)
        assert fv.vote_right(p, k) == pytest.approx(_brute(p, [1] * len(p), k), abs=1e-12)


def test_probabilities_add_up():
    for k, m in ((1, 2), (5, 3), (10, 5)):
        counts, logs = fv.splits(k, m)
        assert (counts.sum(1) == k).all() and np.exp(logs).sum() == pytest.approx(m**k)


def test_errors_that_come_together_have_the_same_rate():
    rng, n = np.random.default_rng(0), 40000
    for rho in (0., .5, 1.):
        p, k = [0., 1., 0., 0.], 1                   # one wrong chain: together or apart is the same
        assert fv.tied_right(p, k, .9, .3, rho) == 0
        chains, plain, filtered = fv.simulate_votes(rng, np.full(n, .5), .856, .32, rho)
        assert abs(filtered.mean() - fv.tied_right(fv.answers(.5), 10, .856, .32, rho)) < .012
        assert abs(plain.mean() - fv.vote_right(fv.answers(.5), 10)) < .012
        assert abs((chains == 0).mean() - .5) < .005


def test_nobody_left_falls_back_to_all():
    rng = np.random.default_rng(1)
    _, plain, filtered = fv.simulate_votes(rng, np.full(2000, .5), 0., 0.)
    assert abs(plain.mean() - filtered.mean()) < .05   # the same counts, another lot for ties


def test_break_even_is_where_the_gain_is_zero():
    for right, rho in ((.4, 0.), (.6, 1.)):
        fpr = fv.break_even(right, .856, rho)
        assert fv.tied_right(fv.answers(right), 10, .856, fpr, rho) == pytest.approx(
            fv.vote_right(fv.answers(right), 10), abs=1e-3)
