"NLI4CT: counts, scorers against a second writing of the official one, odd input, and the command with its real weights"
import gzip, json, os
from pathlib import Path
import numpy as np
import pytest
from typer.testing import CliRunner
from reasonlab.files import BadFile
from reasonlab.nli import trials as T

HERE = os.environ.get("REASONLAB_DATA", "")
real = pytest.mark.skipif(not (Path(HERE) / "nli4ct").is_dir(), reason="the public statements are not on this machine (REASONLAB_DATA)")


def rl(*args, **kw):
    from reasonlab.lab import cli, cli_nli4ct  # noqa: F401  the command adds itself
    return CliRunner().invoke(cli.app, ["nli4ct", *map(str, args)], **kw)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp("ct")
    (d / "s.json").write_text(rl("--example").stdout)
    (d / "ct.jsonl").write_text(rl("--example-trials").stdout)
    return d


@real
def test_the_public_parts_have_the_counts_of_the_specification():
    trials = T.load_trials()
    train, dev = (T.counts(T.load_statements(p), trials) for p in ("train", "dev"))
    assert len(trials) == 999
    assert (train["statements"], train["entailment"], train["comparisons"]) == (1700, 850, 665)
    assert (dev["statements"], dev["entailment"], dev["comparisons"]) == (200, 100, 60)
    assert train["repeated index"] == 11 and train["longest"] == 146 and train["misfits"] == dev["misfits"] == 0
    assert abs(2 * dev["density"] / (1 + dev["density"]) - .622) < .002


@real
def test_folds_share_no_trial():
    s = T.load_statements("train") + T.load_statements("dev")
    where = T.folds(s, 3)
    seen = [{t for x, f in zip(s, where) if f == k for t in x.trials} for k in range(5)]
    assert all(not seen[i] & seen[j] for i in range(5) for j in range(i)) and np.bincount(where).min() > 300


def official(gold, said, task):
    "The shared task's script, written again from its description: a loop over what was submitted"
    tp = fp = fn = 0
    for i, a in said.items():
        g = gold[i]
        if task == 1:
            y, p = g.label == "Entailment", a["Prediction"] == "Entailment"
            tp, fp, fn = tp + (y and p), fp + (not y and p), fn + (y and not p)
            continue
        for side, name in T.SIDES.items():
            own, lines = {k for s, k in g.evidence if s == side}, a.get(f"{name}_evidence_index", [])
            tp, fp, fn = tp + sum(k in own for k in lines), fp + sum(k not in own for k in lines), fn + len(own - set(lines))
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.


@pytest.mark.parametrize("seed", range(25))
def test_strict_and_official_agree_on_whole_submissions(seed):
    rng, gold = np.random.default_rng(seed), []
    for i in range(20):
        two = bool(rng.random() < .4)
        ev = frozenset((s, int(k)) for s in "PS"[:1 + two] for k in rng.choice(8, rng.integers(1, 5), replace=False))
        gold.append(T.Statement(str(i), "x", "Results", ("A", "B")[:1 + two], T.ANSWERS[int(rng.integers(2))], ev))
    by = {s.id: s for s in gold}
    for _ in range(20):
        labels = {s.id: T.ANSWERS[int(rng.integers(2))] for s in gold}
        lines = {s.id: T.submission(s, {(a, int(k)) for a in s.sides for k in rng.choice(8, rng.integers(0, 6), replace=False)}) for s in gold}
        one = official(by, {k: {"Prediction": v} for k, v in labels.items()}, 1)
        assert T.score_labels(gold, labels)["f1"] == pytest.approx(one) == pytest.approx(T.score_labels(gold, labels, strict=False)["f1"])
        assert T.score_lines(gold, lines)["f1"] == pytest.approx(official(by, lines, 2))


def test_what_the_official_scorer_lets_pass_is_refused():
    s = [T.Statement(str(i), "x", "Results", ("A",), T.ANSWERS[i % 2], frozenset({("P", 0)})) for i in range(2)]
    full = {"0": "Entailment", "1": "Entailment"}
    for said, why in (({"0": "Entailment"}, "1 of 2 statements have no answer"), (full | {"2": "Entailment"}, "id of no statement"),
                      (full | {"1": "Maybe"}, "is no label")):
        with pytest.raises(ValueError, match=why): T.score_labels(s, said)
    twice = {"0": {"Primary_evidence_index": [0, 0]}, "1": {}}
    with pytest.raises(ValueError, match="named twice"): T.score_lines(s, twice)
    assert T.score_lines(s, twice, strict=False)["precision"] == 1.0


ROW = dict(Type="Single", Section_id="Results", Primary_id="A", Statement="Two patients had a rash.")


@pytest.mark.parametrize("change,why", [
    (dict(Primary_id="NOWHERE"), "NOWHERE is not among the reports"), (dict(Section_id="Outcome"), "Section_id is 'Outcome'"),
    (dict(Primary_evidence_index=[9], Label="Entailment"), "line 9 is beyond the 2 lines"), (dict(Primary_evidence_index=["1"]), "no list of line numbers"),
    (dict(Type="Comparison"), "Secondary_id is missing"), (dict(Statement=" "), "Statement is"), (dict(Label="Yes"), "Label is 'Yes'"),
    (dict(Section_id="Eligibility"), "no line in Eligibility"), (dict(Statement=["x"]), "Statement is no text")])
def test_an_odd_statement_is_named_and_the_rest_goes_on(tmp_path, change, why):
    trials = {"A": {s: (["Results 1:", "  2/10"] if s == "Results" else []) for s in T.SECTIONS}}
    p = tmp_path / "s.json"
    p.write_text(json.dumps({"bad": ROW | change, "good": ROW}))
    found = dict(T.read_statements(p, trials))
    assert why in found["bad"] and isinstance(found["good"], T.Statement)


def test_odd_but_sound_statements_are_read_and_flagged(tmp_path):
    p = tmp_path / "s.json"
    p.write_text(json.dumps({"a": ROW | dict(Section_id=" results", Primary_evidence_index=[1, 1], Label="Entailment"),
                             "b": ROW | dict(Secondary_id="B"), "c": ROW | dict(Statement="\u201a\u00e2\u2022 5%"), "d": ROW | dict(Primary_evidence_index=[], Label="Entailment")}))
    trials = {"A": {s: ["Results 1:", "  2/10"] for s in T.SECTIONS}}
    flags = {i: s.flags for i, s in T.read_statements(p, trials)}
    assert flags["a"] == ("section written otherwise", "repeated index") and flags["b"] == ("secondary of a single",)
    assert flags["d"] == ("no evidence",)


def test_reports_that_are_none(tmp_path):
    p = tmp_path / "ct.jsonl"
    for text, why in (('{"Clinical Trial ID": "A"}', "Eligibility is no list"), ("[1]", "report 1"), ('{"x": ', "report 1")):
        p.write_text(text)
        with pytest.raises(BadFile, match=why): T.read_trials(p)
    own = {"Clinical Trial ID": "A"} | {s: ["x"] for s in T.SECTIONS}
    p.write_text(json.dumps(own) + "\n" + json.dumps(own | {"Results": ["y"]}))
    with pytest.raises(BadFile, match="twice, differently"): T.read_trials(p)
    with pytest.raises(BadFile, match="without a"): T.read_trials(tmp_path / "ct.jsonl" if False else (tmp_path / "empty").mkdir() or tmp_path / "empty")


torch = pytest.importorskip("torch")
from reasonlab.models.encoder import ModelMissing, find_model  # noqa: E402

try: find_model(); has = True
except ModelMissing: has = False
weights = pytest.mark.skipif(not has, reason="the default encoder is not installed")


@weights
def test_the_command_with_the_model_that_ships(files):
    s, ct, out = files / "s.json", files / "ct.jsonl", files / "out.json"
    done = rl(s, "--trials", ct, "--task", 2, "--out", out, "--report", files / "p.html")
    assert done.exit_code == 0, done.output
    got = json.loads(out.read_text())
    assert set(got) == {"one", "two", "three"} and set(got["three"]) == {"Primary_evidence_index", "Secondary_evidence_index"}
    assert all(0 <= k < 8 for a in got.values() for v in a.values() for k in v)
    assert (files / "p.html").read_text().count("<dt>statement") == 3
    gz = files / "ct.jsonl.gz"
    gz.write_bytes(gzip.compress(ct.read_bytes()))
    again = rl(s, "--trials", gz, "--json")
    rows = list(map(json.loads, again.stdout.splitlines()))
    assert [r["id"] for r in rows] == ["one", "two", "three"]
    assert {(e["side"], e["index"]) for e in rows[0]["evidence"]} == {("Primary", k) for k in got["one"]["Primary_evidence_index"]}


@weights
def test_one_missing_trial_costs_one_row(files, tmp_path):
    s = json.loads((files / "s.json").read_text())
    s["lost"] = s["one"] | dict(Primary_id="LOST")
    p, out = tmp_path / "s.json", tmp_path / "o.json"
    p.write_text(json.dumps(s))
    done = rl(p, "--trials", files / "ct.jsonl", "--out", out)
    assert done.exit_code == 1 and "LOST is not among the reports" in done.stderr and set(json.loads(out.read_text())) == {"one", "two", "three"}
    assert all(set(v) == {"Prediction"} for v in json.loads(out.read_text()).values())


@real
@weights
def test_the_model_that_ships_says_of_dev_what_its_file_says():
    from reasonlab.models.encoder import Encoder
    from reasonlab.nli.trial_model import answer_statements, scores, shipped_model
    dev, trials, m = T.load_statements("dev"), T.load_trials(), shipped_model()
    some = dev[:40]
    got = answer_statements(some, trials, m, Encoder.load())
    s = scores(some, got)
    floor = T.constant_floors(some, trials)["every line"]["f1"]
    assert s["evidence_f1"] > floor + .05 and m.about["dev"]["n"] == 200 and m.about["dev"]["evidence_f1"] > .75
    again = answer_statements(some[::-1], trials, m, Encoder.load())[::-1]
    assert [a["label"] for a in got] == [a["label"] for a in again] and all(set(a["named"]) == set(b["named"]) for a, b in zip(got, again))
