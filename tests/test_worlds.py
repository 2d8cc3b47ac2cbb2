"""Worlds: the audit agrees with the generator, and notices what was planted behind its back."""
import ast
import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reasonlab import worlds
from reasonlab.core import World
from reasonlab.worlds import FAULTS, ArithmeticWorld, agrees, audit

SOURCE = Path(worlds.__file__)


@pytest.fixture(scope="module")
def rows():
    return ArithmeticWorld(corrupt=.7).items(np.random.default_rng(11), 5000)


def test_audit_agrees_on_thousands(rows):
    wrong = [r["id"] for r in rows if not agrees(r)]
    assert not wrong, wrong[:5]
    kinds = Counter(r["kind"] for r in rows)
    assert set(kinds) == {"none", *FAULTS}
    assert min(kinds[k] for k in FAULTS) > 400      # every kind really occurs
    assert {len(r["program"]) for r in rows} == {2, 3, 4, 5, 6}


def test_exactly_one_fault(rows):
    for r in rows:
        found = audit(r)
        assert len(found) == (r["label"] == "corrupt")
        assert (r["bad_index"] == -1) == (r["bad_step"] is None) == (r["kind"] == "none")
        if found:
            assert r["steps"][r["bad_index"]]["label"] == r["bad_step"]


def test_labels_are_positions_and_citations_point_back(rows):
    for r in rows:
        labels = [x["label"] for x in r["premises"] + r["steps"]]
        assert labels == [str(i + 1) for i in range(len(labels))]
        assert r["question"] == " ".join(p["text"] for p in r["premises"])
        assert r["premises"][-1]["role"] == "question" and r["steps"][-1]["role"] == "final"
        for s in r["steps"]:
            assert s["cites"] and all(int(c) < int(s["label"]) for c in s["cites"])
            assert s["result"] > 1 and len(set(s["cites"])) == len(s["cites"])


def _retext(s):
    s["text"] = s["text"].rsplit(". ", 1)[0] + f". {s['expr']} = {s['result']}"


def _change_result(r, rng):
    s = r["steps"][0]
    s["result"] += int(rng.integers(1, 9))
    _retext(s)
    return {"wrong_result"}


def _change_operand(r, rng):
    s = r["steps"][int(rng.integers(len(r["steps"]) - 1))]
    a, b = s["operands"]
    s["expr"] = f"{a + 1} {s['op']} {b}"
    _retext(s)
    return {"wrong_operand", "wrong_result"}


def _drop_citation(r, rng):
    step = next((s for s in r["steps"][:-1] if len(s["cites"]) > 1), None)
    if step is None:
        return None
    needed = [c for c in step["cites"] if c != r["premises"][-1]["label"]]
    step["cites"].remove(needed[0])
    return {"missing_citation"}


def _change_final(r, rng):
    r["steps"][-1]["text"] = f"The answer is {r['gold'] + 1}."
    return {"wrong_final"}


def _change_premise(r, rng):
    used = {a.split("/")[0] for n in r["program"] for a in n["args"] if "/" in a}
    p = next(p for p in r["premises"] if p["label"] in used)
    p["text"] = p["text"].replace(str(p["values"][0]), str(p["values"][0] + 1))
    return {"wrong_operand"}


@pytest.mark.parametrize("spoil", [_change_result, _change_operand, _drop_citation, _change_final, _change_premise])
def test_what_is_planted_behind_its_back_is_noticed(rows, spoil):
    rng, tried = np.random.default_rng(0), 0
    for r in [r for r in rows if r["kind"] == "none"][:300]:
        s = copy.deepcopy(r)
        want = spoil(s, rng)
        if want is None:
            continue
        tried += 1
        assert want & {k for k, _ in audit(s)}, (spoil.__name__, r["id"])
        assert not agrees(s)
    assert tried > 200


def test_a_wrong_declaration_is_noticed(rows):
    for r in rows[:500]:
        flipped = dict(r, kind="none" if r["kind"] != "none" else "wrong_result", bad_index=0)
        assert not agrees(flipped)
        assert not agrees(dict(r, gold=r["gold"] + 1))
        if r["label"] == "corrupt":
            assert not agrees(dict(r, bad_index=r["bad_index"] + 1))


def test_audit_reads_no_label(rows):
    hidden = ("label", "kind", "bad_step", "bad_index", "truth", "gold", "answer", "id", "family")
    for r in rows[:500]:
        assert audit({k: v for k, v in r.items() if k not in hidden}) == audit(r)


def test_audit_shares_no_code_with_the_generator():
    defs = {d.name: d for d in ast.parse(SOURCE.read_text(encoding="utf-8")).body
            if isinstance(d, (ast.FunctionDef, ast.ClassDef))}
    names = {k: {n.id for n in ast.walk(d) if isinstance(n, ast.Name)} & set(defs) - {k} for k, d in defs.items()}

    def closure(k, seen=()):
        return {k}.union(*(closure(x, (*seen, k)) for x in names[k] if x not in seen))
    assert closure("audit") & (closure("ArithmeticWorld")) == set()


def test_same_seed_same_items_and_plain_json():
    w = ArithmeticWorld()
    a, b = (w.items(np.random.default_rng(5), 50) for _ in range(2))
    assert a == b and json.loads(json.dumps(a)) == a
    assert w.items(np.random.default_rng(6), 50) != a
    assert isinstance(w, World)


def test_settings_hold():
    w = ArithmeticWorld(ops=(2, 2), distractors=(0, 0), top=50, corrupt=1, kinds=("wrong_result",), families=("farm",))
    for r in w.items(np.random.default_rng(0), 200):
        assert r["family"] == "farm" and r["kind"] == "wrong_result" and len(r["program"]) == 2
        assert all(p["role"] != "distractor" for p in r["premises"])
        assert max([s["result"] for s in r["steps"]] + [v for p in r["premises"] for v in p["values"]]) <= 50


def test_table_has_declared_features():
    pytest.importorskip("datasets", reason="the extra [models] is not installed")
    w = ArithmeticWorld()
    table = w.sample(np.random.default_rng(5), 30)
    assert table.features == worlds.features() and table.to_list() == w.items(np.random.default_rng(5), 30)


@pytest.mark.parametrize("style", ["natural_program", "reference_end"])
def test_rendered_item_parses_back(rows, style):
    render = pytest.importorskip("reasonlab.verification.render", reason="chains cannot be rendered yet")
    from reasonlab.verification.steps import parse
    for r in rows[:300]:
        chain = render.from_items(r["question"], r["premises"], r["steps"])
        back = parse(chain.question, render.render(chain, style))
        assert [s.label for s in (*back.premises, *back.steps)] == [s["label"] for s in r["premises"] + r["steps"]]
        assert [s.text for s in (*back.premises, *back.steps)] == [s["text"] for s in r["premises"] + r["steps"]]
        assert [[c.label for c in s.cites] for s in back.steps] == [s["cites"] for s in r["steps"]]
        assert [s.role for s in back.steps] == [s["role"] for s in r["steps"]] and not back.unparsed
