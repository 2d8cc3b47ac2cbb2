"Chains of reasoning: every text is read, in linear time, and nothing of it is lost"
import gzip
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from reasonlab.data import sentences
from reasonlab.verification.steps import final_answer, parse

DATA = os.environ.get('REASONLAB_DATA')
needs_data = pytest.mark.skipif(not DATA, reason='REASONLAB_DATA is not set: real chains are not at hand')

PIECES = ['#1.', '#2. ', '#5. (by #1 #2) Step 1: ', '(by ', '(by #3)', ' Reference: #1 #2.', 'Step 1: ', 'step 2. ',
    '1. ', '2) ', '(3) ', '- ', '* ', '  - ', '### ', '**', '**Step 2:** ', '#### 24', '<<3*4=12>>', '$', '$$', '\\(', '\\)',
    '\\[', '\\]', '\\begin{align}', '\\end{align}', '\\begin{x}', '\\item ', '\\boxed{7}', '\\boxed{', '```', '```py\n',
    '<think>', '</think>', '<answer>', '</answer>', '|', '| a |', '---', '===', '. ', '! ', '? ', ': ', ', ', '\n', '\n\n',
    '\r\n', '\r', '\t', ' ', '  ', '\x00', '\ud800', '\u2028', '\x0b', '\u2212', '٣', '1,000', '50%', '3.14', '= ', '> ',
    'The answer is ', 'Answer', 'Therefore, ', 'So ', 'from step 1 and 2', "Let's think step by step.", 'Ann has 3 pens',
    'twenty-one', 'Mr. Lee', 'e.g. 3', '(', ')', '[', ']', '{', '}', '"', "'", '_', '\\', '#', '&']
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map(''.join),
                  st.text(alphabet='#12.() \n*-$\\byStep', max_size=80))


def covered(chain):
    "The spans of a text chain are in order, disjoint, and between them is white space only"
    own = [(s.start, s.end) for s in (*chain.premises, *chain.steps) if s.origin == 'answer']
    assert own == sorted(own)
    pos = 0
    for a, b in [*sorted([*own, *chain.scaffold, *chain.unparsed]), (len(chain.answer),) * 2]:
        assert a >= pos and not chain.answer[pos:a].strip()
        pos = b


def whole(chain):
    "What holds for every chain"
    for group in (chain.premises, chain.steps):
        for i, s in enumerate(group):
            assert s.index == i and s.text == chain.source(s)[s.start:s.end]
            assert 0 <= s.start <= s.end <= len(chain.source(s)) and s.text == s.text.strip()
    assert [s for s in chain.steps if s.role == 'final'] in ([], [s for s in chain.steps if s.text][-1:])
    answer = final_answer(chain)
    if answer:
        sources = [s for s in chain.steps if s.label == answer.label]
        assert any(chain.source(s)[answer.start:answer.end] == answer.text for s in sources)
    hash(chain)


@settings(max_examples=400, deadline=None)
@given(texts, texts)
def test_any_text(question, answer):
    chain = parse(question, answer)
    whole(chain)
    covered(chain)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=6))
def test_any_list(answer):
    chain = parse('Ann has 3 pens.', answer)
    whole(chain)
    assert [s.element for s in chain.steps] == [*range(len(answer))]
    assert len({s.label for s in chain.steps}) == len(answer)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_inferred_citations_point_back(answer):
    chain = parse('Ann has 3 pens. Bob has 1,000.', answer)
    for s in chain.steps:
        before = {t.label for t in chain.before(s)}
        assert all(c.label in before for c in s.cites if c.inferred)


@settings(max_examples=300, deadline=None)
@given(texts, st.booleans())
def test_sentences(text, breaks):
    spans = sentences(text, breaks)
    pos = 0
    for a, b in [*spans, (len(text), len(text))]:
        assert pos <= a <= b and not text[pos:a].strip()
        pos = b


HURTFUL = [*(p for p in PIECES if p), 'a', 'A', '1', '#1. a\n', '#1. (by #1', '#9. (by #1 #2) Step 1: a\n\n', '1. a\n', '- a\n',
    '\\begin{align}\\begin{array}', '$a', '$ a', '\\( \\(', '. (', '.)', '.).', '(by #1', '(by (by ', 'Reference: ', 'from step 1  ',
    'step 1 ', 'Step 1', '. Step 1: a ', '* * ', '- - ', '# ', '#', '**a', '**a**', '__a', '> > ', '|a|\n', '```\n', 'a\n\n', ' \n',
    '\n \n', '<think>a</think>', '</think>', '1,111', '1.1', '.1', '0,', 'one hundred ', 'Mr. ', 'a.\n', 'a:\n', '$$\n', 'Answer: ',
    'the answer ', 'the  ', 'answer to ', '#1 - ', '(3', '####', '#### ', '1.', '(1)', 'let\'s ', "Let's a\n", 'x = 1\n', '= 1\n']


@pytest.mark.parametrize('piece', HURTFUL, ids=ascii)
def test_linear_time(piece):
    "Four times the text takes about four times as long"
    def seconds(n):
        t = time.process_time()
        parse('Ann has 3 pens.', (piece * (n // len(piece) + 1))[:n] + ' end')
        return time.process_time() - t
    assert seconds(32_000) < 12 * min(seconds(8_000), seconds(8_000)) + 1 # a square would be 16


@pytest.mark.parametrize('make', [lambda n: ' ' * n, lambda n: 'a' * n + '.', lambda n: '#1.' + ' ' * n + 'a',
    lambda n: '(by' + ' ' * n, lambda n: 'from step 1' + ' ' * n, lambda n: 'a' + '.' * n + 'b', lambda n: '1' * n,
    lambda n: '#' * n + '1.', lambda n: '\\boxed{' + '{' * n, lambda n: '(' * n + ')' * n, lambda n: '-' * n + 'a',
    lambda n: '<think>' + 'a. B ' * (n // 40), lambda n: '\n' * n, lambda n: 'answer' + ' ' * n, lambda n: '$' + 'a' * n])
def test_one_long_run(make):
    "A megabyte"
    assert parse(make(1_000_000), make(1_000_000)).steps is not None


def test_wrong_types_are_named():
    for args, said in [((None, ''), 'question'), (('', None), 'answer'), (('', 3), 'answer'), (('', b'3'), 'answer'),
                       (('', ['3', None]), r'answer\[1\]'), (('', {'a': 1}), 'answer')]:
        with pytest.raises(TypeError, match=said):
            parse(*args)
    assert parse('', '', None).choices == () and parse('', '').steps == () == parse('', ' \n').steps


def chains():
    for path in sorted(Path(DATA, 'verify_cot', 'human_annotation').glob('*.json')):
        yield from json.loads(path.read_text())


@needs_data
def test_natural_programs_of_the_annotated_set():
    "All 296 are read whole: nothing unparsed, labels as written, every character in its place"
    n = unparsed = unfinished = 0
    for row in chains():
        chain = parse(row['question'], row['answer'], row.get('choices') or ())
        whole(chain)
        covered(chain)
        n, unparsed = n + 1, unparsed + len(chain.unparsed)
        unfinished += not any(s.role == 'final' for s in chain.steps)
        assert chain.style == 'natural_program' and chain.premises and chain.steps
        labels = [s.label for s in (*chain.premises, *chain.steps)]
        assert labels == [str(i + 1) for i in range(len(labels))]
    assert (n, unparsed, unfinished) == (296, 0, 1)


@needs_data
def test_lists_of_the_mistake_set():
    n = 0
    for path in sorted(Path(DATA, 'bigbench_mistake').glob('*.jsonl')):
        for row in map(json.loads, path.read_text().splitlines()):
            chain = parse(row['input'], row['steps'])
            assert [s.text for s in chain.steps] == [t.strip() for t in row['steps']]
            assert [s.label for s in chain.steps] == [str(i + 1) for i in range(len(row['steps']))]
            n += 1
    assert n == 1135


@needs_data
def test_grade_school_lines():
    "A line is a step, but for a few that are one sentence; the answer is the marked one"
    with gzip.open(Path(DATA, 'gsm8k', 'train.jsonl.gz'), 'rt', encoding='utf-8') as f:
        rows = [json.loads(line) for line in f]
    differs = 0
    for row in rows:
        chain = parse(row['question'], row['answer'])
        answer = final_answer(chain)
        assert answer.how == 'marked' and answer.text == row['answer'].rsplit('#### ')[-1].strip()
        differs += len(chain.steps) != len(list(filter(str.strip, row['answer'].splitlines())))
        assert not chain.unparsed
    assert len(rows) == 7473 and differs <= 15
