"FACTOID: spans in odd texts, the world read twice, the heads, the index, and factcheck with its real weights"
import json, unicodedata
from collections import Counter
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner
from reasonlab.nli import spans as S
from reasonlab.nli.fact_world import FactWorld
from reasonlab.nli.hvi import behind, corrected, corrected_kind, hvi_auto

torch = pytest.importorskip("torch")


@given(st.text(max_size=60), st.data())
@settings(max_examples=200, deadline=None)
def test_a_span_comes_back_or_is_reported(text, data):
    if len(text) < 2: return
    a = data.draw(st.integers(0, len(text) - 1))
    b = data.draw(st.integers(a + 1, len(text)))
    at = S.word_spans(text)
    m = S.marked(at, [(a, b)])
    back, said = S.spans_of(at, m, text), S.kept(at, [(a, b)], text)
    assert sum(said.values()) == 1 and ("exact" in said) == ((a, b) in back)
    if m.any(): assert all(any(c < y and x < d for c, d in at) for x, y in back)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_checked_spans_are_apart_and_cover_the_same(spans):
    text = "x" * 25
    bad = [s for s in spans if s[0] >= s[1] or s[1] > 25]
    if bad:
        with pytest.raises(ValueError, match="span"): S.checked(text, spans)
        return
    found = Counter()
    out = S.checked(text, spans, None, found)
    assert found.total() == len(spans) - len(out)
    if found:
        with pytest.raises(ValueError, match="spans: "): S.checked(text, spans)
    assert {i for a, b in spans for i in range(a, b)} == {i for a, b, _ in out for i in range(a, b)}
    assert all(x[1] <= y[0] for x, y in zip(out, out[1:]))


@pytest.mark.parametrize("claim,word", [("Ｔhe ｍill of １９０５", "１９０５"), ("caf\u00e9 of 1905", "1905"), ("\ufb01nal in 1905", "1905"), ("🙂🙂 in 1905", "1905")])
def test_offsets_are_those_of_the_text_as_given(claim, word):
    at, new = S.token_diff(claim, "The mill of 1903, a café, a final.", values=True)
    assert word in [claim[a:b] for (a, b), m in zip(at, new) if m]


def test_the_floor_folds_signs():
    for a, b in (("ﬁrm", "firm"), ("１９０３", "1903"), ("twelve", "12"), ("Toven’s", "toven's")): assert S.plain_word(a) == S.plain_word(b)
    assert S.plain_word(unicodedata.normalize("NFC", "café")) == "café"


def test_numbers_inside_dates_are_time():
    t = "On 14 May 1903 there were 14 guests."
    kinds = {w: S.kind_by_form(t, t.index(w), t.index(w) + len(w)) for w in ("14 May 1903", "1903", "14 guests")}
    assert kinds == {"14 May 1903": "TI", "1903": "TI", "14 guests": "BN"}


@pytest.mark.parametrize("errors", [1, 2, 3])
def test_several_errors_have_several_spans(errors):
    rows = FactWorld(errors=errors).rows(np.random.default_rng(errors), 200)
    n = [len(r["spans"]) for r in rows if r["label"] == "refuted"]
    assert max(n) == errors and min(n) >= 1
    for r in rows:
        assert S.checked(r["claim"], r["spans"], r["kinds"]) == sorted((a, b, k) for (a, b), k in zip(r["spans"], r["kinds"]))


def test_the_world_says_nothing_by_itself():
    "Claim alone, evidence alone and their lengths are at chance across pools"
    from reasonlab.nli.fact_world import words_alone
    learn, new = (FactWorld(p).rows(np.random.default_rng(p + 7), 1500) for p in (0, 1))
    y = np.array([r["label"] == "refuted" for r in new])
    for field in ("claim", "evidence"):
        assert abs(((words_alone(learn, new, field) > .5) == y).mean() - .5) < .05
    size = np.array([len(r["claim"]) for r in new])
    assert abs(size[y].mean() - size[~y].mean()) < 4


def test_the_length_of_the_evidence_says_nothing_of_strict_rows():
    rows = FactWorld(neutral=1 / 3, strict=True).rows(np.random.default_rng(3), 3000)
    n = {k: np.mean([r["evidence"].count(".") for r in rows if r["label"] == k]) for k in ("supported", "refuted", "not_enough")}
    assert max(n.values()) - min(n.values()) < .2


def test_rows_without_neutral_do_not_change_with_the_option_off():
    "The stream of rows that shipped weights were made from"
    r = FactWorld(0, neutral=.2).rows(np.random.default_rng(0), 50)
    few = [x["evidence"].count(".") for x in r if x["label"] == "not_enough"]
    assert len(few) == 10 and max(few) <= 6


@given(st.lists(st.integers(1, 40), min_size=4, max_size=4), st.floats(0, .9))
@settings(max_examples=50, deadline=None)
def test_the_correction_undoes_what_the_detector_did(mix, keep):
    p = np.array([40, *mix], float)
    p /= p.sum()
    C = (.3 + .6 * keep) * np.eye(5)
    C += (1 - C.sum(1, keepdims=True)) / 5
    assert np.abs(behind(C.T @ p, C) - p).max() < 1e-6


@pytest.mark.parametrize("kind", S.KINDS)
def test_one_kind_against_the_rest_agrees_with_the_table(kind):
    "With a symmetric detector and the mix of the calibration both say the same, and cover"
    rng, C = np.random.default_rng(3), np.eye(5) * .7 + .06
    known = np.round(400 * C)
    said = np.array([rng.choice(5, p=C[t]) for t in rng.choice(5, 4000)])
    one, all_ = corrected_kind(said, np.arange(4000), known, kind, rng), corrected(said, np.arange(4000), known, rng)[kind]
    assert one.low < .2 < one.high and abs(one.estimate - all_.estimate) < .01


def test_the_interval_of_a_rate_covers():
    rng, C, inside = np.random.default_rng(0), np.eye(5) * .7 + .06, []
    for _ in range(60):
        known = np.stack([rng.multinomial(80, c) for c in C])
        true = rng.choice(5, 500, p=[.7, .1, .1, .05, .05])
        said = np.array([rng.choice(5, p=C[t]) for t in true])
        i = corrected(said, np.arange(500), known, rng, draws=200)["any"]
        inside.append(i.low <= .3 <= i.high)
    assert .85 < np.mean(inside)


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=8), st.integers(0, 31))
@settings(max_examples=100, deadline=None)
def test_the_index_is_monotone(rows, k):
    H = np.array(rows)
    more = H.copy()
    more[k // 4 % len(H), k % 4] = 1
    assert 0 <= hvi_auto(H) <= hvi_auto(more) <= 100 and hvi_auto(np.tile(H, (3, 1))) == pytest.approx(hvi_auto(H))


from reasonlab.models.encoder import ModelMissing, find_model  # noqa: E402

try: find_model(); has = True
except ModelMissing: has = False
weights = pytest.mark.skipif(not has, reason="the default encoder is not installed")


def rl(*args, **kw):
    from reasonlab.lab import cli, cli_factcheck  # noqa: F401
    return CliRunner().invoke(cli.app, ["factcheck", *map(str, args)], **kw)


PAGE = "Mira Toven founded the mill in 1903. Twelve people worked there. Later it burnt down. Visitors are welcome on Sundays. There is a small shop."


@weights
def test_the_command_with_the_weights_that_ship(tmp_path):
    p, page = tmp_path / "c.jsonl", tmp_path / "p.html"
    p.write_text(rl("--example").stdout + json.dumps(dict(evidence="", claim="x")) + "\n" + json.dumps(dict(evidence=PAGE, claim=PAGE)) + "\n")
    done = rl(p, "--json", "--report", page)
    rows = list(map(json.loads, done.stdout.splitlines()))
    assert done.exit_code == 1, done.stderr
    assert len(rows) == 5 and "evidence is empty" in rows[3]["error"]
    by = {r["id"]: r for r in rows}
    assert by["fire"]["label"] == "supported" and by["year"]["label"] != "supported" and by["5"]["label"] == "supported"
    claim = "The mill was founded in 1905."
    assert "1905" in [claim[s["start"]:s["end"]] for s in by["year"]["spans"]] and by["year"]["spans"][0]["type"] in (*S.KINDS, None)
    assert "<mark" in page.read_text() and rl(p, "--fail-on", "supported").exit_code == 3


@weights
def test_a_long_page_gets_the_verdict_of_its_part():
    from reasonlab.nli.factcheck import factcheck_rows
    filler = " ".join(f"The weather of day {i % 9 + 20} was neither warm nor cold." for i in range(8000))
    half = filler.index("The weather", len(filler) // 2)
    long = filler[:half] + PAGE + " " + filler[half:]
    assert len(long.split()) > 70_000
    claims = ["Mira Toven founded the mill in 1905.", "Twelve people worked in the mill that Mira Toven founded."]
    a, b = (factcheck_rows([dict(evidence=e, claim=c) for c in claims]) for e in (long, PAGE))
    assert [r["label"] for r in a] == [r["label"] for r in b]
    for r, s in zip(a, b): assert [long[c["start"]:c["end"]] for c in r["cited"]][:1] == [PAGE[c["start"]:c["end"]] for c in s["cited"]][:1]


@weights
@pytest.mark.parametrize("claim", ["🙂 worked there.", "أسس المصنع عام 1905.", "a\ud800b in 1905", "?" * 300, "Mira Toven founded it in 1905, with 14 people, in Kelbrook."])
def test_odd_claims_are_answered(claim):
    from reasonlab.nli.factcheck import factcheck_rows
    r, = factcheck_rows([dict(evidence=PAGE, claim=claim)])
    assert "error" in r or r["label"] in ("supported", "refuted", "not_enough")
    for s in r.get("spans", []): assert 0 <= s["start"] < s["end"] <= len(claim)


@weights
def test_bad_rows_do_not_cost_good_ones():
    from reasonlab.nli.factcheck import factcheck_rows
    rows = [dict(evidence=PAGE), 3, dict(evidence=PAGE, claim=1), dict(evidence=PAGE, claim="Later it burnt down."), dict(evidence=" ", claim="x")]
    got = factcheck_rows(rows)
    assert ["error" in r for r in got] == [True, True, True, False, True] and got[3]["label"] == "supported"
