"A chain written down is read again as it was"
import json
import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings, strategies as st

from reasonlab.verification.render import STYLES, from_items, render
from reasonlab.verification.steps import parse

DATA = os.environ.get('REASONLAB_DATA')
PROGRAMS = STYLES[:2]
plain = st.sampled_from(['Ann has {} pens', 'Multiply {} by 4', '{} + 4 = 12', 'Dr. Lee buys $1.50 of {}', 'We get {}%',
                         r'$\frac{{{}}}{{2}}$ of them', 'the pens: {}, as said', '2x = {}', '−{} + 3 = 0', 'so be it, {}'])
texts = st.builds(lambda t, n, end: t.format(n) + end, plain, st.integers(0, 9999), st.sampled_from(['', '.', '.\nPens: 3 * 4 = 12']))


@st.composite
def items(draw):
    "A question's premises and steps that cite what stands before them"
    premises = draw(st.lists(texts.map(lambda t: t.replace('\n', ' ')), min_size=1, max_size=4))
    n, steps = len(premises), []
    for i in range(draw(st.integers(1, 6))):
        cites = draw(st.lists(st.integers(1, n + i), min_size=1, max_size=3, unique=True))
        steps.append(dict(text=draw(texts), cites=[str(c) for c in sorted(cites)]))
    steps.append(dict(text='The answer is 7.', cites=[str(n + len(steps))], role='final'))
    return premises, steps


def graph(chain):
    "Everything but the places"
    return [(s.label, s.role, s.text, s.cites) for s in (*chain.premises, *chain.steps)]


@settings(max_examples=150, deadline=None)
@given(items())
def test_programs_come_back(item):
    chain = from_items('How many pens?', *item)
    assert all(s.text == chain.answer[s.start:s.end] for s in (*chain.premises, *chain.steps))
    assert parse(chain.question, chain.answer) == chain
    for style in PROGRAMS:
        assert graph(parse(chain.question, render(chain, style))) == graph(chain)


@settings(max_examples=150, deadline=None)
@given(items(), st.sampled_from(STYLES[2:]))
def test_other_styles_keep_the_steps(item, style):
    assume(len(item[1]) > 2) # a lone paragraph is read by sentences
    chain = from_items('How many pens?', *item)
    again = parse(chain.question, render(chain, style))
    assert [s.text.split() for s in again.steps] == [s.text.split() for s in chain.steps]
    assert again.steps[-1].role == 'final' and not again.unparsed
    n = len(chain.premises)
    for s, t in zip(chain.steps, again.steps):
        cites = [str(int(c.label) - n) for c in s.cites if int(c.label) > n]
        assert [c.label for c in t.cites if not c.inferred] == cites


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=120), st.sampled_from(STYLES))
def test_any_chain_can_be_written(answer, style):
    for chain in (parse('Ann has 3 pens.', answer), parse('Ann has 3 pens.', answer.split('a'))):
        assert isinstance(render(chain, style), str) and isinstance(render(chain, style, inferred=True), str)


@pytest.mark.skipif(not DATA, reason='REASONLAB_DATA is not set: real chains are not at hand')
def test_annotated_chains_make_the_round_trip():
    n = 0
    for path in sorted(Path(DATA, 'verify_cot', 'human_annotation').glob('*.json')):
        for row in json.loads(path.read_text()):
            chain = parse(row['question'], row['answer'])
            for style in PROGRAMS:
                again = parse(row['question'], render(chain, style))
                assert [(s.label, s.text) for s in (*again.premises, *again.steps)] == [
                    (s.label, s.text) for s in (*chain.premises, *chain.steps)], row['id']
                written = [[c.label for c in s.cites if not c.inferred] for s in chain.steps]
                assert [[c.label for c in s.cites if not c.inferred] for s in again.steps] == written, row['id']
            n += 1
    assert n == 296
