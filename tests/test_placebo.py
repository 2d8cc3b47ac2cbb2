"The placebo run is itself on trial: its truths are true, a broken scorecard fails it, the stored table is whole"
import json
from collections import Counter

import numpy as np
import pytest

from reasonlab import core
from reasonlab.claims import OUTCOMES, Verdict
from reasonlab.lab import placebo
from reasonlab.lab.placebo import BENCHES, CLAIMS, COUNTS, KINDS, Trial, bench_rows, calibrate, passed, rows_of, run_trial, trials
from reasonlab.stats import balanced_accuracy

SIZE = dict(chains=6000, probe=6000, votes=60_000, alarms=6000)


@pytest.fixture
def quick(monkeypatch):
    "Chains of the world with a verifier that costs nothing: right in nine of ten; never wrong on chains that are all right"
    from reasonlab.worlds import ArithmeticWorld
    def verified(rng, n, **world):
        items = ArithmeticWorld(ops=(2, 3), distractors=(0, 1), **world).items(rng, n)
        y = np.array([i["label"] == "valid" for i in items])
        return y, np.array([len(i["steps"]) for i in items]), y ^ ((rng.random(n) < .1) & ~y.all())
    monkeypatch.setattr(placebo, "_verified", verified)


def value(bench, r):
    "The claim's statistic on the rows of one seed"
    if bench == "chains": return balanced_accuracy(r["y"], r["pred"]) - balanced_accuracy(r["y"], r["base"])
    if bench == "probe": return np.mean(r["pred"] == r["y"]) - np.mean(r["base"] == r["y"])
    return np.mean(r["pred"]) - (np.mean(r["base"]) if bench == "votes" else 0)


@pytest.mark.parametrize("bench", CLAIMS)
@pytest.mark.parametrize("arm", ["edge", "planted"])
def test_a_planted_effect_has_the_size_that_it_says(bench, arm, quick):
    t = Trial(arm, bench, 77)
    got = float(value(bench, BENCHES[bench](t, 3, SIZE[bench])))
    assert got == pytest.approx(t.effect, abs=.035), "a truth that is not true"


@pytest.mark.parametrize("bench", CLAIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sham_gains_nothing(bench, kind, quick, monkeypatch):
    monkeypatch.setitem(BENCHES, bench, lambda t, s, f=BENCHES[bench]: f(t, s, SIZE[bench]))
    got = float(value(bench, bench_rows(Trial("sham", bench, 5, kind), 1)))
    c = CLAIMS[bench]
    if c.direction == "less": assert got > c.effect + .05, "a sham that keeps its promise is none"
    else: assert abs(got) < .04 and got < c.effect


def test_a_scorecard_that_believes_every_estimate_fails(tmp_path, monkeypatch):
    "Planted fault: the verdict looks at the estimate and forgets the interval"
    def credulous(claim, f):
        better = f.estimate > claim.effect if claim.direction == "more" else f.estimate < claim.effect
        return Verdict(claim.scope, "supported" if better else "inconclusive")
    few = [Trial("edge", "votes", 1000 + i) for i in range(20)]
    assert sum(calibrate("smoke", tmp_path / "ours", only=few)["arms"][0]["outcomes"][o] for o in ("void", "supported")) <= 4
    monkeypatch.setattr(placebo, "verdict", credulous)
    broken = calibrate("smoke", tmp_path / "broken", only=few)
    assert not passed(broken)["edge"] and broken["arms"][0]["rate"][0] > .2


def test_an_interval_without_seeds_and_skew_fails(tmp_path, monkeypatch):
    "Planted fault: every interval is a third of its width"
    honest = placebo.read_findings
    def narrow(slug, folder):
        from dataclasses import replace
        return {k: replace(f, low=f.estimate - (f.estimate - f.low) / 3, high=f.estimate + (f.high - f.estimate) / 3)
                for k, f in honest(slug, folder).items()}
    monkeypatch.setattr(placebo, "read_findings", narrow)
    few = [Trial("edge", "probe", 1000 + i) for i in range(20)]
    assert not passed(calibrate("smoke", tmp_path, only=few))["edge"]


def test_a_trial_is_the_same_twice(tmp_path):
    t = Trial("planted", "probe", 3)
    assert run_trial(t, tmp_path / "a") == run_trial(t, tmp_path / "b")
    assert Counter(run_trial(Trial("sham", "probe", 0, k), tmp_path / k)["outcome"] for k in KINDS)["supported"] == 0


def test_the_stored_table_is_whole_and_meets_its_bars():
    table = json.loads(core.asset("calibration/placebo.json").read_text(encoding="utf-8"))
    shams, others = COUNTS["full"]
    arms = {a["arm"]: a for a in table["arms"]}
    assert arms["sham"]["n"] == shams * len(KINDS) * len(CLAIMS) >= 200 and arms["planted"]["n"] == others * len(CLAIMS) >= 200
    assert sum(a["n"] for a in arms.values()) == len(trials("full")) == sum(k["n"] for k in table["kinds"])
    for a in arms.values(): assert sum(a["outcomes"][o] for o in OUTCOMES) == a["n"]
    for k in table["kinds"]: assert sum(k[o] for o in OUTCOMES) == k["n"]
    assert passed(table) == dict(sham=True, edge=True, planted=True), passed(table)
    assert table["cpu_seconds"] < 7200
    assert [r["arm"] for r in rows_of(table)][:3] == ["sham", "edge", "planted"]
