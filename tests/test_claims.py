"""Verdicts on trial: planted nulls and effects, broken controls, seeds; and claims that precede their findings."""
import importlib
import json
import random
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonlab import claims, core, runs, stats
from reasonlab.claims import Claim, Finding, Observation, Study, claim_hash, compare, finding, statistic, verdict

ROOT = Path(__file__).resolve().parent.parent
GAIN = Claim(id="sham.gain", paper="sham", text="The method gains", statistic="balanced_accuracy_gain", effect=.05,
             expected=.2, power=.8, floors=("majority",), control="permuted", precondition="clean >= .7")
SAFE = Claim(id="sham.false", paper="sham", text="Few false alarms", statistic="mean", effect=.2, direction="less", null=.5)
OK = {"clean": .8}


def study_rows(rng, gain, base=.6, n=150, leak=0., spread=.03):
    """Rows of one seed: three per question; skill varies between questions and, a little, between seeds."""
    y, g = rng.random(n) < .5, np.arange(n) // 3
    shift = (rng.normal(size=n)[g] + rng.normal()) * spread
    def says(p): return y ^ (rng.random(n) > p + shift)
    return dict(y=y, pred=says(base + gain), base=says(base), group=g, floor_majority=np.ones(n, bool), control=says(base + leak))


def outcomes(N, seeds=5, claim=GAIN, preconditions=OK, **kw):
    out = []
    for i in range(N):
        rng = np.random.default_rng([7, i])
        rows = {s: study_rows(rng, **kw) for s in range(seeds)}
        out.append(finding(claim, rows, rng, preconditions=preconditions, n_resamples=200).outcome)
    return out


def test_a_planted_null_is_supported_no_more_often_than_the_level_allows():
    """Truth exactly at the smallest effect: one side of a 95 % interval may err in 2.5 % of the studies."""
    seen = outcomes(200, gain=GAIN.effect)
    assert stats.wilson(seen.count("supported"), 200).low < .025, seen.count("supported")
    assert stats.wilson(seen.count("contradicted"), 200).low < .025, seen.count("contradicted")
    assert outcomes(40, gain=0.).count("supported") == 0  # nothing at all there


def test_a_planted_effect_is_found_at_the_declared_power():
    seen = outcomes(100, gain=GAIN.expected)
    assert stats.wilson(seen.count("supported"), 100).low > GAIN.power, seen.count("supported")


def test_a_reversed_effect_is_contradicted():
    assert stats.wilson(outcomes(40, gain=-.15).count("contradicted"), 40).low > .8


def test_a_broken_control_voids():
    """A sham that gains as much as the method is found out; an honest sham voids next to nothing."""
    seen = outcomes(60, gain=.2, leak=.2)
    assert stats.wilson(seen.count("void"), 60).low > .9 and "supported" not in seen
    assert stats.wilson(outcomes(100, gain=.2).count("void"), 100).low < .005


def test_a_failed_or_missing_precondition_voids():
    assert set(outcomes(5, gain=.3, preconditions={"clean": .69})) == {"void"}
    assert set(outcomes(5, gain=.3, preconditions={})) == {"void"}


def test_four_seeds_never_suffice():
    assert "supported" not in outcomes(20, seeds=4, gain=.35)
    assert "supported" in outcomes(20, seeds=5, gain=.35)
    with pytest.raises(ValueError, match="five seeds"): replace(GAIN, seeds_needed=4)


def test_an_unbeaten_floor_is_not_supported():
    """The gain over the base arm is real, but a floor does as well."""
    rng = np.random.default_rng(0)
    rows = {s: study_rows(rng, .25) for s in range(5)}
    for r in rows.values(): r["floor_majority"] = r["pred"]
    f = finding(GAIN, rows, rng, preconditions=OK)
    assert f.low > GAIN.effect and f.outcome == "inconclusive"
    assert "majority is not beaten" in verdict(GAIN, f).reasons


def test_fewer_is_better_is_the_mirror_image():
    rng = np.random.default_rng(0)
    def rows(p): return {s: dict(pred=rng.random(200) < p, group=np.arange(200)) for s in range(5)}
    assert finding(SAFE, rows(.05), rng).outcome == "supported"
    assert finding(SAFE, rows(.4), rng).outcome == "contradicted"
    assert finding(SAFE, rows(.2), rng).outcome == "inconclusive"


def test_a_fixed_real_set_is_not_multiplied_by_its_seeds():
    """Five seeds of a deterministic checker on the same 60 questions decide no more than one seed would."""
    bar, N, wrong = replace(SAFE, id="sham.real", scope="real", direction="more", effect=.5), 150, 0
    for i in range(N):
        rng = np.random.default_rng([9, i])
        r = dict(pred=rng.random(60) < .5, group=np.arange(60))
        wrong += finding(bar, dict.fromkeys(range(5), r), rng, n_resamples=200).outcome == "supported"
    assert stats.wilson(wrong, N).low < .025, wrong


number = st.floats(-1, 1)


@settings(max_examples=300, deadline=None)
@given(number, number, st.lists(st.integers(0, 9), max_size=9), number, number, number, st.sampled_from([None, .6, .7, .9]))
def test_verdict_is_total_and_supported_means_everything_held(a, b, seeds, margin, sham, width, clean):
    low, high = sorted((a, b))
    m = [margin, margin - abs(width), margin + abs(width)]
    f = Finding(claim=GAIN.id, scope="world", estimate=(low + high) / 2, low=low, high=high, n=9, seeds=tuple(seeds),
                margins={"majority": m, "permuted": m}, preconditions={} if clean is None else {"clean": clean},
                control=dict(name="permuted", estimate=sham, low=sham - abs(width), high=sham + abs(width)))
    v = verdict(GAIN, f)
    assert v.outcome in claims.OUTCOMES and v == verdict(GAIN, replace(f, outcome="supported"))
    sound = clean is not None and clean >= .7 and sham - abs(width) <= 0
    assert (v.outcome == "void") == (not sound)
    assert (v.outcome == "supported") == (sound and low > .05 and len(set(seeds)) >= 5 and m[1] > 0)
    assert (v.outcome == "contradicted") == (sound and high < .05 and len(set(seeds)) >= 2)
    assert v.reasons or v.outcome in ("supported", "contradicted")


def test_a_changed_claim_voids_its_old_finding():
    rng = np.random.default_rng(0)
    f = finding(GAIN, {s: study_rows(rng, .3) for s in range(5)}, rng, preconditions=OK)
    assert f.outcome == "supported" and verdict(replace(GAIN, effect=.01), f).outcome == "void"
    with pytest.raises(ValueError, match="no evidence"): verdict(SAFE, f)


@given(number, number, number, number)
def test_compare_is_symmetric_overlap(a, b, c, d):
    x, y = (Finding(claim="s.x", scope="world", estimate=0., low=min(p), high=max(p)) for p in ((a, b), (c, d)))
    assert compare(x, y) == compare(y, x) == ("apart" if x.high < y.low or y.high < x.low else "meets")
    assert compare(None, x) == claims.NO_DATA and compare(x, None) == "nothing stored"


def test_macro_and_gain_against_a_loop():
    rng = np.random.default_rng(3)
    rows = study_rows(rng, .2) | {"stratum": np.array(["a", "b", "b"] * 50)}
    def ba(column, t):
        m = rows["stratum"] == t
        return np.mean([(rows[column][m & (rows["y"] == v)] == v).mean() for v in (0, 1)])
    by_hand = np.mean([ba("pred", t) - ba("base", t) for t in "ab"])
    assert statistic("macro_balanced_accuracy_gain")(rows, np.ones((1, 150)))[0] == pytest.approx(by_hand)
    for name in ("accuracy", "auc_gain", "macro_mean_gain"):
        short = {k: v for k, v in rows.items() if k not in ("y", "base", "stratum")}
        with pytest.raises(ValueError, match="no column"): finding(replace(SAFE, statistic=name), {0: short}, rng)


def test_nothing_that_is_not_a_number_reaches_the_file(tmp_path):
    rng, rows = np.random.default_rng(0), dict(y=np.ones(9), pred=np.full(9, np.nan), group=np.arange(9))
    with pytest.raises(ValueError, match="not a number"): finding(SAFE, {0: rows}, rng)
    bad = Finding(claim="sham.x", scope="world", estimate=float("nan"), low=0., high=1.)
    with pytest.raises(ValueError): claims.write_findings("sham", [bad], tmp_path)
    assert not list(tmp_path.iterdir())


class Interrupt(Exception): pass


def toy_study(stop_at=None):
    def observe(scale, seed):
        if seed == stop_at: raise Interrupt
        rng = np.random.default_rng(seed)
        return {"sham.gain": Observation(study_rows(rng, .2), OK),
                "sham.false": Observation(dict(pred=rng.random(50) < .1, group=np.arange(50)))}
    missing = replace(SAFE, id="sham.absent", scope="real")
    return Study(slug="sham", claims=(GAIN, SAFE, missing), observe=observe)


def test_an_interrupted_study_ends_in_the_same_bytes(tmp_path):
    key = runs.run_key({"scale": "home"})
    with runs.Store(tmp_path / "a", key) as s, pytest.raises(Interrupt): toy_study(stop_at=3).run(seeds=5, store=s)
    lines = (tmp_path / "a" / "results.jsonl").read_bytes()
    (tmp_path / "a" / "results.jsonl").write_bytes(lines[:-100])  # and the last line torn
    done = []
    with runs.Store(tmp_path / "a", key) as s: a = toy_study().run(seeds=5, store=s, progress=done.append)
    with runs.Store(tmp_path / "b", key) as s: b = toy_study().run(seeds=5, store=s)
    c = toy_study().run(seeds=5)
    assert (tmp_path / "a" / "results.jsonl").read_bytes() == (tmp_path / "b" / "results.jsonl").read_bytes()
    def timeless(fs): return runs.to_json([asdict(replace(f, seconds=0.)) for f in fs])
    assert timeless(a) == timeless(b) == timeless(c) and done == [0, 1, 2, 3, 4]
    assert [f.outcome for f in a] == ["supported", "supported", claims.NO_DATA]


def drawing_study():
    """Draws from the global generators of python and numpy."""
    def observe(scale, seed):
        x = [f() for f in (random.random, np.random.rand) for _ in range(8)]
        return {"sham.false": Observation(dict(pred=x, group=np.arange(16)))}
    return Study(slug="sham", claims=(SAFE,), observe=observe)


def test_a_seed_does_not_see_what_the_one_before_left_behind(tmp_path):
    """In one go, one by one with strange states in between, in another order: each seed draws the same; no two the same."""
    def drawn(s): return {k[1]: r["seen"]["rows"]["pred"] for k, r in s.rows.items()}
    with runs.Store(tmp_path / "a", {}) as s:
        drawing_study().run(seeds=4, store=s)
        one = drawn(s)
    with runs.Store(tmp_path / "b", {}) as s:
        for n in range(1, 5):
            random.seed(n + 77)
            np.random.seed(n + 99)
            drawing_study().run(seeds=n, store=s)
    assert (tmp_path / "a/results.jsonl").read_bytes() == (tmp_path / "b/results.jsonl").read_bytes()
    with runs.Store(tmp_path / "c", {}) as s:
        drawing_study().run(seeds=[2, 0], store=s)
        assert drawn(s) == {k: one[k] for k in (2, 0)}
    assert len({tuple(x) for x in one.values()}) == 4


LATE = """
import sys
from reasonlab.claims import Claim, Observation, Study
def observe(scale, seed):
    import importlib.util
    assert importlib.util.find_spec("torch")     # looking for it is not loading it
    import torch
    return {"sham.late": Observation(dict(pred=torch.rand(8).tolist(), group=range(8)))}
c = Claim(id="sham.late", paper="sham", text="x", statistic="mean", effect=.5)
class Store(dict): pass
seen, before = {}, list(sys.meta_path)
study = Study(slug="sham", claims=(c,), observe=lambda scale, seed: seen.setdefault(seed, observe(scale, seed)))
study.run(seeds=[int(s) for s in sys.argv[1:]])
assert sys.meta_path == [f for f in sys.meta_path if not type(f).__module__.startswith("reasonlab")]
print(seen[2]["sham.late"].rows["pred"])
"""


def test_torch_is_seeded_even_when_the_observation_is_what_loads_it():
    """A resumed process loads torch in another seed than an undisturbed one."""
    pytest.importorskip("torch", reason="the extra [models] is not installed")
    def said(*seeds):
        r = subprocess.run([sys.executable, "-c", LATE, *seeds], capture_output=True, text=True, timeout=300)
        assert r.returncode == 0, r.stderr
        return r.stdout
    assert said("1", "2") == said("2")


def scratch_study(stop=()):
    def observe(scale, seed, folder=None):
        if folder is None: return {"sham.false": Observation(dict(pred=np.zeros(9), group=np.arange(9)))}
        assert Path(folder).is_dir()
        part = Path(folder) / "half.txt"
        found = part.read_text() if part.exists() else None
        part.write_text(f"half of {seed}")
        if seed in stop: raise Interrupt
        return {"sham.false": Observation(dict(pred=np.full(9, found == f"half of {seed}") * 1., group=np.arange(9)))}
    return Study(slug="sham", claims=(SAFE,), observe=observe)


def test_a_long_seed_has_a_scratch_folder_until_it_is_written(tmp_path):
    """Kept when the seed dies, given to the same seed again, gone with the seed's lines; never there without a store."""
    with runs.Store(tmp_path, {}) as s:
        with pytest.raises(Interrupt): scratch_study(stop=[1]).run(seeds=3, store=s)
        assert [p.name for p in (tmp_path / "scratch").iterdir()] == ["1"] and len(s) == 1
        scratch_study().run(seeds=3, store=s)
        resumed = [r["seen"]["rows"]["pred"][0] for r in s.rows.values()]
        assert resumed == [0, 1, 0] and not (tmp_path / "scratch").exists()
        (tmp_path / "scratch/2").mkdir(parents=True)  # killed after the lines, before the folder went
        scratch_study().run(seeds=3, store=s)
        assert not (tmp_path / "scratch").exists()
        mine = tmp_path / "mine"
        mine.mkdir()
        scratch_study().run(seeds=[7], store=s, folder=str(mine))
        assert (mine / "half.txt").exists()
    assert scratch_study().run(seeds=2)[0].estimate == 0


def test_no_time_is_negative(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.time, "perf_counter", iter(range(999, 0, -1)).__next__)
    with runs.Store(tmp_path, {}) as s: found = toy_study().run(seeds=2, store=s)
    times = [json.loads(line)["seconds"] for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert len(times) == 6 and min(times) == 0 == found[0].seconds


def test_findings_file(tmp_path):
    found = toy_study().run(seeds=2)
    path = claims.write_findings("sham", found, tmp_path)
    table = json.loads(path.read_text())
    assert table["schema"] == 1 and table["slug"] == "sham" and len(table["findings"]) == 3
    assert list(claims.read_findings("sham", tmp_path).values()) == found
    for bad in ('{"schema": 2, "findings": []}', "[]", "{", '{"schema": 1, "findings": [{"claim": "sham.x"}]}'):
        path.write_text(bad)
        with pytest.raises(ValueError, match="sham.json is not a table"): claims.read_findings("sham", tmp_path)


# --- what is stored must be what the claims say, and come after them ---

def stored():
    folder = core.asset_root() / "findings"
    return {p.stem: claims.read_findings(p.stem) for p in sorted(folder.glob("*.json"))}


def test_stored_outcomes_are_the_computed_ones():
    found = stored()
    if not found: pytest.skip("no findings are stored yet")
    for slug, rows in found.items():
        module = importlib.import_module(f"reasonlab.{core.papers()[slug].module}")
        known = {c.id: c for s in vars(module).values() if isinstance(s, Study) and s.slug == slug for c in s.claims}
        assert set(rows) == set(known), f"{slug}: findings and claims differ"
        for i, f in rows.items():
            assert verdict(known[i], f).outcome == f.outcome, f"{i}: the stored outcome was not computed from its numbers"
            if f.estimate is not None: assert f.statement == claim_hash(known[i]), f"{i} was changed after its finding"


def git(repo, *args):
    r = subprocess.run(["git", "-C", str(repo), *args], capture_output=True, text=True, timeout=60)
    return r.stdout.strip() if r.returncode == 0 else None


def first_commit(repo, text, where):
    "The first commit in which `text` appears in the files `where`"
    found = git(repo, "log", "--reverse", "--format=%H", "--pickaxe-regex", f"-S{re.escape(text)}[^A-Za-z0-9_.]", "--", where)
    return found.split("\n")[0] if found else None


def claimed_first(repo, claim_id, slug):
    "Was the claim committed strictly before the first finding on it? (A finding not committed yet comes after all.)"
    claim = first_commit(repo, claim_id, "nbs/*.ipynb")
    result = first_commit(repo, claim_id, f"data/findings/{slug}.json")
    if claim is None: return False
    return result is None or (claim != result and git(repo, "merge-base", "--is-ancestor", claim, result) is not None)


def test_claimed_first_can_tell(tmp_path):
    if git(tmp_path, "--version") is None: pytest.skip("git is not installed")
    def commit(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        git(tmp_path, "add", "-A")
        assert git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "x") is not None
    git(tmp_path, "init", "-q")
    commit("nbs/51_a.ipynb", "Claim(id='a.first', ...) Claim(id='b.late_too', ...)")
    commit("data/findings/a.json", '{"claim": "a.first"}')
    commit("data/findings/b.json", '{"claim": "b.late"}')
    commit("nbs/52_b.ipynb", "Claim(id='b.late')")
    (tmp_path / "nbs/53_c.ipynb").write_text("Claim(id='c.both')")
    commit("data/findings/c.json", '{"claim": "c.both"}')
    assert claimed_first(tmp_path, "a.first", "a")
    assert not claimed_first(tmp_path, "b.late", "b")    # claimed after the result was seen
    assert not claimed_first(tmp_path, "c.both", "c")    # in one commit: nothing shows which was first
    assert not claimed_first(tmp_path, "d.never", "d")


def test_every_claim_was_committed_before_its_finding():
    found = stored()
    if not found: pytest.skip("no findings are stored yet")
    if git(ROOT, "rev-parse", "HEAD") is None: pytest.skip("no git history here (an archive, or git is missing)")
    if git(ROOT, "rev-parse", "--is-shallow-repository") != "false": pytest.skip("a shallow clone: the history is cut off")
    roots = set(git(ROOT, "rev-list", "--max-parents=0", "HEAD").split())
    if all(first_commit(ROOT, i, "data/findings") in roots for rows in found.values() for i in rows):
        pytest.skip("the history begins with the findings: it cannot say what came first")
    late = [i for slug, rows in found.items() for i, f in rows.items()
            if f.estimate is not None and not claimed_first(ROOT, i, slug)]
    assert not late, f"findings older than their claims: {late}"
