"The verifier as a whole: it sees only the text, finds what was planted, and every certificate stands by itself"
import os
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reasonlab.data import rows
from reasonlab.verification.natural_program import FEATURES, as_row, examine, features, probability, verify_row
from reasonlab.verification.recheck import recheck
from reasonlab.verification.render import STYLES, from_items
from reasonlab.verification.steps import Check, parse
from reasonlab.worlds import FAULTS, ArithmeticWorld

SETS = ('verify_cot', 'bigbench_mistake')
HIDDEN = ('flag', 'correct', 'final_answer', 'gt_answer', 'target', 'mistake_index', 'id', 'task')
ANSWERS = dict(verify_cot=HIDDEN, bigbench_mistake=(*HIDDEN, 'answer'))  # there `answer` is not the chain: `steps` is
real = pytest.mark.skipif(not os.environ.get('REASONLAB_DATA'), reason='REASONLAB_DATA is not set: the public sets are not here')


def sample(items, n, seed=11): return random.Random(seed).sample(list(items), min(n, len(items)))


def certificates(e): return [c.certificate for cs in (*e.steps, e.whole) for c in cs if c.verdict == 'refuted']


@real
@pytest.mark.parametrize('name', SETS)
def test_labels_ids_and_tasks_do_not_matter(name):
    "What must not be seen is dealt out anew among the rows: every verdict, score and span stays"
    some, rng = sample(rows(name), 60), random.Random(5)
    dealt = [dict(r) for r in some]
    for field in ANSWERS[name]:
        if field not in some[0]: continue
        values = [r[field] for r in some]
        rng.shuffle(values)
        for r, v in zip(dealt, values): r[field] = v
    assert any(a != b for a, b in zip(some, dealt))
    changed = [a['id'] for a, b in zip(some, dealt) if verify_row(a) != verify_row(b)]
    assert not changed, changed
    bare = [{k: v for k, v in r.items() if k not in ANSWERS[name]} for r in some]
    assert all(verify_row(a) == verify_row(b) for a, b in zip(some, bare))


@real
@pytest.mark.parametrize('name', SETS)
def test_every_certificate_stands_by_itself(name):
    "A check refutes if and only if it has a certificate, and an independent function agrees with each"
    seen = sample(rows(name), 150)
    pairs = [(r['id'], c) for r in seen for c in certificates(examined(r))]
    bad = [(i, c['type']) for i, c in pairs if not recheck(c)]
    assert len(pairs) > 50 and not bad, bad


def examined(row):
    answer = row['steps'] if 'steps' in row else row['answer']
    return examine(parse(row.get('question', row.get('input')), answer, tuple(row.get('choices') or ())))


LEAST = dict(wrong_result=.95, missing_citation=.95, wrong_final=.95, irrelevant_step=.9, skipped_step=.85, wrong_operand=.75)
PROSE = dict(wrong_result=.95, wrong_final=.95)  # without written citations only what is computed and concluded can be held against a chain

LONE = ('paragraphs', 'gsm8k')  # there a lone paragraph before the answer is read by sentences, as it should be


@pytest.fixture(scope='module')
def world(): return ArithmeticWorld().items(np.random.default_rng(11), 600)


def written(item, style):
    chain = from_items(item['question'], item['premises'], item['steps'], style=style)
    return parse(item['question'], chain.answer)


@pytest.mark.parametrize('style', STYLES)
def test_planted_faults_are_found(world, style):
    "Per kind of fault the share of refuted chains, beside the share among the flawless; each style parses back"
    n, hit, certs = Counter(), Counter(), []
    for item in world:
        e = examine(written(item, style))
        if len(item['steps']) > 2 or style not in LONE: assert len(e.chain.steps) == len(item['steps']), (style, item['question'])
        n[item['kind']] += 1
        hit[item['kind']] += e.verdict == 'refuted'
        certs += certificates(e)
    share = {k: hit[k] / n[k] for k in n}
    assert set(n) == {'none', *FAULTS} and min(n.values()) > 30, n
    assert share['none'] <= .05, share
    least = LEAST if style in ('natural_program', 'reference_end') else PROSE
    assert all(share[k] >= low for k, low in least.items()), share
    assert all(recheck(c) for c in certs)


@pytest.mark.parametrize('style', ['natural_program', 'reference_end'])
def test_the_first_error_is_the_planted_one(world, style):
    "Where a fault is planted and the chain refuted, the first refuted step is the step with the fault"
    found = [(examine(written(i, style)).first_error, i['bad_index']) for i in world if i['kind'] in ('wrong_result', 'wrong_final')]
    assert np.mean([a == b for a, b in found]) >= .95


def weakened(e, i, check):
    steps = list(e.steps)
    steps[i] = (*steps[i], check)
    return replace(e, steps=tuple(steps))


def test_a_further_refutation_never_raises_the_score(world):
    "Whatever else is known of a chain, one more refuted step makes it no more likely to be valid"
    rng = random.Random(3)
    for item in world[:150]:
        e = examine(written(item, rng.choice(STYLES)))
        for kind in (k for tie in FEATURES.values() for k in tie):
            worse = weakened(e, rng.randrange(len(e.steps)), Check(kind, 'refuted', None, 'planted', dict(type='planted')))
            assert probability(features(worse)) <= probability(features(e)), (kind, item['kind'])
            assert as_row(worse)['verdict'] == 'refuted' and 0 < as_row(worse)['score'] < 1


def test_a_second_refuted_step_never_raises_the_score():
    "Also when nothing was known of that step before: being checked is no merit where the check fails"
    e = examine(parse('How many?', ['Pens are nice.', 'So are boxes.', 'And lamps.']))
    last = probability(features(e))
    for i in range(3):
        e = weakened(e, i, Check('calculation', 'refuted', None, 'planted', dict(type='planted')))
        assert (now := probability(features(e))) <= last
        last = now
