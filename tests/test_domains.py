"The domain checkers: planted faults on generated chains, other problems left alone, no text that breaks them, real chains"
import calendar
import json
import os
import random
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonlab.verification.dates import Dates, shift
from reasonlab.verification.domains import CLOSER, OPENER, Brackets, Swaps
from reasonlab.verification.letters import Letters
from reasonlab.verification.recheck import recheck
from reasonlab.verification.steps import parse

DOMAINS = {"brackets": Brackets, "swaps": Swaps, "letters": Letters, "dates": Dates}
DATA = os.environ.get("REASONLAB_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="REASONLAB_DATA is not set")


# --- an own re-check of the certificates, shorter than the one of the library and sharing nothing with it
def stands(c):
    kind = c["type"]
    if kind == "bracket":
        stack = c["stack"] + [c["read"]] if c["read"] in list("([{<") else c["stack"][:-1] if c["read"] else c["stack"]
        if c["read"] in list(")]}>"): assert c["stack"] and CLOSER[c["stack"][-1]] == c["read"]
        return stack != c["stated"]
    if kind == "sequence": return c["items"][c["position"]:c["position"] + 1] != ([c["stated"]] if c["stated"] is not None else [])
    if kind == "popping": return list(reversed(c["stack"])) != c["stated"]
    if kind == "closing": return [CLOSER.get(s, s) for s in reversed(c["stack"])] != c["stated"]
    if kind == "swap":
        now = dict(c["before"])
        for a, b in c.get("pairs") or [c["pair"]]: now[a], now[b] = now[b], now[a]
        return now != c["stated"]
    if kind == "turn": return set(c["stated"]) not in [set(p) for p in c["swaps"][c["position"]:]]
    if kind == "lookup": return c["state"][c["key"]] != c["stated"]
    if kind == "letter": return c["word"][c["index"]].lower() != c["stated"].lower()
    if kind == "concat": return "".join(c["parts"]).lower() != c["stated"].lower()
    if kind == "date": return shift(date.fromisoformat(c["base"]), c["offset"]).isoformat() != c["stated"]
    if kind == "weekday": return calendar.day_name[date.fromisoformat(c["date"]).weekday()] != c["stated"]
    raise AssertionError(kind)


# --- problems: (question, lines, options for a fault). A line is a function of the style; a fault returns (lines, bad line)
def bracket_problem(r, fault, style):
    word, stack = [], []
    while len(word) < r.randint(6, 14) or not stack:
        close = len(stack) > 1 and r.random() < .45
        word.append(CLOSER[stack[-1]] if close else r.choice("([{<"))
        stack = stack[:-1] if close else stack + [word[-1]]
    reads, stack, at = [], [], r.randrange(2, len(word))
    for i, s in enumerate(word):
        right = stack + [s] if s in CLOSER else stack[:-1]
        if fault == "stack" and i == at:
            right = right + [r.choice("([{<")] if r.random() < .5 or not right else right[:-1]
        elif fault == "stack" and i > at and s in OPENER and (not stack or CLOSER[stack[-1]] != s):
            break  # after the slip a closer may not match; the chain ends there
        reads.append((s, right))
        stack = right
    bad = at if fault == "stack" else None
    if fault == "symbol":
        other = r.choice([s for s in "([{<" if s != word[at]])
        reads[at:], stack = [(other, reads[at - 1][1] + [other])], reads[at - 1][1] + [other]
        bad = at
    if fault == "skip":
        reads, stack, bad = reads[:at], reads[at - 1][1], at
    lines = [style["read"](s, v) for s, v in reads]
    final = stack + ["("] if fault == "final" else stack
    pops = final[::-1]
    if fault == "pop": pops = pops[1:] + pops[:1] if len(set(pops)) > 1 else pops + ["["]
    need = [CLOSER[s] for s in pops]
    if fault == "need": need = need[:-1] if len(need) > 1 else need * 2
    answer = need[::-1] + [">"] if fault == "answer" else need
    more = dict(final=style["final"](final), pop=style["pop"](pops), need=style["need"](need), answer=style["answer"](answer))
    bad = len(lines) + list(more).index(fault) if fault in more else bad
    return "Close the brackets of: " + " ".join(word), [*lines, *more.values()], bad


def _q(stack): return " ".join(stack)


def _or_empty(stack): return _q(stack) or "empty"


def _list(symbols): return ", ".join(f'"{s}"' for s in symbols) or "nothing"


_ends = dict(final=lambda v: f'Now we have reached the end. The final stack is {chr(34) + _q(v) + chr(34) if v else "empty"}.',
             pop=lambda v: f"We need to pop out {_list(v)} in that order.", need=lambda v: f"So, we need {_list(v)}.",
             answer=lambda v: f"So the answer is {_q(v)}")
BRACKET_STYLES = [
    dict(_ends, read=lambda s, v: f"{s} ; stack: {_or_empty(v)}"),
    dict(_ends, read=lambda s, v: f"Read `{s}`. Stack: `{_or_empty(v)}`", answer=lambda v: f"**Answer:** {_q(v)}"),
    dict(_ends, read=lambda s, v: f"After `{s}` the stack is {_or_empty(v)}.", final=lambda v: f"At the end the stack is {_or_empty(v)}.",
         need=lambda v: f"The closing symbols are {_q(v)}."),
    dict(_ends, read=lambda s, v: (f'The next symbol is "{s}", which we push.' if s in CLOSER else
         f'The next symbol is "{s}", so "{OPENER[s]}" is popped.') + f" The stack is now {_or_empty(v)}."),
    dict(_ends, read=lambda s, v: f"`{s}` -> stack: {_or_empty(v)}"),
]

KINDS = [("has a {} ball", "{} ball", "red blue green white black pink".split(), "swap balls", "{} has the {} ball"),
         ("is dancing with {}", "{}", "Lola Karl Izzi Melissa Rodrigo Sam".split(), "switch partners", "{} is dancing with {}"),
         ("gets {}", "{}", ["Emma", "The Odyssey", "Moby Dick", "War and Peace", "The Pearl", "Persuasion"], "swap books", "{} has {}"),
         ("is playing {}", "{}", ["left winger", "right winger", "goalkeeper", "striker", "left back", "fullback"], "trade positions",
          "{} is playing {}")]


def swap_problem(r, fault, style):
    n, (verb, option, values, act, has) = r.randint(3, 5), r.choice(KINDS)
    people, values = r.sample("Ann Bob Carl Dora Eve Finn".split(), n), r.sample(values, n)
    now = dict(zip(people, values))
    swaps = [tuple(r.sample(people, 2)) for _ in range(r.randint(2, 5))]
    swaps = [s for i, s in enumerate(swaps) if not i or set(s) != set(swaps[i - 1])]
    asked, firsts = r.choice(people), [f"{p} {verb.format(now[p])}" for p in people]
    told = [f"{w} {a} and {b} {act}." for w, (a, b) in zip(["First,"] + ["Then,"] * 9, swaps)]
    question = f"{', '.join(people)} meet. At the start: {', '.join(firsts[:-1])}, and {firsts[-1]}.\nThey trade. {' '.join(told)} " \
               f"At the end, {asked} has\nOptions:\n" + "\n".join(f"({chr(65 + i)}) {option.format(v)}." for i, v in enumerate(values))
    lines, at, bad = [style["start"](now)], r.randrange(len(swaps)), None
    for i, (a, b) in enumerate(swaps):
        if fault == "pair" and i == at:
            free = [(p, q) for p in people for q in people if p < q and {p, q} not in [set(s) for s in swaps]]
            if not free: return swap_problem(r, fault, style)
            a, b = r.choice(free)
        right = dict(now) | {a: now[b], b: now[a]}
        if fault == "state" and i == at: right = right | dict(zip((a, b), [now[a], now[b]]) if r.random() < .5 else {a: now[a]})
        lines.append(style["swap"](a, b, act, right, has, i))
        bad, now = len(lines) - 1 if fault in ("state", "pair") and i == at else bad, right
    said = r.choice([v for v in values if v != now[asked]]) if fault == "lookup" else now[asked]
    letter = chr(65 + values.index(said))
    if fault == "option": letter = r.choice([c for c in "ABCDEF"[:n] if c != letter])
    lines.append(f"At the end, {has.format(asked, said)}. So the answer is ({letter}).")
    return question, lines, len(lines) - 1 if fault in ("lookup", "option") else bad


def _colon(now): return ", ".join(f"{p}: {v}" for p, v in now.items())


def _has(now, has): return " and ".join(has.format(p, v) for p, v in now.items())


SWAP_STYLES = [
    dict(start=lambda now: f"At the start: {_colon(now)}.", swap=lambda a, b, act, now, has, i: f"{a} and {b} {act}: {_colon(now)}."),
    dict(start=lambda now: f"Initially {_colon(now)}", swap=lambda a, b, act, now, has, i: f"{a} and {b} {act}: {a}: {now[a]}, {b}: {now[b]}."),
    dict(start=lambda now: f"In the beginning we have {_colon(now)}.",
         swap=lambda a, b, act, now, has, i: f"After {a} and {b} {act}, {has.format(a, now[a])} and {has.format(b, now[b])}."),
    dict(start=lambda now: f"At first we have {_colon(now)}.",
         swap=lambda a, b, act, now, has, i: f"After the {'first second third fourth fifth'.split()[i]} swap, {_has(now, has)}."),
    dict(start=lambda now: f"**Start:** {_colon(now)}", swap=lambda a, b, act, now, has, i: f"{a} ↔ {b}: " + ", ".join(f"{p} = {v}" for p, v in now.items())),
]


def letter_problem(r, fault, style):
    words = r.sample("Amber Boris Carla Dmitri Ellen Felix Greta Hanno Irina Jonas Kiran Lotte".split(), r.randint(3, 5))
    first, at, joined, lines, bad = r.random() < .4, r.randrange(1, len(words)), "", [], None
    which = "first" if first else "last"
    for i, w in enumerate(words):
        if fault == "skip" and i == at: bad = len(lines); continue
        letter = w[0 if first else -1].lower()
        if fault == "letter" and i == at: letter = r.choice([c for c in "abcdefg" if c != letter])
        new = joined + letter
        if fault == "join" and i == at:
            if joined == letter * len(joined): new = joined
            else: new = letter + joined
        bad = len(lines) if fault in ("letter", "join") and i == at else bad
        lines.append(style["word"](which, w, letter, joined, new))
        joined = new
    if fault == "skip" and at == len(words) - 1: return letter_problem(r, fault, style)
    answer = joined[::-1] if fault == "answer" and joined != joined[::-1] else joined + "x" if fault == "answer" else joined
    lines.append(style["answer"](answer))
    q = f'Take the {which} letters of the words in "{" ".join(words)}" and concatenate them.'
    return q, lines, len(lines) - 1 if fault == "answer" else bad


LETTER_STYLES = [
    dict(word=lambda which, w, c, old, new: f'The {which} letter of the word "{w}" is "{c}". The concatenated letters are "{new}".',
         answer=lambda a: f'Therefore, the answer is "{a}".'),
    dict(word=lambda which, w, c, old, new: f"The {which} letter of {w} is {c}, so far: {new}" if False else f"{w} → {c}. So far: {new}",
         answer=lambda a: f"**Answer:** {a}"),
    dict(word=lambda which, w, c, old, new: f"{w}'s {which} letter is '{c}'. Together this gives '{new}'.",
         answer=lambda a: f"So the final answer is {a}."),
    dict(word=lambda which, w, c, old, new: f'The {which} letter of {w} is {c}. "{old or c}"{chr(32) + "+ " + chr(34) + c + chr(34) if old else ""} = "{new}".'
         if old else f'The {which} letter of {w} is {c}. So far we have "{new}".', answer=lambda a: f"The answer is {a}"),
]


def _us(d): return d.strftime("%m/%d/%Y")


def _long(d): return f"{calendar.month_name[d.month]} {d.day}, {d.year}"


def date_problem(r, fault, style):
    today = date(r.randint(1900, 2030), r.randint(1, 12), r.randint(1, 28))
    given, back = r.choice([("Yesterday was {}.", -1), ("Tomorrow is {}.", 1), ("Today is {}.", 0), ("The day before yesterday was {}.", -2),
                            ("The deadline is {}, which is 2 days away from now.", 2)])
    ask, offset = r.choice([("tomorrow", {"days": 1}), ("10 days ago", {"days": -10}), ("one week from today", {"weeks": 1}),
                            ("a month ago", {"months": -1}), ("one year ago from today", {"years": -1}), ("24 hours later", {"days": 1}),
                            ("yesterday", {"days": -1})])
    fmt = r.choice([_us, _long])
    q = f"{given.format(fmt(today + timedelta(back)))} What is the date {ask}? Please answer in MM/DD/YYYY."
    slip = timedelta(r.choice([-3, -1, 1, 2, 30]))
    now = today + slip if fault == "today" else today
    then = shift(now, offset) + (slip if fault == "asked" else timedelta())
    end = then + slip if fault == "final" else then
    lines = [style["today"](fmt(now)), style["asked"](ask, fmt(now), fmt(then)), style["final"](ask, _us(end))]
    return q, lines, ["today", "asked", "final"].index(fault) if fault else None


DATE_STYLES = [
    dict(today=lambda d: f"Therefore, today is {d}.", asked=lambda ask, t, d: f"The date {ask} is {d}.", final=lambda ask, d: f"The date {ask} is {d}."),
    dict(today=lambda d: f"Today's date is {d}.", asked=lambda ask, t, d: f"So {ask} was {d}." if "ago" in ask or ask == "yesterday" else f"So {ask} is {d}.",
         final=lambda ask, d: f"**Answer:** {d}"),
    dict(today=lambda d: f"So today must be {d}.", asked=lambda ask, t, d: f"{ask.capitalize()} would be {d}.",
         final=lambda ask, d: f"Thus the answer is \\boxed{{{d}}}."),
]
FAULTS = dict(brackets=(bracket_problem, BRACKET_STYLES, "stack symbol skip final pop need answer".split()),
              swaps=(swap_problem, SWAP_STYLES, "state pair lookup option".split()),
              letters=(letter_problem, LETTER_STYLES, "letter join skip answer".split()),
              dates=(date_problem, DATE_STYLES, "today asked final".split()))
LAYOUTS = [list, lambda ls: "\n".join(f"{i}. {line}" for i, line in enumerate(ls, 1)), lambda ls: "\n".join(f"- {line}" for line in ls),
           lambda ls: "\n\n".join(ls), lambda ls: "\n".join(line if line.endswith(".") else f"{line}." for line in ls).replace(".\n", ". "), lambda ls: "\n".join(f"Step {i}: {line}" for i, line in enumerate(ls, 1))]


def first_blamed(checker, question, answer, lines=()):
    "(does it speak, number of the line first refuted or None); also re-checks each certificate"
    chain, hits, starts = parse(question, answer), [], []
    for line in lines if isinstance(answer, str) else ():
        starts.append(answer.index(line.rstrip("."), starts[-1] + 1 if starts else 0))
    for step in chain.steps:
        for c in checker.check(step, chain):
            if c.verdict != "refuted": continue
            assert stands(json.loads(json.dumps(c.certificate))) and recheck(c.certificate), c.certificate
            source = chain.source(step)
            assert 0 <= c.span[0] < c.span[1] <= len(source) and c.why
            hits.append(step.element if isinstance(answer, list) else sum(at <= c.span[0] for at in starts) - 1)
    return checker.applies(chain), min(hits, default=None)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_faults(name, seed):
    "Of each kind at least 95 % are found at the right line, and at most 5 % of clean chains are refuted"
    make, styles, faults = FAULTS[name]
    r, found, n = random.Random(seed), {}, 60
    for fault in [None, *faults]:
        misses = []
        for i in range(n):
            layout = LAYOUTS[i % len(LAYOUTS)]
            question, lines, bad = make(r, fault, styles[i // len(LAYOUTS) % len(styles)])
            speaks, blamed = first_blamed(DOMAINS[name](), question, layout(lines), lines)
            if blamed != bad or not speaks: misses.append((question, layout(lines), bad, blamed))
        found[fault] = len(misses) / n
        assert found[fault] <= .05, (fault, found[fault], misses[0])


TRADE = ("Ann, Bob, and Cleo are at a party. At the start each holds a cup: Ann has a yellow cup, Bob has a blue cup, and Cleo has a pink cup.\n"
         "First, Cleo and Ann swap cups. Then, Ann and Bob swap cups. Finally, Cleo and Bob swap cups. At the end of the party, Bob has the\n"
         "Options:\n(A) yellow cup.\n(B) blue cup.\n(C) pink cup.")
CLOSE = "Complete the sequence so that all brackets are closed: [ < ( ) { }"
JOIN = 'Take the last letters of the words in "Otto Hank Mary Rose" and concatenate them.'
WEEK = "It was Oct. 1st, 2022 a week ago. What is the date one week from today in MM/DD/YYYY?"
RIGHT = [  # right in every step, written as people and models write
    (TRADE, "Let's track the cups.\n\n**Initial state:**\n- Ann: yellow\n- Bob: blue\n- Cleo: pink\n\n**Swap 1 (Cleo and Ann):** Cleo gets the yellow "
            "cup and Ann gets the pink cup.\n- Ann: pink\n- Bob: blue\n- Cleo: yellow\n\n**Swap 2 (Ann and Bob):**\n- Ann: blue\n- Bob: pink\n- Cleo: yellow\n\n"
            "**Swap 3 (Cleo and Bob):**\n- Ann: blue\n- Bob: yellow\n- Cleo: pink\n\nBob has the **yellow cup**. The answer is **(A)**."),
    (TRADE, "First Cleo and Ann swap, so Cleo, who had the pink cup, now has Ann's yellow cup, and Ann has the pink cup. Then Ann and Bob swap: Ann, who has "
            "pink, gives it to Bob and receives blue. So Bob has pink and Ann has blue. Finally Cleo and Bob swap. Therefore, Bob has the yellow cup. (A)"),
    (TRADE, "Bob swaps with Cleo at the end, so he gets what Cleo had after the first swap. Cleo swapped with Ann first, so Cleo had the yellow cup. "
            "Hence Bob has the yellow cup, option A."),
    (TRADE, "Start: A=yellow, B=blue, C=pink\n1. C <-> A: C=yellow, A=pink\n2. A <-> B: A=blue, B=pink\n3. C <-> B: C=pink, B=yellow\nFinal: B=yellow -> (A)"),
    (CLOSE, "We use a stack.\n1. `[` → push. Stack: `[`\n2. `<` → push. Stack: `[ <`\n3. `(` → push. Stack: `[ < (`\n4. `)` → matches `(`, pop. Stack: `[ <`\n"
            "5. `{` → push. Stack: `[ < {`\n6. `}` → matches `{`, pop. Stack: `[ <`\n\nThe stack holds `[ <`, so we close `<` with `>` and `[` with `]`.\n**Answer:** `> ]`"),
    (CLOSE, "Symbols with a stack (top on the right):\nRead '[': push '[' -> stack = ['[']\nRead '<': push '<' -> stack = ['[', '<']\nRead '(': push -> stack = "
            "['[', '<', '(']\nRead ')': pop '(' -> stack = ['[', '<']\nRead '{': push -> stack = ['[', '<', '{']\nRead '}': pop '{' -> stack = ['[', '<']\nSo: > ]"),
    (CLOSE, "After [ the stack is [, after < the stack is [ <, after ( the stack is [ < (. Then ) pops ( and the stack is [ <. Then { is pushed and the stack is "
            "[ < {, and } pops it, so the stack is [ <. So we need to append > and then ]."),
    (JOIN, "The last letter of Otto is o, of Hank is k, of Mary is y and of Rose is e. Putting the letters together in order gives okye."),
    (JOIN, "1. The words are Otto, Hank, Mary, and Rose.\n2. Their last letters are o, k, y, and e.\n3. Joining these letters gives \"okye\".\nFinal answer: okye"),
    (JOIN, "Otto ends with \"o\", Hank with k, Mary ends with \"y\", Rose ends with \"e\".\nThe answer is \\boxed{okye}."),
    (WEEK, "If it was Oct. 1st, 2022 a week ago, then today is Oct. 8th, 2022. The date one week from today is Oct. 15th, 2022, which is 10/15/2022."),
    (WEEK, "- A week ago: 10/01/2022\n- Today: 10/01/2022 + 7 days = 10/08/2022\n- One week from today: 10/08/2022 + 7 days = 10/15/2022\n\n**Answer: 10/15/2022**"),
    ("What is the date 100 days after January 1, 2023?", "30 days after January 1, 2023 is January 31, 2023. 28 days later is February 28, 2023. 31 days later is "
     "March 31, 2023. 11 left. So the date is April 11, 2023."),
    ("The fair was 2 weeks and 3 days before March 20, 2021. What date was it?", "2 weeks before March 20, 2021 is March 6, 2021. 3 days before March 6, 2021 is "
     "March 3, 2021. So the fair was 2 weeks and 3 days before March 20, 2021, on March 3, 2021."),
]


@pytest.mark.parametrize("question,answer", RIGHT)
def test_right_prose_is_not_refuted(question, answer):
    assert any(d().applies(parse(question, answer)) for d in DOMAINS.values())
    for domain in DOMAINS.values(): assert first_blamed(domain(), question, answer)[1] is None


QUIET = [("Ann has 3 red (and 2 blue) pens. She swaps 2 pens with Bob. How many has she?", "She has 3 + 2 = 5 pens."),
         ("On May 2, 2021 Ann had 3 pens [two of them red]. She lost 1. How many?", "3 - 1 = 2\n#### 2"),
         ("Put 5 books on a stack, then 3 more. How high is the stack?", "The stack: 5 + 3 = 8. Next we read 8."),
         ("Solve {x : x < 3} for x > [1].", "The stack of terms is x < 3. So x is in ( 1 , 3 )."),
         ("What is the last letter that Bob wrote to Ann?", "The last letter was written in 1999."),
         ("Compute f(g(2)) where f(x) = (x + 1).", "g(2) = 3. f(3) = 4. So the answer is 4."), ("", ""), ("(", ")")]


@pytest.mark.parametrize("question,answer", QUIET)
def test_other_problems_are_left_alone(question, answer):
    for domain in DOMAINS.values(): assert not domain().applies(parse(question, answer)), domain


def test_a_later_error_of_its_own_is_refuted_too():
    steps = ["[ ; stack: <", "< ; stack: < <", "( ; stack: < < {", "] ; stack: < <"]
    chain = parse("[ < ( )", steps)
    assert [bool([c for c in Brackets().check(s, chain) if c.certificate]) for s in chain.steps] == [True, False, True, True]


PIECES = ["[ ; stack: [", "stack:", "empty", '"', "(", "]", "Ann and Bob swap", "Ann: red", "So the answer is (A)", "last letter of", "Sue → e", "e + y = ey",
          "today is", "02/30/2021", "05/02/2021", "99999 years ago", "a month ago", "9999-12-31", "the first day of 0000", "the last Monday of Feb 2020",
          "\n", ". ", "**", "1.", "pop out", "\ue000", "Yesterday was Dec 31, 9999.", "What is the date tomorrow?", "01/01/0001", "is", "\x00", "é"]
QUESTIONS = ["Yesterday was Dec 31, 9999. What is the date 9 years later?", "Today is Jan 1, 0001. What is the date yesterday?", "[ < (", "",
             'Take the third letters of "A Bo" and join them.',
             "Ann has a red ball, Bob has a blue ball. Ann and Bob swap balls. Then Bob and Ann swap balls. At the end, Ann has"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.sampled_from(QUESTIONS), st.lists(st.sampled_from(PIECES)).map(" ".join), st.text()),
       st.one_of(st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join), st.lists(st.lists(st.sampled_from(PIECES)).map(" ".join)), st.text()))
def test_no_text_breaks_them(question, answer):
    chain = parse(question, answer)
    for domain in DOMAINS.values():
        for step in chain.steps:
            for c in domain().check(step, chain):
                if c.certificate: assert stands(json.loads(json.dumps(c.certificate)))


def rows(path):
    text = (Path(DATA) / path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.endswith("jsonl") else json.loads(text)


@needs_data
@pytest.mark.parametrize("name,task,least", [("brackets", "dyck_languages", .95), ("swaps", "tracking_shuffled_objects", .92)])
def test_first_mistake_of_real_chains(name, task, least):
    data = rows(f"bigbench_mistake/{task}.jsonl")
    hits = [first_blamed(DOMAINS[name](), r["input"], r["steps"])[1] == r["mistake_index"] for r in data]
    assert sum(hits) / len(hits) >= least


@needs_data
@pytest.mark.parametrize("name,alarm,recall", [("dates", .04, .70), ("letters", .0, .60)])
def test_human_labels(name, alarm, recall):
    data = rows(f"verify_cot/human_annotation/{dict(dates='date', letters='last_letters')[name]}.json")
    refuted = {f: [first_blamed(DOMAINS[name](), r["question"], r["answer"])[1] is not None for r in data if r["flag"] == f] for f in (0, 1)}
    assert sum(refuted[1]) / len(refuted[1]) <= alarm and sum(refuted[0]) / len(refuted[0]) >= recall


@needs_data
def test_real_chains_of_other_tasks_are_left_alone():
    own = dict(dyck_languages="brackets", tracking_shuffled_objects="swaps", date="dates", last_letters="letters")
    bb = ["dyck_languages", "tracking_shuffled_objects", "word_sorting", "logical_deduction", "multistep_arithmetic"]
    chains = [(t, parse(r["input"], r["steps"])) for t in bb for r in rows(f"bigbench_mistake/{t}.jsonl")]
    for t in ("date", "last_letters", "gsm8k", "addsub", "aqua_rat", "MATH"):
        chains += [(t, parse(r["question"], r["answer"])) for r in rows(f"verify_cot/human_annotation/{t}.json")]
    speak = {(t, n) for t, c in chains for n, d in DOMAINS.items() if d().applies(c)}
    assert speak == set(own.items())
