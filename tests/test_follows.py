"A judge as one more checker: asked once for many steps, worth what it adds, absent without harm"
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from reasonlab.claims import Finding, read_findings, write_findings
from reasonlab.core import LABELS
from reasonlab.data import DataMissing
from reasonlab.lab import cli_book, reproduce
from reasonlab.stats import auc
from reasonlab.verification import follows, natural_program
from reasonlab.verification.graph import FollowsChecker, asked, follows_pair
from reasonlab.verification.natural_program import examine, verify
from reasonlab.verification.steps import parse


class Hash:
    "A judge with an opinion on everything, and no answer to what says nothing"
    labels, calls = LABELS, 0
    def __init__(self, results=True):
        if results: self.results = self._results
    def score(self, premises, hypotheses):
        self.calls += 1
        return [[v := hash(p + '|' + h) % 101 / 100, (1 - v)/2, (1 - v)/2] for p, h in zip(premises, hypotheses)]
    def _results(self, premises, hypotheses):
        bad = {i: 'nothing is said' for i, h in enumerate(hypotheses) if 'nothing' in h}
        return SimpleNamespace(errors=bad, probs=np.array(self.score(premises, hypotheses)))


STEP = st.sampled_from(['It rained.', 'So it is wet.', '2 + 2 = 4', 'nothing', '', ' ', 'The answer is 4.'])
CHAIN = st.tuples(st.sampled_from(['', 'It rained. Is it wet?']), st.lists(STEP, max_size=6))


@settings(max_examples=60, deadline=None)
@given(st.lists(CHAIN, max_size=4), st.booleans())
def test_asked_together_or_alone_a_judge_says_the_same(given_, results):
    chains = [parse(q, a) for q, a in given_]
    together, alone = FollowsChecker(Hash(results)).prime(*chains), []
    for c in chains: alone.append([FollowsChecker(Hash(results)).check(s, c) for s in c.steps])
    calls = together.judge.calls
    assert [[together.check(s, c) for s in c.steps] for c in chains] == alone and together.judge.calls == calls == 1


def test_a_chain_is_one_call_and_a_bad_step_costs_itself():
    judge, chain = Hash(), parse('It rained.', ['So it is wet.', 'nothing', '', 'The answer is 4.'])
    checker = FollowsChecker(judge, at=0)
    got = [checker.check(s, chain) for s in chain.steps]
    assert judge.calls == 1 and [len(x) for x in got] == [1, 1, 0, 1]
    assert [x[0].verdict for x in got if x] == ['supported', 'unchecked', 'supported'] and got[1][0].why == 'nothing is said'
    judge.calls = 0
    said = verify('It rained.', ['So it is wet.', 'It is wet.', 'The answer is 4.'], judge=judge)
    assert judge.calls == 1 and any(c['kind'] == 'follows' for s in said['steps'] for c in s['checks'])


def test_a_judge_never_refutes():
    class No:
        def score(self, premises, hypotheses): return [[0., 0., 1.]]*len(premises)
    good = ['6 * 14 = 84', '84 - 20 = 64', 'The answer is 64.']
    assert verify('', good, judge=No())['verdict'] == verify('', good)['verdict'] == 'supported'


PAIRS = st.lists(st.lists(st.tuples(st.sampled_from('abc'), st.sampled_from('defgh')), max_size=4), min_size=1, max_size=6)


@given(PAIRS, st.integers(0, 9), st.data())
def test_the_sham_moves_hypotheses_within_their_task_and_nothing_else(pairs, seed, data):
    task = np.array(data.draw(st.lists(st.sampled_from('xy'), min_size=len(pairs), max_size=len(pairs))))
    mixed = follows.permuted(pairs, task, np.arange(len(pairs)), np.random.default_rng(seed))
    assert [[p for p, _ in ps] for ps in mixed] == [[p for p, _ in ps] for ps in pairs]
    def said(pairs, t): return Counter(h for ps, k in zip(pairs, task) if k == t for _, h in ps)
    assert all(said(mixed, t) == said(pairs, t) for t in 'xy')


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=12), st.integers(0, 9))
def test_the_sham_gives_no_step_a_hypothesis_of_its_own_question(chains, seed):
    "Unless one question has more than half of the steps; two chains may share a question"
    group = np.array([g for g, _ in chains])
    pairs = [[('p', (int(g), i, k)) for k in range(n)] for i, (g, n) in enumerate(chains)]
    mixed = follows.permuted(pairs, np.full(len(chains), 'x'), group, np.random.default_rng(seed))
    size = Counter(h[0] for ps in pairs for _, h in ps)
    own = sum(h[0] == g for g, ps in zip(group, mixed) for _, h in ps)
    assert own == max(0, 2*max(size.values(), default=0) - sum(size.values()))


def planted(n=160):
    "Rows as `examined_rows` gives them: chains that no certificate touches; the sound ones repeat their premise"
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        a, b = rng.choice(['Ann', 'Ben', 'Cem', 'Dia', 'Eli', 'Fay'], 2, replace=False)
        sound = bool(rng.random() < .5)
        q = f'{a} is older than {b} ({i}).'
        end = f'{a} is older than {b}.' if sound else f'{b} is older than {a}.'
        row = dict(id=str(i), task='ab'[i % 2], question=q, input=q, answer=[end], flag=sound, mistake_index=None if sound else 0)
        rows.append((row, examine(parse(q, row['answer']))))
    return tuple(rows)


class Reads:
    "Knows who is older"
    def score(self, premises, hypotheses):
        e = np.array([.9 if h.rstrip('.') in p else .1 for p, h in zip(premises, hypotheses)])
        return np.column_stack([e, (1 - e)/2, (1 - e)/2])


def test_a_judge_that_knows_gains_and_its_sham_does_not(monkeypatch):
    rows = planted()
    monkeypatch.setattr(natural_program, 'examined_rows', lambda name, most=None: rows)
    got = follows.observe_follows('full', 0, Reads())
    assert list(got) == [c.id for c in follows.FOLLOWS_CLAIMS]
    for o in got.values():
        r = o.rows
        assert r['y'].tolist() == [row['flag'] for row, _ in rows] and set(r['stratum']) == {'a', 'b'}
        assert auc(r['y'], r['pred']) > .9 > .65 > auc(r['y'], r['control']) and auc(r['y'], r['floor_overlap']) < .65
    home = follows.observe_follows('home', 0, Reads())
    assert [v is None for v in home.values()] == [False, True]


def test_a_task_with_one_label_only_is_left_out(monkeypatch):
    rows = tuple((r | dict(mistake_index=0), e) if r['task'] == 'b' else (r, e) for r, e in planted())
    monkeypatch.setattr(natural_program, 'examined_rows', lambda name, most=None: rows)
    assert set(follows.observe_follows('full', 0, Reads())['natural_program.follows_mistakes'].rows['stratum']) == {'a'}


@pytest.mark.parametrize('fault', [DataMissing('x'), ImportError('torch'), FileNotFoundError('judge')])
def test_without_data_or_judge_the_claims_are_not_run(monkeypatch, fault):
    def gone(*_): raise fault
    monkeypatch.setattr(natural_program, 'examined_rows', gone if isinstance(fault, DataMissing) else lambda *_: planted(8))
    monkeypatch.setattr(follows, '_shipped', gone)
    assert set(follows.observe_follows('full', 0).values()) == {None}


def test_one_claim_is_run_alone(tmp_path, monkeypatch):
    "Only its part of the chapter is computed, its folder goes on with it, and other findings stay where it is stored"
    monkeypatch.chdir(tmp_path)
    def never(*_, **__): raise AssertionError('another part of the chapter was run')
    for part in ('observe_votes', 'observe_flags', 'observe_first'): monkeypatch.setattr(natural_program, part, never)
    def lab(*args): return CliRunner().invoke(cli_book.app, ['reproduce', *args, '--json'])
    done = lab('natural_program.follows', '--scale', 'smoke')
    assert done.exit_code == 0, done.output
    assert [json.loads(l)['claim'] for l in done.stdout.splitlines()] == ['natural_program.follows']
    (folder,) = (tmp_path/'runs').iterdir()
    assert lab('--resume', str(folder)).stdout == done.stdout
    assert lab('natural_program.nonsense').exit_code == 2 and lab('natural_program', '--resume', str(folder)).exit_code == 2


def test_a_finding_is_stored_beside_the_others(tmp_path):
    stored = read_findings('natural_program')
    write_findings('natural_program', list(stored.values()), tmp_path)
    new = Finding(claim='natural_program.follows', scope='real', estimate=.1, low=0., high=.2)
    write_findings('natural_program', cli_book._beside([new]), tmp_path)
    back = read_findings('natural_program', tmp_path)
    assert back['natural_program.follows'] == new and {k: v for k, v in back.items() if k in stored and k != new.claim} == {
        k: v for k, v in stored.items() if k != new.claim} and list(back) == [c.id for c in natural_program.STUDY.claims]


def test_a_run_is_named_by_the_judge_it_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, 'asset_root', lambda: tmp_path)
    (tmp_path/'adapters'/'judge').mkdir(parents=True)
    keys = []
    for weights in (b'1', b'2', b'1'):
        (tmp_path/'adapters'/'judge'/'head.safetensors').write_bytes(weights)
        keys.append(reproduce.key_of(natural_program.STUDY, 'smoke', {})['model'])
    assert keys[0] == keys[2] != keys[1]


def test_every_answer_is_about_its_pair():
    pairs = [('a', 'b'), ('c', 'nothing'), ('d', 'e')]
    got = asked(Hash(), pairs)
    assert got[1] == 'nothing is said' and got[0] == Hash().score(['a'], ['b'])[0] and asked(Hash(), []) == []
    chain = parse('Q one.', ['A.'])
    assert follows_pair(chain.steps[0], chain)[1] == 'A.'
