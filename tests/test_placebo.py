"The placebo run is itself on trial: its truths are true, a broken scorecard fails it, the stored table is whole"
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reasonlab import core
from reasonlab.claims import OUTCOMES, Verdict
from reasonlab.lab import placebo
from reasonlab.lab.placebo import BENCHES, CLAIMS, COUNTS, KINDS, Trial, bench_rows, calibrate, passed, rows_of, run_trial, trials
from reasonlab.stats import balanced_accuracy

SIZE = dict(chains=12_000, probe=20_000, votes=60_000, alarms=6000)


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
    assert got == pytest.approx(t.effect, abs=.012), "a truth that is not true"


def test_the_verifier_raises_no_alarm_of_its_own():
    "Else the planted rate of false alarms would not be the rate"
    _, _, accepted = placebo._verified(np.random.default_rng(11), 400, corrupt=0.)
    assert accepted.all()


@pytest.mark.parametrize("bench", CLAIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sham_gains_nothing(bench, kind, quick, monkeypatch):
    monkeypatch.setitem(BENCHES, bench, lambda t, s, f=BENCHES[bench]: f(t, s, SIZE[bench]))
    got = float(value(bench, bench_rows(Trial("sham", bench, 5, kind), 1)))
    assert got == pytest.approx(Trial("sham", bench, 5, kind).claim.effect, abs=.02), "the bar is not where the sham stands"


def supported(table): return table["arms"][0]["outcomes"]["supported"]


def test_a_scorecard_that_believes_every_estimate_fails(tmp_path, monkeypatch):
    "Planted fault: the verdict looks at the estimate and forgets the interval"
    def credulous(claim, f):
        better = f.estimate > claim.effect if claim.direction == "more" else f.estimate < claim.effect
        return Verdict(claim.scope, "supported" if better else "inconclusive")
    few = [Trial("edge", "votes", i) for i in range(20)]
    assert supported(calibrate("smoke", tmp_path / "ours", only=few)) <= 3
    monkeypatch.setattr(placebo, "verdict", credulous)
    assert supported(calibrate("smoke", tmp_path / "broken", only=few)) >= 5


def test_intervals_of_a_fifth_of_their_width_fail(tmp_path, monkeypatch):
    "Planted fault: every interval is far too sure of itself"
    honest = placebo.read_findings
    def narrow(slug, folder):
        return {k: replace(f, low=f.estimate - (f.estimate - f.low) / 5, high=f.estimate + (f.high - f.estimate) / 5,
                           margins={m: [e, e - (e - a) / 5, e + (b - e) / 5] for m, (e, a, b) in f.margins.items()})
                for k, f in honest(slug, folder).items()}
    few = [Trial("sham", "votes", i, "swap") for i in range(20)]
    assert supported(calibrate("smoke", tmp_path / "ours", only=few)) <= 3
    monkeypatch.setattr(placebo, "read_findings", narrow)
    assert supported(calibrate("smoke", tmp_path / "narrow", only=few)) >= 4


def test_broken_studies_are_not_believed(tmp_path):
    leak = run_trial(Trial("broken", "probe", 0, "leak"), tmp_path / "leak")
    floor = run_trial(Trial("broken", "probe", 0, "floor"), tmp_path / "floor")
    assert leak["outcome"] == "void" and floor["outcome"] == "inconclusive" and "majority is not beaten" in floor["reasons"]


def test_no_two_trials_share_their_numbers():
    seen = {(t.rng().random(), t.claim.text) for t in trials("full")}
    assert len(seen) == len(trials("full"))


def test_a_trial_is_the_same_twice(tmp_path):
    t = Trial("planted", "probe", 3)
    assert run_trial(t, tmp_path / "a") == run_trial(t, tmp_path / "b")
    assert Counter(run_trial(Trial("sham", "probe", 0, k), tmp_path / k)["outcome"] for k in KINDS)["supported"] == 0


def test_the_stored_table_is_whole_and_meets_its_bars():
    table = json.loads(core.asset("calibration/placebo.json").read_text(encoding="utf-8"))
    shams, others, broken = COUNTS["full"]
    arms = {a["arm"]: a for a in table["arms"]}
    assert arms["sham"]["n"] == shams * len(KINDS) * len(CLAIMS) >= 200 and arms["broken"]["n"] == 6 * broken and arms["planted"]["n"] == others * len(CLAIMS) >= 200
    assert sum(a["n"] for a in arms.values()) == len(trials("full")) == sum(k["n"] for k in table["kinds"])
    for a in arms.values(): assert sum(a["outcomes"][o] for o in OUTCOMES) == a["n"]
    for k in table["kinds"]: assert sum(k[o] for o in OUTCOMES) == k["n"]
    assert passed(table) == dict(sham=True, edge=True, broken=True, planted=True), passed(table)
    assert table["cpu_seconds"] < 7200
    assert [r["arm"] for r in rows_of(table)][:4] == ["sham", "edge", "broken", "planted"]
