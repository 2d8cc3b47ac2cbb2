"The decisions of 0Shot-TC, once more text by text; measures against scikit-learn; what must not matter does not"
import itertools
import json

import numpy as np
import pytest

from reasonlab.claims import verdict
from reasonlab.nli import arms, rules, topics, zero_shot
from reasonlab.nli.label_sets import EMOTION, NEWS, SETS, SITUATION, LexicalJudge, gold_of, grouped, label_set, score

CASES = 10_000


# A second implementation of the three rules: loops over hypotheses, one text at a time, no arrays

def best(p, of, wanted):
    "(score, label) of the first best hypothesis among the wanted labels; (-1, None) without any"
    top = (-1.0, None)
    for q, y in zip(p, of):
        if y in wanted and q > top[0]: top = (q, y)
    return top


def literal_topic(p, of, seen, unseen, margin):
    s_yes = any(q > .5 for q, y in zip(p, of) if y in seen)
    u_yes = any(q > .5 for q, y in zip(p, of) if y in unseen)
    (qs, ys), (qu, yu) = best(p, of, seen), best(p, of, unseen)
    if s_yes and not u_yes: return ys
    if u_yes and not s_yes: return yu
    return ys if qs - qu > margin else yu


def literal_emotion(p, of, seen, unseen, margin):
    if not any(q > .5 for q in p): return rules.NONE
    return literal_topic(p, of, seen, unseen, margin)


def literal_situation(p, of, seen):
    out = set()
    for q, y in zip(p, of):
        if q > (.6 if y in seen else .5): out.add(y)
    return out


def cases(n, rng):
    "Random tables on a coarse grid (so that ties happen), hypotheses per label, and masks (empty and full ones too)"
    for _ in range(n // 50):
        Y = int(rng.integers(2, 7))
        of = np.repeat(np.arange(Y), rng.integers(1, 4, Y))
        grid = rng.choice([.1, .05, .01])
        p = np.round(rng.random((50, len(of))) / grid) * grid
        seen = rng.random(Y) < rng.choice([0, .3, .5, 1])
        yield p, of, Y, seen


def test_rules_match_the_literal_ones():
    rng, ties, empty, n = np.random.default_rng(0), 0, 0, 0
    for p, of, Y, seen in cases(CASES, rng):
        G, names = grouped(p, of, Y), set(range(Y))
        s, u = set(np.flatnonzero(seen).tolist()), set(np.flatnonzero(~seen).tolist())
        empty += not s or not u
        topic, emotion, several = rules.topic(G, seen), rules.emotion(G, seen), rules.situation(G, seen)
        for k, row in enumerate(p.tolist()):
            ties += len(set(G[k])) < Y
            assert topic[k] == literal_topic(row, of, s, u, .1), (row, of, seen)
            assert emotion[k] == literal_emotion(row, of, s, u, .05), (row, of, seen)
            assert set(np.flatnonzero(several[k])) == literal_situation(row, of, s)
            n += 1
        assert names == s | u
    assert n == CASES and ties > 1000 and empty > 20


def test_the_comparison_of_rules_can_fail():
    "A rule with a wrong comparison, or without the margin, differs somewhere on those cases"
    rng, off = np.random.default_rng(0), [0, 0]
    for p, of, Y, seen in cases(CASES, rng):
        G = grouped(p, of, Y)
        a_s, y_s, a_u, y_u = rules.sides(G, seen)
        take = np.where((a_s >= .5) == (a_u >= .5), a_s - a_u > .1, a_s >= .5)  # >= for >
        off[0] += (np.where(take, y_s, y_u) != rules.topic(G, seen)).sum()
        off[1] += (rules.topic(G, seen, 0) != rules.topic(G, seen)).sum()
    assert min(off) > 0


def test_fully_unseen_topic_is_argmax():
    for p, of, Y, _ in cases(CASES, np.random.default_rng(1)):
        G = grouped(p, of, Y)
        assert (rules.topic(G, np.zeros(Y, bool)) == G.argmax(1)).all()


@pytest.mark.parametrize("upstream", [False, True])
def test_ensemble_against_loops(upstream):
    ps = np.random.default_rng(2).random((3, 40, 5))
    got = rules.ensemble(ps, upstream)
    for i, j in itertools.product(range(40), range(5)):
        pairs = [(float(m[i, j]), 1 - float(m[i, j])) for m in ps]
        yes, no = (sum(q[k] for q in pairs) for k in (0, 1))
        want = np.exp(yes) / (np.exp(yes) + np.exp(no)) if upstream else yes / 3
        assert abs(got[i, j] - want) < 1e-12


def test_weighted_f1_is_sklearns():
    from sklearn.metrics import f1_score
    rng = np.random.default_rng(3)
    for _ in range(200):
        Y, n = int(rng.integers(2, 8)), int(rng.integers(5, 60))
        y, p = rng.integers(Y, size=n), rng.integers(Y, size=n)
        gold, pred = rules.with_none(y, Y), rules.with_none(p, Y)
        want = f1_score(y, p, average="weighted", zero_division=0)
        assert abs(rules.weighted_f1(gold, pred) - want) < 1e-12
        part = rng.random(Y + 1) < .5
        sizes = [gold[:, m].sum() for m in (part, ~part)]
        f = [rules.weighted_f1(gold, pred, part=m) for m in (part, ~part)]
        assert abs(np.dot(sizes, f) / n - want) < 1e-12
        w = rng.integers(0, 4, n)  # a weight is a repetition
        if w.sum() == 0: continue
        again = rules.weighted_f1(np.repeat(gold, w, 0), np.repeat(pred, w, 0))
        assert abs(rules.weighted_f1(gold, pred, w[None])[0] - again) < 1e-12


def test_multi_label_f1_is_sklearns():
    from sklearn.metrics import f1_score
    rng = np.random.default_rng(4)
    gold, pred = rng.random((80, 6)) < .3, rng.random((80, 6)) < .3
    gold[:, 4] = False  # never gold: no weight, no division by nought
    assert abs(rules.weighted_f1(gold, pred) - f1_score(gold, pred, average="weighted", zero_division=0)) < 1e-12
    assert rules.weighted_f1(gold[:, 4:5], pred[:, 4:5]) == 0


def test_training_pairs_against_the_published_loop():
    "for (x, y) in train: for y' in seen: for h in hyp[y']: emit (x, h, y' == y)"
    rng = np.random.default_rng(5)
    for _ in range(50):
        Y = int(rng.integers(2, 6))
        gold, seen = rng.random((12, Y)) < .4, rng.random(Y) < .5
        of = np.repeat(np.arange(Y), rng.integers(1, 3, Y))
        want = [(x, h, bool(gold[x, of[h]])) for x in range(12) if any(gold[x, y] and seen[y] for y in range(Y))
                for h in range(len(of)) if seen[of[h]]]
        i, j, e = rules.training_pairs(gold, seen, of)
        assert sorted(zip(i.tolist(), j.tolist(), e.tolist())) == sorted(want)


def test_a_text_of_an_unseen_label_teaches_nothing():
    "Changing what is unseen changes no pair, so no head and no score"
    gold = np.eye(4, dtype=bool)[np.array([0, 1, 2, 3, 0, 1])]
    seen, of = np.array([True, True, False, False]), np.arange(4)
    other = gold.copy()
    other[2:4] = other[2:4][::-1]
    for a, b in zip(rules.training_pairs(gold, seen, of), rules.training_pairs(other, seen, of)): assert (a == b).all()


class Hash:
    "Knows nothing: a judge whose probabilities are a hash of the pair"
    def score(self, premises, hypotheses):
        import zlib
        rows = [np.random.default_rng(zlib.crc32(f"{p}\t{h}".encode())).random(3) for p, h in zip(premises, hypotheses)]
        return np.array([r / r.sum() for r in rows]).reshape(-1, 3)


@pytest.mark.parametrize("s", SETS.values(), ids=SETS)
def test_order_of_labels_and_of_texts_does_not_matter(s):
    rng, texts = np.random.default_rng(6), [f"text {i} about water and games" for i in range(12)]
    first = zero_shot.classify(texts, s, Hash(), definitions=True)
    for _ in range(5):
        o, k = rng.permutation(len(s)), rng.permutation(12)
        mixed = type(s)(tuple(s.names[i] for i in o), tuple(tuple(w[i] for i in o) for w in s.sentences),
                        tuple(s.definitions[i] for i in o), s.none)
        again = zero_shot.classify([texts[i] for i in k], mixed, Hash(), definitions=True)
        for i, r in zip(k, again): assert r == first[i] | {"scores": r["scores"]} and r["scores"] == first[i]["scores"]


def test_a_judge_that_knows_nothing_is_at_chance():
    texts = [f"text number {i}" for i in range(2000)]
    p, of = score(Hash(), texts, NEWS)
    y = np.random.default_rng(7).integers(4, size=2000)
    assert abs((rules.topic(grouped(p, of, 4), np.zeros(4, bool)) == y).mean() - .25) < .04


def test_noemo_on_generated_rows():
    "Where nothing is felt, nothing is said; on felt rows the right feeling; well above the commonest label"
    rng, words = np.random.default_rng(8), ["sad", "joyful", "loving", "angry", "afraid", "surprised"]
    y = rng.integers(-1, 6, 400)
    texts = [f"{words[k] if k >= 0 else 'The table has four legs,'} on day {i}" for i, k in enumerate(y)]
    p, of = score(LexicalJudge(), texts, EMOTION)
    said = rules.emotion(grouped(p, of, 6), np.zeros(6, bool))
    gold = rules.with_none(y, 6)
    common = np.full(400, np.bincount(y + 1).argmax() - 1)
    assert (said[y < 0] == rules.NONE).all()
    assert rules.weighted_f1(gold, rules.with_none(said, 6)) > rules.weighted_f1(gold, rules.with_none(common, 6)) + .1


def test_situation_without_any_label_is_out_of_domain():
    got = zero_shot.classify("Nothing of that kind.", SITUATION, LexicalJudge(), multi=True)
    assert got["labels"] == ["out-of-domain"]
    assert gold_of([["out-of-domain"], ["food", "water"]], SITUATION).sum(1).tolist() == [0, 2]


@pytest.mark.parametrize("labels,why", [(["a"], "single"), ([], "single"), (["a", "a"], "twice"), ("a,b", "list"),
                                        (["a\tb", "c"], "tab"), (["a\nb", "c"], "newline"), (["a", "  "], "not empty"),
                                        ({"a": "x", "b": 3}, "sentence"), ({"a", "b"}, "no order, try sorted"), (frozenset("ab"), "no order"),
                                        ((n for n in "ab"), "type generator"), (None, "type NoneType"), (3, "type int")])
def test_bad_label_sets_are_refused(labels, why):
    with pytest.raises(ValueError, match=why): zero_shot.classify("text", labels, LexicalJudge())


@pytest.mark.parametrize("kw,why", [(dict(definitions={"a": "x", "b": 3}), "definition of 'b' is a text that is not empty, not 3"),
                                    (dict(definitions={"a": "x", "b": " "}), "definition of 'b'"), (dict(definitions=["x", "y"]), "by name"),
                                    (dict(words={"a": 3}), "word of 'a'"), (dict(definitions={"a": "x"}), "no definition of 'b'")])
def test_what_a_label_says_is_a_text(kw, why):
    with pytest.raises(ValueError, match=why): label_set(["a", "b"], **kw)


def test_a_judge_may_be_named(monkeypatch, tmp_path):
    "By name, by the setting, by itself; anything else is refused before a text is read"
    from reasonlab.nli import judge
    asked = []
    monkeypatch.setattr(judge, "load_judge", lambda name: asked.append(str(name)) or LexicalJudge())
    zero_shot._standing.cache_clear()
    got = [zero_shot.classify("Food came.", ["food", "water"], j) for j in ("default", tmp_path, None, None, LexicalJudge())]
    zero_shot._standing.cache_clear()
    assert got == got[:1] * 5 and got[0]["labels"] == ["food"] and asked == ["default", str(tmp_path), "default"]
    with pytest.raises(TypeError, match="a judge is a name, or has score"): zero_shot.classify("Food came.", ["food", "water"], 3)


def test_a_bad_row_costs_no_other():
    rows = [{"text": "Food came."}, {"text": None}, {"id": 7}, "text", {"text": " "}, {"id": "x", "text": "Water came."}]
    got = zero_shot.classify_rows(rows, ["food", "water"], LexicalJudge())
    assert [("error" in r) for r in got] == [False, True, True, True, True, False]
    assert [r["id"] for r in got] == ["1", "2", "7", "4", "5", "x"]
    assert got[0]["labels"] == ["food"] and got[5]["labels"] == ["water"] and json.dumps(got)


# The study

def test_worlds_of_different_overlap_have_the_same_texts():
    a, b = (topics.texts_of(topics.TopicWorld(rho=r), np.random.default_rng(3), 50) for r in (0, 1))
    assert a == b
    d = [topics.labels_of(topics.TopicWorld(rho=r), np.random.default_rng(3)).definitions for r in (0, 1)]
    words = {w for r in topics.texts_of(topics.TopicWorld(), np.random.default_rng(4), 5000) for w in r["text"].split()}
    assert not words & set(" ".join(d[0]).split()) and set(" ".join(d[1]).split()) <= words


def test_windows_of_seeds_share_no_text():
    rows = [dict(text=f"t{i}", labels=["a"]) for i in range(100)]
    seen = [{r["text"] for r in arms.window(rows, s, 20)[0]} for s in range(5)]
    assert sum(map(len, seen)) == 100 == len(set().union(*seen))
    mine, rest = arms.window(rows, 7, 20)
    assert len(mine) == 20 and len(rest) == 80 and not {r["text"] for r in mine} & {r["text"] for r in rest}


@pytest.fixture
def public(monkeypatch):
    "Made-up sets in the place of the public ones: a text says its label, and a number"
    def name(s, i): return s.names[k if (k := i % (len(s) + 3)) < len(s) else 1]  # the second label is common
    made = {n: [dict(text=f"{name(s, i)} {w} {i}", labels=[name(s, i)])
                for i, w in enumerate(["one", "two", "three"] * 200)] for n, s in SETS.items()}
    monkeypatch.setattr(arms, "texts_of_set", lambda name: arms.distinct(made[name]))
    monkeypatch.setattr(arms, "REAL_SIZES", dict(home=dict(ag_news=30, emotion=30, situation=40, learn=60)))


class Knows:
    "Entails exactly the hypothesis of the label that the text names"
    def __init__(self):
        self.of = {h: n for s in SETS.values() for w in range(3) for n, h in zip(s.names, s.sentences[w])}

    def score(self, premises, hypotheses):
        e = np.array([.9 if p.split()[0] == self.of[h] else .05 for p, h in zip(premises, hypotheses)])
        return np.stack([e, (1 - e) / 2, (1 - e) / 2], 1)


def test_the_study_runs_end_to_end(public):
    seen = arms.observe_real("home", 0, Knows(), arms.HashEncoder())
    assert set(seen) == {c.id for c in (*arms.REAL_CLAIMS, *arms.HALF_CLAIMS)} and all(seen.values())
    assert (seen["zero_shot.news"].rows["pred"] == seen["zero_shot.news"].rows["y"]).all()
    assert seen["zero_shot.situation_gain"].rows["pred"].all()
    assert seen["zero_shot.situation_gain"].rows["control"].mean() < .5  # the answers of other texts


def test_a_judge_that_knows_is_supported_and_one_that_does_not_is_not(public):
    from reasonlab.claims import Study
    study = Study(slug="zero_shot", claims=arms.REAL_CLAIMS, statistics=arms.STATISTICS,
                  observe=lambda scale, seed, judge: arms.observe_real(scale, seed, judge, arms.HashEncoder()))
    import reasonlab.claims as claims
    for judge, outcome in ((Knows(), {"supported"}), (Hash(), {"contradicted", "inconclusive"})):
        lines = {s: study.observe("home", s, judge) for s in range(5)}
        for c in arms.REAL_CLAIMS:
            f = claims.finding(c, {s: lines[s][c.id].rows for s in lines}, np.random.default_rng(0),
                               study.statistics.get(c.statistic), {})
            assert verdict(c, f).outcome in outcome, (c.id, f, verdict(c, f).reasons)


def test_without_data_nothing_is_run(monkeypatch):
    def gone(name): raise FileNotFoundError(name)
    monkeypatch.setattr(arms, "texts_of_set", gone)
    assert set(arms.observe_real("home", 0, Knows(), arms.HashEncoder()).values()) == {None}


def test_the_head_learns_what_it_is_shown_and_no_more(public):
    "Shuffled labels teach nothing: the sham of the first claim on halves stays below the head"
    rows = arms.observe_real("home", 1, Knows(), arms.HashEncoder())
    o = rows["zero_shot.seen"].rows
    assert o["pred"].mean() > o["control"].mean() + .2
    assert rows["zero_shot.gap"].preconditions["seen_accuracy"] == pytest.approx(o["pred"].mean())


def test_definitions_and_wordings_are_ours_and_whole():
    for s in SETS.values():
        assert len(s.sentences) >= 3 and len(s.definitions) == len(s)
        every = [h for w in s.sentences for h in w] + list(s.definitions)
        assert len(set(every)) == len(every) and all(h[0].isupper() and h.endswith(".") for h in every)


def test_label_set_names_survive_a_file():
    s = label_set(["a b", "c"])
    assert json.loads(json.dumps(s.names)) == ["a b", "c"]


class Results:
    "A judge as the book ships it: `results` goes on over a pair without an answer, `score` refuses the batch"
    def __init__(self, labels=("entailment", "neutral", "contradiction")): self.labels = labels

    def results(self, premises, hypotheses):
        from types import SimpleNamespace
        p = np.full((len(premises), len(self.labels)), 1 / len(self.labels))
        lost = [t == "bad" or t == "half" and "b" in h for t, h in zip(premises, hypotheses)]
        p[lost] = np.nan
        return SimpleNamespace(probs=p, labels=self.labels, errors={i: f"it is {premises[i]}" for i in np.flatnonzero(lost)},
                               cut=[len(h) if t == "long" else 0 for t, h in zip(premises, hypotheses)])

    def score(self, premises, hypotheses): raise ValueError("a pair has no answer")


@pytest.mark.parametrize("labels", [("entailment", "neutral", "contradiction"), ("entailment", "not_entailment")])
def test_a_pair_without_answer_costs_its_row_only(labels):
    s = {"a": "x", "b": "b?"}
    got = zero_shot.classify_rows([{"text": t} for t in ("good", "bad", "half", "good")], s, Results(labels))
    assert got[0]["scores"]["a"] == round(1 / len(labels), 4) and got[3] == got[0] | {"id": "4"}
    assert [r.get("error") for r in got] == [None, "it is bad", "it is half (asked: b?)", None]  # the judge's words
    with pytest.raises(ValueError, match="text 2: it is bad. Leave it out"): score(Results(labels), ["good", "bad"], label_set(["a", "b"]))


def test_what_was_cut_is_told():
    "Under the longest hypothesis; nothing is said where nothing was cut"
    s = {"a": "x", "b": "four"}
    got = zero_shot.classify_rows([{"text": "long"}, {"text": "good"}, {"text": "long"}], s, Results())
    assert [r.get("cut") for r in got] == [4, None, 4]
    assert zero_shot.classify("long", s, Results())["cut"] == 4 and "cut" not in zero_shot.classify("good", s, Results())


def test_no_contradiction_where_a_judge_tells_none():
    with pytest.raises(ValueError, match="no contradiction"):
        score(Results(("entailment", "not_entailment")), ["x"], NEWS, against="contradiction")
    assert score(Results(), ["x"], NEWS, against="contradiction")[0].tolist() == [[.5] * 4]
