"The world of tasks: pools share no word, near is near, a reader of texts agrees, half a row tells nothing, and planted faults are found"
import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest

from reasonlab.core import World
from reasonlab.unlearning import task_world as tw
from reasonlab.unlearning.task_world import (CONCEPTS, CONTROLS, FAMILIES, JUDGEMENT, KNOWLEDGE, NUMBERS, PLACES, POOLS, SPACES, STATES, TASKS,
                                             THINGS, VIEWS, TaskWorld, blind, ceiling, floor, slips, true_answer, vocabulary)

WORLDS = [TaskWorld(), TaskWorld(seed=3, size=6, listed=True), TaskWorld(seed=8, size=2, noise=.3)]
world = pytest.mark.parametrize("w", WORLDS, ids=lambda w: f"seed{w.seed}{'-listed' * w.listed}")
task = pytest.mark.parametrize("task", TASKS)


def rng(seed=0): return np.random.default_rng(seed)
def words(row): return {*row["question"].split(), *(c.strip() for c in row["choices"])}
def text(row): return row["question"], *row["choices"]


@pytest.mark.parametrize("listed", [False, True])
def test_the_same_seed_gives_the_same_rows(listed):
    a, b = (TaskWorld(seed=5, listed=listed) for _ in "ab")
    assert a == b and a.tables == b.tables and a.beliefs == b.beliefs and vocabulary(a) == vocabulary(b)
    for t in TASKS:
        rows = a.rows(t, rng(1), 40)
        assert rows == b.rows(t, rng(1), 40) and a.near(rows, rng(2)) == b.near(rows, rng(2))
        assert list(map(text, rows)) != list(map(text, a.rows(t, rng(2), 40)))
    assert a.train_rows(rng(4), 200) == b.train_rows(rng(4), 200)
    assert a.perplexity_texts(rng(4), 50) == b.perplexity_texts(rng(4), 50)
    assert isinstance(a, World) and a.sample(rng(1), 64).to_list() == b.sample(rng(1), 64).to_list()


def test_another_seed_is_another_world():
    a, b = TaskWorld(seed=0), TaskWorld(seed=1)
    assert all(a.tables.keys[f] != b.tables.keys[f] for f in a.tables.keys)
    for f in KNOWLEDGE:
        both = a.truth[f].keys() & b.truth[f].keys()
        same = [a.truth[f][x] == b.truth[f][x] for x in both]
        assert len(both) < len(a.truth[f]) / 2 and (len(same) < 20 or np.mean(same) < .3)
    assert a.truth["taxonomy"] != b.truth["taxonomy"] and slips(a) != slips(b)


def test_noise_and_slips_leave_the_truth_alone():
    plain = TaskWorld(noise=0, slip=0)
    assert plain.beliefs == plain.truth == TaskWorld().truth
    a, b = plain.rows("pet.yesno", rng(), 50), TaskWorld().rows("pet.yesno", rng(), 50)
    assert list(map(text, a)) == list(map(text, b)) and [r["truth"] for r in a] == [r["truth"] for r in b]
    assert all(r["belief"] == r["truth"] for r in a) and any(r["belief"] != r["truth"] for r in b)


@world
def test_pools_share_no_word_but_answers(w):
    "Not by keys: by every word of every task, near-duplicates too"
    shared = {*tw._GLUE, *STATES, *(c for v in CONCEPTS.values() for c in v), *(c for v in w.tables.levels for c in v)}
    seen = {p: set() for p in POOLS}
    for pool in POOLS:
        for t in TASKS + CONTROLS:
            rows = w.rows(t, rng(1), 300, pool, distinct=False)
            for r in rows + w.near(rows[:100], rng(2)): seen[pool] |= words(r)
    assert seen["forget"] & seen["heldout"] <= shared
    for pool in POOLS:  # and the rows do use what they may
        assert {*NUMBERS} & seen[pool] == {*w.keys("parity", pool)} and {*PLACES} & seen[pool] == {*w.keys("format", pool)}
        assert {*THINGS} & seen[pool] == {*w.keys("verification", pool)} and len({*w.keys("colour", pool)} & seen[pool]) > 20
    names = [set(w.truth[f]) for f in KNOWLEDGE] + [set(w.truth["taxonomy"])] + [{x for v in w.tables.members.values() for x in v}]
    assert len(set.union(*names)) == sum(map(len, names))


@world
@task
def test_rows_are_balanced_and_once(w, task):
    rows = w.rows(task, rng(1), 20, "heldout")
    assert Counter(r["answer"] for r in rows) == {0: 10, 1: 10}
    assert len({r["question"] for r in rows}) == len({r["id"] for r in rows}) == 20
    for r in rows:
        assert len(set(r["choices"])) == 2 and all(c[0] == " " and c[1:] == c.strip() for c in r["choices"])
        assert r["choices"][r["answer"]] == r["truth"] and r["task"] == task == f"{r['family']}.{r['space']}"
        assert r["kind"] == ("knowledge" if r["family"] in KNOWLEDGE else "judgement") and r["group"] in r["question"].split()
        assert r["group"] in w.keys(r["family"], "heldout") and r["pool"] == "heldout" and len(r["question"].split()) <= 16
    if task.endswith("yesno"):
        assert Counter((r["truth"], r["answer"]) for r in rows) == dict.fromkeys([(a, i) for a in (" yes", " no") for i in (0, 1)], 5)
        assert all(r["question"].endswith(" , true ?") and set(r["choices"]) == {" yes", " no"} for r in rows)
    else:
        assert not {" yes", " no"} & {c for r in rows for c in r["choices"]} and not any("true" in r["question"] for r in rows)


@world
def test_no_word_is_unknown(w):
    known = set(vocabulary(w))
    train = w.train_rows(rng(), 8000, dict.fromkeys(TASKS + CONTROLS, 1))
    used = set().union(*(words(r) | {r["truth"].strip(), r["belief"].strip()} for r in train)) - {""}
    used |= {x for line in w.perplexity_texts(rng(), 2000) for x in line.split()}
    assert used <= known and len(known - used) < .2 * len(known)
    assert all(x == x.lower().strip() and " " not in x for x in known) and vocabulary(w) == sorted(known)
    assert len(known) < dict(zip((17, 6, 2), (2000, 910, 600)))[w.size]


def test_neutral_texts_hold_nothing_of_a_task():
    w = WORLDS[0]
    neutral = {x for line in w.perplexity_texts(rng(), 3000) for x in line.split()}
    facts = set(vocabulary(w)) - {x for part in tw._NEUTRAL for x in part}
    assert neutral & facts == {"a", "the", "while"} and len(set(w.perplexity_texts(rng(), 3000))) > 2500


@world
@pytest.mark.parametrize("task", TASKS + CONTROLS)
def test_near_keeps_the_entity(w, task):
    rows = w.rows(task, rng(1), 20 if task in TASKS else 8)
    near = w.near(rows, rng(2))
    for a, b in zip(rows, near):
        assert (b["near"], b["id"], b["group"], b["pool"], b["task"]) == (a["id"], a["id"] + "~", a["group"], a["pool"], task)
        assert a["group"] in b["question"].split() and (a["question"], {*a["choices"]}) != (b["question"], {*b["choices"]})
        assert true_answer(w, b) == b["answer"] and b["choices"][b["answer"]] == b["truth"]
        if a["space"] == "yesno": assert b["truth"] != a["truth"] and b["question"] != a["question"]
        elif a["family"] in KNOWLEDGE + ("taxonomy",): assert b["truth"] == a["truth"]
        if a["family"] == "verification": assert f"{a['group']} {a['fixed']}" in b["question"]
        if a["family"] == "comparison": assert f"the {a['fixed']} is" in b["question"]
    assert abs(sum(r["answer"] for r in near) - len(near) / 2) <= 1
    if w.listed and task in TASKS: assert not {r["question"] for r in rows} & {r["question"] for r in near}


@world
@pytest.mark.parametrize("task", TASKS + CONTROLS)
def test_the_reader_agrees(w, task):
    rows = w.rows(task, rng(3), 500, "all", distinct=False)
    assert [true_answer(w, r) for r in rows] == [r["answer"] for r in rows]
    train = w.train_rows(rng(3), 300, {task: 1})
    for r in train:
        i = true_answer(w, r)  # rows to train on may hold no true choice
        assert i == -1 if r["truth"] not in r["choices"] else r["choices"][i] == r["truth"], r


@world
def test_the_reader_agrees_on_beliefs(w):
    "A world in which what is believed is true, read by the same reader (a bias and misread numbers are in no text)"
    told = dataclasses.replace(w)
    told.__dict__["tables"] = dataclasses.replace(w.tables, truth=w.beliefs)
    for t in [f"{f}.{s}" for f in (*KNOWLEDGE, "taxonomy") for s in SPACES]:
        for r in w.train_rows(rng(), 200, {t: 1}): assert r["choices"][true_answer(told, r)] == r["belief"]


def test_planted_rows_are_found():
    w = WORLDS[0]
    for t in TASKS + CONTROLS:
        for r in w.rows(t, rng(), 30, distinct=False):
            assert true_answer(w, r | dict(choices=r["choices"][::-1])) == 1 - r["answer"]
            assert true_answer(w, r | dict(choices=[r["truth"]] * 2)) == -1
    flip = dict(larger="smaller", smaller="larger")
    for r in w.rows("comparison.content", rng(), 50):
        q = " ".join(flip.get(x, x) for x in r["question"].split())
        assert true_answer(w, r | dict(question=q)) == 1 - r["answer"]
    for r in w.rows("parity.yesno", rng(), 50):
        q = r["question"].split()
        q[5] = str((int(q[5]) + 1) % 100)
        assert true_answer(w, r | dict(question=" ".join(q))) == 1 - r["answer"]
    with pytest.raises(ValueError, match="not a stem"): true_answer(w, r | dict(question="say nothing , true ?"))


def test_planted_tables_are_found():
    w = TaskWorld(seed=2)
    rows = {f: w.rows(f"{f}.content", rng(), 200, "all") for f in (*KNOWLEDGE, "taxonomy")}
    for f, few in rows.items():
        key = few[0]["group"]
        w.truth[f][key] = next(v for v in w.truth[f].values() if v != w.truth[f][key])
        bad = [r for r in few if true_answer(w, r) != r["answer"]]
        assert bad and {r["group"] for r in bad} == {key}


PLANTS = dict(  # a maker that errs in a way that is easily made
    comparison=lambda self, T, key, fixed, x, y: {max(x, y) if fixed == "larger" else min(x, y)},  # as text
    taxonomy=lambda self, T, key, fixed, x, y: {w for w in [T["taxonomy"][T["taxonomy"][key]]]},   # always to the top
    verification=lambda self, T, key, fixed, x, y: {STATES[0]})


def test_a_planted_draw_is_found(monkeypatch):
    def swapped(self, w, T, rng, pool, key, fixed, old=tw.Parity.draw):
        right, wrong, stem = old(self, w, T, rng, pool, key, fixed)
        return (wrong, right, stem) if key[-1] == "7" else (right, wrong, stem)
    monkeypatch.setattr(tw.Parity, "draw", swapped)
    for t in ("parity.content", "parity.yesno"):
        for r in WORLDS[0].rows(t, rng(), 200, "all"): assert (true_answer(WORLDS[0], r) == r["answer"]) == (r["group"][-1] != "7")


@pytest.mark.parametrize("family", PLANTS)
def test_planted_makers_are_found(family, monkeypatch):
    w = WORLDS[0]
    monkeypatch.setattr(type(tw._MAKERS[family]), "solve", PLANTS[family])
    rows = w.rows(f"{family}.yesno", rng(), 200, "all", distinct=False)
    assert sum(true_answer(w, r) != r["answer"] for r in rows) > 3


@world
def test_beliefs_err_as_often_in_both_pools(w):
    shares = dict(comparison=.5, parity=.25)
    for f in FAMILIES:
        wrong = {p: sum(w.beliefs[f].get(k) != w.truth[f].get(k) for k in w.keys(f, p)) for p in POOLS}
        assert wrong["forget"] == wrong["heldout"] == round(w.noise * shares.get(f, 1) * len(w.keys(f, "forget")))
    for f in KNOWLEDGE: assert set(w.beliefs[f].values()) <= {*CONCEPTS[f]}
    up, belief = w.truth["taxonomy"], w.beliefs["taxonomy"]
    for kind in w.keys("taxonomy", "all"):
        if up[kind] != belief[kind]: assert belief[kind] in w.tables.levels[0] and up[up[kind]] != up[belief[kind]]


def test_the_ceiling_is_where_it_should_be():
    for seed in range(8):
        w = TaskWorld(seed=seed)
        for t in TASKS:
            for pool in POOLS: assert .8 < ceiling(w.rows(t, rng(seed), 400, pool, distinct=False)) < .95, (seed, t, pool)


def test_slips_are_made_as_often_as_said():
    w = TaskWorld(slip=.3)
    often = slips(w)
    made, all_ = Counter(), Counter()
    for r in w.train_rows(rng(), 30000, dict.fromkeys(TASKS + CONTROLS, 1)):
        all_[r["task"]] += 1
        made[r["task"]] += r["choices"][r["answer"]] != r["belief"]
    assert set(all_) == {*TASKS, *CONTROLS} and max(all_.values()) < 1.2 * min(all_.values())
    for t, n in all_.items(): assert abs(made[t] - n * often[t]) <= 4 * np.sqrt(n * often[t] * (1 - often[t])), t
    cells = [sorted(often[f"{f}.{s}"] for f in fs) for fs in (KNOWLEDGE, JUDGEMENT) for s in SPACES]
    assert cells[0] == cells[1] == cells[2] == cells[3] == pytest.approx([0, .1, .2, .3])
    mixed = Counter(r["task"] for r in w.train_rows(rng(), 30000))
    for t, k in tw.MIX.items(): assert abs(mixed[t] - 30000 * k / sum(tw.MIX.values())) < 4 * np.sqrt(mixed[t]), t
    assert {r["task"] for r in w.train_rows(rng(), 300, {"pet.yesno": 1, "city.yesno": 0})} == {"pet.yesno"}


@world
def test_concepts_are_right_as_often_as_wrong(w):
    "Exactly, over all (key, distractor) of a pool: options alone tell nothing, whatever reads them"
    for f in KNOWLEDGE:
        for pool in POOLS:
            pairs = Counter((w.truth[f][k], d) for k in w.keys(f, pool) for d in CONCEPTS[f] if d != w.truth[f][k])
            assert set(pairs.values()) == {w.size} and all(pairs[a, b] == pairs[b, a] for a, b in pairs)
    for level in (0, 1):
        pairs = Counter()
        for k in w.keys("taxonomy", "forget"):
            right, = tw._MAKERS["taxonomy"].solve(w.truth, k, f"x {level}", "", "")
            pairs.update((right, d) for d in w.tables.levels[level] if d != right)
        assert all(pairs[a, b] == pairs[b, a] for a, b in pairs) and len(set(pairs.values())) == 1


@world
def test_half_a_row_is_worth_nothing(w):
    "Learned and asked on the same names, in two draws; within 4 standard errors, for each task and for all together"
    rates = defaultdict(list)
    for i, t in enumerate(TASKS):  # one stream for all would give the four tables the same draws
        learn, asked = (w.rows(t, rng([i, s]), 1200, distinct=False) for s in (7, 8))
        for view in VIEWS:
            k, n = floor(learn, asked, view)
            if n: rates[view].append((k, n)); assert abs(k - n / 2) <= 4 * np.sqrt(n) / 2, (t, view, k / n)
    assert {v: len(r) for v, r in rates.items()} == dict(options=8, question=8, stem=8, shown=8, place=16 if w.listed else 6)
    for view, r in rates.items():
        k, n = np.sum(r, 0)
        assert abs(k - n / 2) <= 4 * np.sqrt(n) / 2, (view, k / n)


def order(r): return sorted(r["choices"])[0] == r["truth"]
LEAKS = dict(  # view -> rows that are kept, such that just this part gives the answer away
    options=("city.content", order), question=("city.content", lambda r: r["answer"] == (r["group"] > "m")),
    stem=("pet.yesno", lambda r: (r["truth"] == " yes") == (r["group"] > "m")),
    shown=("craft.yesno", lambda r: (r["truth"] == " yes") == (r["question"].split()[-4] > "m")),
    place=("verification.content", lambda r: r["truth"].strip() == r["question"].split()[2]))


@pytest.mark.parametrize("view", LEAKS)
def test_planted_leaks_are_found(view):
    t, keep = LEAKS[view]
    rows = [r for r in TaskWorld().rows(t, rng(), 3000, distinct=False) if keep(r)]
    k, n = floor(rows[:len(rows) // 2], rows[len(rows) // 2:], view)
    assert n > 500 and k / n > .85


def test_a_part_does_not_show_the_rest():
    w = TaskWorld(listed=True)
    for t in TASKS:
        for r in w.rows(t, rng(), 40):
            parts = {v: blind(r, v) for v in VIEWS}
            if r["space"] == "yesno":
                stem = r["question"].split()[:-4]
                assert parts["options"] is parts["question"] is None and parts["stem"][0] == [*stem, " ".join(stem)]
                assert parts["shown"] == ([r["question"].split()[-4]], r["truth"] == " yes")
            else:
                assert parts["stem"] is parts["shown"] is None and not {*parts["options"][0]} & {r["group"], r["question"]}


@pytest.mark.parametrize("ask,says", [
    (lambda w: w.rows("colour", rng(), 4), "no task 'colour'"), (lambda w: w.rows("colour.yesno", rng(), 4, "test"), "forget, heldout or all"),
    (lambda w: w.rows("colour.content", rng(), 400), "ask for fewer"), (lambda w: w.train_rows(rng(), 4, {"tea.yesno": 1}), "no task"),
    (lambda w: w.train_rows(rng(), 4, {"pet.yesno": -1}), "not negative"), (lambda w: TaskWorld(size=0), "size is 1 to 36"),
    (lambda w: TaskWorld(noise=.9), "0 to .5"), (lambda w: TaskWorld(slip=-.1), "0 to .5")])
def test_what_is_wrong_is_said(ask, says):
    with pytest.raises(ValueError, match=says): ask(WORLDS[0])


def test_a_data_set_is_typed():
    data = WORLDS[0].sample(rng(), 100)
    assert data.num_rows == 100 and str(data.features["answer"].dtype) == "int64" and set(data["task"]) == {*TASKS}
    assert data.features == tw.as_dataset(WORLDS[0].near(WORLDS[0].rows("pet.yesno", rng(), 4), rng())).features
    assert max(Counter(data["task"]).values()) - min(Counter(data["task"]).values()) == 1
