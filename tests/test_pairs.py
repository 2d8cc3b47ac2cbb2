"Pairs of many sets, grouped and dealt: no sentence on both sides, whatever the order, and nothing lost without being counted"
import hashlib
import json
import os
import random
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from reasonlab.core import LABELS
from reasonlab.data import catalog, rows
from reasonlab.nli import held_out, pairs
from reasonlab.sets import PAIRS

real = pytest.mark.skipif(not os.environ.get("REASONLAB_DATA"), reason="REASONLAB_DATA is not set: the public sets are not here")


def row(name, p, h, label="neutral"): return dict(set=name, premise=p, hypothesis=h, label=label)


few = st.sampled_from([f"text {i}" for i in range(12)] + ["Text 3!", "text  4 .", "?", ""])
made = st.lists(st.builds(row, st.sampled_from(["snli", "mnli", "help", "med", "cad_nli"]), few, few, st.sampled_from(LABELS)), min_size=1, max_size=30)


def words(text): return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def by_matrix(rs):
    "Groups by a sparse matrix of rows and texts, with a normalisation of its own: another program for the same idea"
    ties = [[w for w in (words(r["premise"]), words(r["hypothesis"]) if r["set"] in pairs.REVISED else []) if w] or [[]] for r in rs]
    names = sorted({tuple(w) for ws in ties for w in ws})
    edges = [(i, len(rs) + names.index(tuple(w))) for i, ws in enumerate(ties) for w in ws]
    a, b = zip(*edges)
    n = len(rs) + len(names)
    return connected_components(coo_matrix((np.ones(len(edges)), (a, b)), (n, n)), directed=False)[1][:len(rs)]


@given(made)
def test_groups_are_those_of_another_program(rs):
    mine, other = pairs.components(rs), by_matrix(rs)
    assert [[x == y for y in mine] for x in mine] == [[x == y for y in other] for x in other]


@given(made, st.randoms(use_true_random=False))
def test_names_do_not_depend_on_the_order(rs, rng):
    order = rng.sample(range(len(rs)), len(rs))
    before, after = pairs.components(rs), pairs.components([rs[i] for i in order])
    assert after == [before[i] for i in order]
    texts = {t for r in rs for t in pairs.nodes(r)}
    assert set(before) <= texts and all(n <= t for r, n in zip(rs, before) for t in pairs.nodes(r))


@given(made, made)
def test_more_rows_only_join_groups(rs, more):
    "What was together stays together"
    before, after = pairs.components(rs), pairs.components(rs + more)
    assert len(set(zip(before, after))) == len(set(before))


@settings(deadline=None)
@given(made)
def test_a_mixture_leaks_nothing_and_loses_nothing(rs):
    m = pairs.mixture(("snli", "mnli", "help", "cad_nli"), load=lambda n: [r for r in rs if r["set"] == n])
    parts = dict(train=m.train, dev=m.dev, test=m.test)
    sides = {}
    for p, rs_ in parts.items():
        for r in rs_:
            assert m.part(r) == p
            for t in (r["premise"], *[r["hypothesis"]] * (r["set"] in pairs.REVISED)): sides.setdefault(tuple(words(t)), set()).add(p)
    assert all(len(s) == 1 for s in sides.values())
    total = sum(r["set"] != "med" for r in rs)
    assert sum(map(len, parts.values())) + m.dropped.total() == total
    assert sum(c[p] for c in m.counts().values() for p in parts) == total - m.dropped.total()
    assert not {(r["premise"], r["hypothesis"]) for r in m.train if not words(r["hypothesis"])}


@settings(deadline=None)
@given(st.lists(st.builds(row, st.sampled_from(["snli", "mnli"]), st.sampled_from("ab"), st.sampled_from("cd?"), st.sampled_from(LABELS)), max_size=12))
def test_an_order_of_sets_decides_who_keeps_a_pair(rs):
    load = lambda n: [r for r in rs if r["set"] == n]
    pair = lambda r: (r["premise"], r["hypothesis"])
    for order in (("snli", "mnli"), ("mnli", "snli")):
        m = pairs.mixture(order, load=load)
        kept = {pair(r): (r["set"], r["label"]) for r in m.train + m.dev + m.test}
        want = {}
        for p, h in ((p, h) for p in "ab" for h in "cd"):
            owner = next((n for n in order if any(pair(r) == (p, h) for r in load(n))), None)
            said = {r["label"] for r in load(owner) if pair(r) == (p, h)} if owner else set()
            if len(said) == 1: want[p, h] = owner, *said  # what its own set labels twice, differently, teaches nothing
        assert kept == want


def groups(n=400, rng=random.Random(1)):
    out = []
    for i in range(n):
        base = [f"base {i} a", f"base {i} b", f"base {i} c"]
        out += [row("snli", base[0], f"free {rng.random()}"), row("cad_nli", base[0], base[1]), row("cad_nli", base[2], base[1])]
    return out


@pytest.mark.parametrize("plant", ["premise", "revision", "spelling"])
def test_a_planted_leak_is_found(plant):
    rs = groups()
    side = {p: [r for r, n in zip(rs, pairs.components(rs)) if pairs.part_of(n) == p] for p in pairs.PARTS}
    pairs.disjoint(side["train"], side["test"])
    r = side["train"][-1]
    leak = dict(premise=row("snli", r["premise"], "new"), revision=row("help", "new", r["hypothesis"]), spelling=row("snli", f" {r['premise'].upper()} !", "new"))
    with pytest.raises(pairs.Leak, match="1 of the texts"): pairs.disjoint(side["train"], [*side["test"], leak[plant]])
    with pytest.raises(pairs.Leak): pairs.disjoint([*side["train"], leak[plant]], side["train"][-1:])


def test_a_hypothesis_that_is_no_revision_ties_nothing():
    a, b = row("snli", "one", "the same"), row("snli", "two", "the same")
    pairs.disjoint([a], [b])
    assert len(set(pairs.components([a, b]))) == 2 == 1 + len(set(pairs.components([a | {"set": "sick"}, b | {"set": "sick"}])))


def test_a_set_beside_joins_groups():
    "A sentence of a set that is only measured on ties two training groups together"
    a, b, tie = row("snli", "left", "x"), row("snli", "right", "y"), row("med", "left", "right")
    load = lambda n: dict(snli=[a, b], med=[tie]).get(n, [])
    apart, joined = (pairs.mixture(("snli",), beside, load) for beside in ((), ("med",)))
    names = lambda m: {r["group"] for r in m.train + m.dev + m.test}
    assert len(names(apart)) == 2 and names(joined) == {"left"}


@given(made, made)
def test_unseen_is_unseen(trained, others):
    known = pairs.linked(trained + others)
    got = pairs.unseen(others, trained, known)
    seen = {tuple(words(r[k])) for r in trained for k in ("premise", "hypothesis")} - {()}
    assert not seen & {tuple(words(r[k])) for r in got for k in ("premise", "hypothesis")}
    names = dict(zip(map(id, trained + others), pairs.components(trained + others)))
    assert not {names[id(r)] for r in trained} & {names[id(r)] for r in got} - {""}
    assert pairs.unseen(others, [], known) == others and pairs.unseen(got, trained, known) == got
    wordless = [r for r in trained if not words(r["premise"] + r["hypothesis"])]
    assert pairs.unseen(trained, trained, known) == wordless


DAMAGE = [("cp1252", "utf-8"), ("latin-1", "utf-8"), ("cp437", "utf-8"), ("utf-8", "latin-1"), ("utf-8", "ascii")]


@pytest.mark.parametrize("read,written", DAMAGE)
@pytest.mark.parametrize("field", ["premise", "hypothesis"])
def test_a_damaged_copy_is_known(read, written, field):
    "The same text read with a wrong encoding is another text to `normalise`, and another group; it must not be measured on"
    text = "The café’s owner … paid £5, naïvely."
    copy = text.encode(written, "replace").decode(read, "replace")
    assert copy != text and pairs.normalise(copy) != pairs.normalise(text)
    a, b = row("snli", text, "left"), row("mnli", "right", "above") | {field: copy}
    assert len(set(pairs.linked([a, b]).values())) == 2
    assert pairs.unseen([b, row("mnli", "right", "above")], [a], pairs.linked([a, b, row("mnli", "right", "above")])) == [row("mnli", "right", "above")]


def test_a_hypothesis_that_stands_in_training_is_not_measured(monkeypatch):
    "Planted: one short hypothesis under many premises, in two sets, and one set that was never trained on; each is left out, counted, and nothing is scored"
    made = dict(snli=[row("snli", f"premise {i}", f"free {i}", LABELS[i % 3]) for i in range(300)],
                mnli=[row("mnli", f"other {i}", f"as free {i}", LABELS[i % 3]) for i in range(300)],
                rte=[row("rte", f"news {i}", f"said {i}", ("entailment", "not_entailment")[i % 2]) for i in range(50)])
    load = lambda n, task=None: made.get(n, [])
    m = pairs.mixture(load=load)
    test = [r for r in m.test if r["set"] == "snli"]
    planted = ("A man sleeps!", "A girl rides.")
    for r in [r for r in m.train if r["set"] == "snli"][:2] + test[:4] + made["rte"][:3]: r["hypothesis"] = planted[0].upper()
    for r in m.dev[:1] + [r for r in m.test if r["set"] == "mnli"][:2]: r["hypothesis"] = planted[1]
    monkeypatch.setattr(held_out, "rows", load)
    found = {c.set: c for c in held_out.cases(m)}
    assert {s: c.left_out for s, c in found.items()} == dict(snli=4, mnli=2, rte=3)
    assert len(found["snli"].rows) == len(test) - 4 and len(found["rte"].rows) == 47
    on_dev = {c.set: c.left_out for c in held_out.cases(m, "dev")}
    assert on_dev["snli"] == on_dev["mnli"] == 0 and on_dev["rte"] == 3
    with pytest.raises(pairs.Leak, match="a man sleeps"): pairs.disjoint(m.train, m.test, every=True)
    pairs.disjoint(m.train, m.test)  # which ties premises, and saw nothing
    monkeypatch.setattr(held_out, "known_to", lambda *_: lambda r: False)
    with pytest.raises(pairs.Leak): held_out.cases(m)  # a filter that lets it through is found out


def test_a_set_decides_how_its_lines_are_asked():
    "A phenomenon that is all entailed, or never contradicted, is asked as its set is; what is left out decides, too"
    rs = [row("breaking_nli", f"p {i}", "h", l) | dict(category=c) for i, (l, c) in enumerate([("entailment", "synonyms"), ("contradiction", "colors")] * 9)]
    assert [(c.about, c.two) for c in held_out.split_up("breaking_nli", rs)] == [("", False), ("colors", False), ("synonyms", False)]
    assert [c.two for c in held_out.split_up("breaking_nli", rs[::2], rs[1::2])] == [False, False]
    (_, _, synonyms) = held_out.split_up("breaking_nli", rs)
    p = np.tile([.45, .3, .25], (9, 1))  # the most likely label is right, though less than one half
    got = held_out.line(synonyms, p, [r["premise"] for r in synonyms.rows], [], np.random.default_rng(0))
    assert got["labels"] == 3 and got["accuracy"][0] == 1
    two = [row("med", f"p {i}", "h", l) | dict(direction=d) for i, (l, d) in enumerate([("entailment", "upward"), ("neutral", "downward")] * 9)]
    assert all(c.two for c in held_out.split_up("med", two))


def test_the_floor_of_a_set_is_fitted_on_the_pairs_it_shares(monkeypatch):
    "TaxiNLI's pairs are MultiNLI's: what gives them away is learnt from both, and its line has the floor of the better informed"
    words = dict(entailment="some", neutral="maybe", contradiction="never")
    def give(name, i, l, **kw): return row(name, f"{name} {i}", f"{words[l]} {name} {i}", l) | kw
    made = dict(mnli=[give("mnli", i, LABELS[i % 3]) for i in range(300)], taxinli=[give("taxinli", i, LABELS[i % 3], categories=["x"]) for i in range(300)])
    m = pairs.mixture(load=lambda n: made.get(n, []))
    m.train = [r for r in m.train if r["set"] == "mnli"]
    monkeypatch.setattr(held_out, "rows", lambda n, task=None: made.get(n, []))
    torch = pytest.importorskip("torch")
    class Blank:
        def results(self, p, h, progress):
            return SimpleNamespace(probs=torch.full((len(p), 3), 1 / 3), errors={}, cut=[0] * len(p))
    lines = {(r["set"], r["about"]): r for r in held_out.measure(Blank(), m)}
    assert lines["taxinli", ""]["without_premise"] == 1 == lines["taxinli", "x"]["without_premise"]
    assert lines["taxinli", ""]["left_out"] == 0 and lines["taxinli", ""]["labels"] == 3


@pytest.mark.parametrize("name", PAIRS)
def test_only_what_a_licence_allows_is_trained_on(name):
    if catalog()[name].trainable: assert pairs.trainable(name) == name
    else:
        with pytest.raises(pairs.NotTrainable, match=f"{name} may not be trained on"): pairs.mixture(("snli", name), load=lambda n: pytest.fail("rows were read"))


@given(st.lists(st.sampled_from(LABELS), min_size=1))
def test_the_majority_is_the_most_common(labels):
    (said,) = pairs.majority(labels, 1)
    assert labels.count(said) == max(map(labels.count, LABELS))


def test_the_second_floor_is_blind_to_the_premise():
    "The premise decides everything here: a model that reads only the hypothesis is at chance, one that read more would be right"
    rng = random.Random(0)
    rs = [row("snli", s, f"item {rng.randrange(30)}", l) for s, l in rng.choices([("yes", "entailment"), ("no", "contradiction")], k=2000)]
    said = pairs.hypothesis_only(rs[:1500], rs[1500:])
    assert .4 < np.mean([a == r["label"] for a, r in zip(said, rs[1500:])]) < .6
    assert said == pairs.hypothesis_only(rs[:1500], [r | {"premise": ""} for r in rs[1500:]])


@pytest.fixture(scope="module")
def mix(): return pairs.mixture()


@real
def test_the_real_sets_share_nothing(mix):
    "Counted without the functions of the module"
    premises = {p: {" ".join(words(r["premise"])) for r in getattr(mix, p)} for p in pairs.PARTS}
    revised = {p: {" ".join(words(r[k])) for r in getattr(mix, p) if r["set"] in pairs.REVISED for k in ("premise", "hypothesis")} for p in pairs.PARTS}
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not (premises[a] | revised[a]) & (premises[b] | revised[b])
    with pytest.raises(pairs.Leak): pairs.disjoint(mix.train, mix.test[:1] + mix.train[:1])


@real
def test_the_shares_of_the_real_sets(mix):
    n = {p: len(getattr(mix, p)) for p in pairs.PARTS}
    total = sum(n.values())
    assert total + mix.dropped.total() == sum(f.records for s in pairs.TRAIN for f in catalog()[s].files)
    for p, share in zip(pairs.PARTS, (.80, .08, .12)): assert abs(n[p] / total - share) < .015
    assert set(mix.counts()) == set(pairs.TRAIN) and len(set(mix.groups.values())) > 40_000
    sizes = Counter(r["group"] for r in mix.train + mix.dev + mix.test)
    assert max(sizes.values()) < 100  # no text is so common that it swallows a set


@real
def test_sets_for_the_test_alone(mix):
    seen = {" ".join(words(r[k])) for r in mix.train for k in ("premise", "hypothesis")}
    for name in ("med", "monli", "breaking_nli", "sick"):
        rs = rows(name)
        kept = pairs.unseen(rs, mix.train, mix.groups)
        assert .9 * len(rs) < len(kept) < len(rs)
        assert not seen & {" ".join(words(r[k])) for r in kept for k in ("premise", "hypothesis")}


def digest(rs): return hashlib.sha256("\n".join(json.dumps(r, sort_keys=True) for r in rs).encode()).hexdigest()[:24]


@real
def test_the_split_the_judge_was_trained_from(mix):
    "Row by row: a change here makes the shipped judge one that was trained on something else, and its test part one that it may have seen"
    assert (len(mix.train), digest(mix.train)) == (42337, "c0625842553c25e9731d2217")
    assert (len(mix.dev), digest(mix.dev)) == (4105, "3008998ee8e7d786b4478836")


@real
def test_no_text_that_is_measured_stands_in_training(mix):
    "Counted without the functions of the module; by words, and by what is left of a text in plain letters"
    texts = lambda r: [r["premise"], r["hypothesis"], *r.get("parts", ())]
    plain = lambda t: re.sub("[^a-z0-9]", "", t.encode("ascii", "ignore").decode().lower())
    seen = {k for r in mix.train + mix.dev for t in texts(r) for k in (" ".join(words(t)), plain(t))} - {""}
    found = held_out.cases(mix)
    assert not [c.set for c in found for r in c.rows if {k for t in texts(r) for k in (" ".join(words(t)), plain(t))} & seen]
    whole, test = {c.set: c for c in found if not c.about}, mix.counts()
    assert {s: len(c.rows) + c.left_out for s, c in whole.items() if s in ("snli", "mnli", "cad_nli", "conjnli", "help")} == {
        s: test[s]["test"] for s in ("snli", "mnli", "cad_nli", "conjnli", "help")}
    assert whole["snli"].left_out > 50 and whole["mnli"].left_out > 5 and whole["cad_nli"].left_out > 30
    both = {p: {(plain(r["premise"]), plain(r["hypothesis"])) for r in mix.train if r["set"] == p} for p in ("mnli", "taxinli")}
    twins = [r for r in mix.test if r["set"] == "mnli" and (plain(r["premise"]), plain(r["hypothesis"])) in both["taxinli"]]
    kept = {r["id"] for c in found for r in c.rows}
    assert twins and not {r["id"] for r in twins} & kept
