"Chains as chat models write them unprompted: none that is right is refuted, planted slips are, at the step"
import re
from collections import defaultdict
from pathlib import Path

import pytest

from reasonlab import verify
from reasonlab.verification.recheck import recheck

TEXT = Path(__file__).with_name('unprompted.txt').read_text(encoding='utf-8')


def rows():
    "Style, question, answer, choices, planted label or None, and why it is not expected to work"
    for part in re.split(r'^== ', TEXT, flags=re.M)[1:]:
        style, _, rest = part.partition('\n')
        for block in re.split(r'^= (?=right|planted|list)', rest, flags=re.M)[1:]:
            head, question, answer = block.split('\n', 2)
            tags = dict(t.split(': ', 1) for t in head.split(' | ')[1:])
            kind = head.split(' | ')[0].replace('list, ', '')
            answer = answer.rstrip('\n')
            yield dict(style=style, question=question[3:].replace('⏎', '\n'), choices=tags.get('choices', '').split('; ')
                       if 'choices' in tags else [], planted=kind[8:] if kind.startswith('planted') else None,
                       answer=answer.split('\n~~~\n') if head.startswith('list') else answer, gap=tags.get('not yet'))


ROWS = list(rows())


def named(some):
    "One parameter per row, named by style and place"
    seen, out = defaultdict(int), []
    for r in some:
        seen[r['style']] += 1
        marks = pytest.mark.xfail(reason=r['gap'], strict=True) if r['gap'] else ()
        out.append(pytest.param(r, id=f"{r['style']}-{seen[r['style']]}".replace(' ', '_'), marks=marks))
    return out


def checked(r):
    "The row as verified; whatever holds for every chain is asserted here"
    out = verify(r['question'], r['answer'], r['choices'])
    assert 0 < out['score'] < 1 and 0 <= out['coverage'] <= 1
    texts = r['answer'] if isinstance(r['answer'], list) else [r['answer']] * len(out['steps'])
    for step, text in zip(out['steps'], texts):
        assert 0 <= step['start'] <= step['end'] <= len(text)
        for c in step['checks']:
            if c['span']: assert step['start'] <= c['span'][0] <= c['span'][1] <= step['end']
    found = [c for part in (*out['steps'], out) for c in part['checks'] if c['verdict'] == 'refuted']
    assert all(recheck(c['certificate']) for c in found)
    assert (out['verdict'] == 'refuted') == bool(found) and (not found or out['score'] < .5)
    return out, [c['why'] for c in found]


@pytest.mark.parametrize('r', named(r for r in ROWS if r['planted'] is None))
def test_a_right_chain_is_not_refuted(r):
    out, why = checked(r)
    assert not why, why


@pytest.mark.parametrize('r', named(r for r in ROWS if r['planted']))
def test_a_planted_slip_is_refuted_at_its_step(r):
    out, why = checked(r)
    assert why
    assert r['planted'] in ('*', out['first_error']), (out['first_error'], why)
    assert all(len(w) < 200 and not re.search(r'\d{5,}/\d{4,}', w) for w in why), why


def test_most_steps_of_plain_sums_are_checked():
    sums = [verify(r['question'], r['answer'], r['choices'])['coverage'] for r in ROWS
            if r['planted'] is None and r['style'] in ('numbered', 'bullets', 'money and shares', 'gsm')]
    assert len(sums) >= 20 and sum(sums) / len(sums) > .8
