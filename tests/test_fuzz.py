"""The parsers that read what strangers wrote: any text is read or refused, as documented, in work that grows with its length.

tests/fuzz/run.py looks for worse with atheris (make fuzz); what it found worth keeping is replayed here without it."""
import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from reasonlab import data, equations, expressions, files
from reasonlab.verification.natural_program import verify
from reasonlab.verification.steps import parse
from test_steps import HURTFUL, PIECES

FUZZ = Path(__file__).resolve().parent / "fuzz"
sys.path.insert(0, str(FUZZ))
from targets import PART, TARGETS  # noqa: E402
from run import BYTES, MOST  # noqa: E402

SUMS = ["1", "12", "1,000", "3.5", " ", " ", " + ", " - ", "*", " / ", "^", "**", "(", ")", "{", "}", " = ", "=", " ≈ ", " < ", " mod ", "%", "$", "½", "²", "√", "!",
        "π", "x", " x ", "C", "m", " hours", " of ", " is ", " and ", "\\frac{", "}{", "\\sqrt[", "]{", "\\binom", "\\times ", "<<1+1=2>>", "°", "e5", "0", "-", "/", "\n", "\\\\",
        ".", ",", ":", "|", "×", "−", "٣", "1/2", "\\text{ab}", "\\boxed{", "'", "mod", "(mod 5)", "≡", "#### 2", "remaining", "wait, "]
JSON = ['{"a": 1}', '{"id": "x"}', "{", "}", "[", "]", '"a"', ":", ",", "1", "NaN", "1e999", "null", '"\\ud800"', "\n", "\r\n", "\ufeff", "\0", " ", '"', "a,b\n", "1,2\n", "1\t2\n",
        '"x\ny"', "'"]
WORDS = dict.fromkeys(TARGETS, PIECES) | {"expressions": SUMS, "files.read_rows": JSON}


def blobs(name):
    "Bytes for a target: joined pieces, any text, any bytes; also long repetitions"
    joined = st.lists(st.sampled_from([*WORDS[name], PART]), max_size=40).map("".join)
    many = st.builds(lambda a, n, b: a * n + b, joined, st.integers(1, 9), joined)
    text = st.one_of(joined, many, st.text(max_size=200)).map(lambda t: t.encode("utf-8", "surrogatepass"))
    return st.one_of(text, st.binary(max_size=200))


@pytest.mark.parametrize("name", TARGETS)
def test_anything(name):
    @settings(max_examples=60 if name == "verify_row" else 250, deadline=None)
    @given(blobs(name))
    def run(blob): TARGETS[name](blob)
    run()


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_corpus(name):
    "Every input that the fuzzer found worth keeping, also those that once broke something"
    kept = sorted((FUZZ / "corpus" / name).iterdir())
    assert 20 < len(kept) < MOST and sum(p.stat().st_size for p in kept) < BYTES
    for p in kept:
        try: TARGETS[name](p.read_bytes())
        except Exception as e: raise AssertionError(f"{p.relative_to(FUZZ)}: {type(e).__name__}: {e}") from e


@pytest.mark.skipif(not os.environ.get("REASONLAB_DATA"), reason="REASONLAB_DATA is not set: the public sets are not here")
def test_no_public_row_is_in_the_corpus():
    text = "\n".join(p.read_bytes().decode("utf-8", "replace") for p in FUZZ.glob("corpus/*/*"))
    rows = [r for n in data.catalog() for r in data.rows(n)]
    asked = {r[k] for r in rows for k in ("question", "input", "premise", "hypothesis", "text") if k in r}
    windows = {text[i:i + 41] for i in range(len(text))}
    assert len(asked) > 50_000 and not [q for q in asked if len(q) > 40 and q[:41] in windows]


def test_a_broken_property_is_found():
    "The targets can fail: spans outside the text, a statement that is not where it says"
    with pytest.raises(AssertionError): sys.modules["targets"].inside([(0, 9)], 3)
    with pytest.raises(AssertionError): sys.modules["targets"].in_order([(0, 1)], "ab")


def work(fn, *args):
    "How many lines of Python a call runs: a count, not a time"
    count, before = 0, sys.gettrace()

    def trace(frame, event, arg):
        nonlocal count
        count += event == "line"
        return trace
    sys.settrace(trace)
    try: fn(*args)
    finally: sys.settrace(before)
    return count


def read(text):
    for name in ("x.jsonl", "x.json", "x.csv"):
        stream = io.BytesIO(text.encode("utf-8", "surrogatepass"))
        stream.name = name
        try: list(files.read_rows(stream))
        except files.BadFile as e: assert str(e).startswith(name)


GROWS = {"steps.parse": (lambda t: parse("Ann has 3 pens.", t), HURTFUL, 500), "data.sentences": (data.sentences, HURTFUL, 2000),
         "equations": (equations.equations.__wrapped__, [*SUMS, *HURTFUL, "1 + 1 = ", "(1 = ", "1) = ", "1 and 1 = 1 ", "= 1 hour ", "a = 1 of 2 "], 800),
         "evaluate": (expressions.evaluate.__wrapped__, [*SUMS, "1+", "(1)", "-", "1 m ", "½", "sqrt(", "((", "1!"], 400), "files.read_rows": (read, JSON, 2000),
         "verify": (lambda t: verify("Ann has 3 pens.", t), ["x = 1\n", "1 + 1 = 3. ", "#1. 1 = 1\n", "Ann and Bob swap balls. ", "- a\n"], 400)}


@pytest.mark.parametrize("name", GROWS)
def test_work_grows_with_the_length(name):
    "Four times the text is about four times the work; a square would be sixteen"
    fn, pieces, size = GROWS[name]
    fn("warm")
    steep = {}
    for p in dict.fromkeys(filter(None, pieces)):
        small, large = (work(fn, (p * n)[:n]) for n in (size, 4 * size))
        if large > 6 * small + 2000: steep[p] = (small, large)
    assert not steep, steep


def test_a_chain_is_cheap_to_look_up():
    "Checkers keep what they found by chain, and ask for it at every step; equal chains are one key"
    asked = {parse("q", "x = 1\n" * n): n for n in (2, 300)}
    assert work(hash, parse("q", "x = 1\n" * 300)) < 10 and asked[parse("q", "x = 1\n" * 300)] == 300


def test_the_count_sees_a_square():
    def square(t):
        for a in t:
            for b in t: a == b  # noqa: B015
    assert work(square, "x" * 40) > 12 * work(square, "x" * 10)
