"""One plain function for each parser that reads text nobody vouches for: any bytes in, an exception for whatever must not be.

Hypothesis (tests/test_fuzz.py), atheris (tests/fuzz/run.py) and the replay of the kept corpus all call these."""
import io
import json
import warnings
from fractions import Fraction

from reasonlab import data, equations, expressions, files
from reasonlab.verification import natural_program, recheck, steps

warnings.simplefilter("ignore", SyntaxWarning)  # `number_of` parses what is no canonical text; Python remarks on 1if
PART = "\x1e"  # parts a question from an answer, and the steps of an answer from one another


def text_of(blob): return blob.decode("utf-8", "surrogateescape")  # bytes that are no UTF-8 become lone surrogates


def inside(spans, size):
    for a, b in spans: assert 0 <= a <= b <= size, (a, b, size)


def in_order(spans, text):
    "Spans in order, disjoint; nothing but white space between them"
    pos = 0
    for a, b in [*spans, (len(text), len(text))]:
        assert pos <= a <= b <= len(text) and not text[pos:a].strip(), (pos, a, b)
        pos = b


def question_and_answer(blob):
    question, *answer = text_of(blob).split(PART)
    return question, answer[0] if len(answer) == 1 else answer or ""


def steps_parse(blob):
    "Any question and any chain are read; every statement stands where it says it does"
    question, answer = question_and_answer(blob)
    chain = steps.parse(question, answer)
    for s in (*chain.premises, *chain.steps):
        assert s.text == chain.source(s)[s.start:s.end] and 0 <= s.start <= s.end, s
        assert all(isinstance(c.label, str) for c in s.cites), s
    if isinstance(answer, str):
        own = [(s.start, s.end) for s in (*chain.premises, *chain.steps) if s.origin == "answer"]
        assert own == sorted(own)
        in_order(sorted([*own, *chain.scaffold, *chain.unparsed]), answer)
    else: assert [s.element for s in chain.steps] == [*range(len(answer))]
    assert [s.index for s in chain.steps] == [*range(len(chain.steps))]
    said = steps.final_answer(chain)
    if said is not None:
        home = next(s for s in chain.steps if s.label == said.label and s.start <= said.start <= said.end <= s.end)
        assert chain.source(home)[said.start:said.end] == said.text, said
    assert steps.parse(question, answer) == chain


def canonical(v):
    "The canonical text of a value is worth that value"
    assert isinstance(v, (expressions.Value, expressions.Unparseable)), v
    if isinstance(v, expressions.Unparseable):
        assert v.reason and not v
        return
    assert v.text.isascii() and expressions.number_of(v.text) == v.number, v
    again = expressions.evaluate(v.text)
    if isinstance(again, expressions.Value) and isinstance(v.number, Fraction) and not again.doubts:
        assert again.number == v.number, (v, again)


def expression(blob):
    "Anything has a value or a reason why not; every equation stands where it says it does"
    text = text_of(blob)
    for convert in (False, True): canonical(expressions.evaluate(text, convert=convert))
    assert isinstance(expressions.number_of(text), (expressions.Unparseable, Fraction)) or "sqrt" in text or "pi" in text or "**" in text
    found = expressions.tokens(text)
    inside([(t.start, t.end) for t in found], len(text))
    for e in equations.equations(text):
        assert 0 <= e.start < e.end <= len(text), e
        assert e.left and e.right and e.left in text and e.right in text, e
        for side in (e.left, e.right): canonical(expressions.evaluate(side))
    equations.taken_back(text)


def verify_row(blob):
    "A row is checked or refused by a `ValueError`; what is refuted has a certificate that an independent function accepts"
    question, answer = question_and_answer(blob)
    out = natural_program.verify_row(dict(question=question, answer=answer))
    json.dumps(out, allow_nan=False)
    assert 0 < out["score"] < 1 and 0 <= out["coverage"] <= 1
    parts = [answer] if isinstance(answer, str) else answer
    inside(out["unparsed"], len(parts[0]) if parts else 0)
    for i, s in enumerate(out["steps"]):
        home = parts[0] if isinstance(answer, str) else parts[i]
        inside([(s["start"], s["end"]), *(c["span"] for c in s["checks"] if c["span"])], len(home))
    for c in [*out["checks"], *(c for s in out["steps"] for c in s["checks"])]:
        assert (c["verdict"] == "refuted") == (c["certificate"] is not None)
        if c["certificate"]: assert recheck.recheck(c["certificate"]), c


def read_rows(blob):
    "Under every name a file is rows and bad rows, or one `BadFile`; each message names the file and is one line"
    for name in ("x.jsonl", "x.json", "x.csv", "x.tsv", "x"):
        stream = io.BytesIO(blob)
        stream.name = name
        numbers = []
        try:
            for n, row in enumerate(files.read_rows(stream), 1):
                if isinstance(row, files.BadRow):
                    assert row.number == n and row.error and str(row).startswith(f"{name}, row {n}") and str(row).isprintable(), row
                    numbers.append(n)
                else: assert isinstance(row, dict) and all(isinstance(k, str) for k in row), row
        except files.BadFile as e: assert str(e).startswith(name) and str(e).isprintable(), e


def sentences(blob):
    "Sentences in order; nothing but white space is left out; protected spans lie inside the text"
    text = text_of(blob)
    for breaks in (True, False): in_order(data.sentences(text, breaks), text)
    found = data.protected(text)
    inside(found, len(text))
    assert all(a[1] <= b[0] for a, b in zip(found, found[1:])), found


TARGETS = {"steps.parse": steps_parse, "expressions": expression, "verify_row": verify_row, "files.read_rows": read_rows,
           "data.sentences": sentences}
