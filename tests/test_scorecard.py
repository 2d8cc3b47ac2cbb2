"The scorecard: verdicts come from numbers, and every way to take it away says the same"
import csv
import io
import json
import re
from dataclasses import replace

import pytest

from reasonlab.claims import NO_DATA, OUTCOMES, Claim, Finding, claim_hash, read_findings, verdict, write_findings
from reasonlab.core import PAPERS, asset
from reasonlab.lab.scorecard import (PLANNED, claims_of, lead, print_scorecard, scorecard, strip, tally, to_csv, to_html,
                                     to_json, to_markdown)

EVIL = '<script>alert(1)</script> | [red]"a\ud800"'


def made(name='gain', est=.2, low=.15, high=.25, effect=.05, direction='more', text='It helps', **kw):
    c = Claim(id=f'deer.{name}', paper='deer', text=text, statistic='accuracy_gain', effect=effect, direction=direction)
    return c, replace(Finding(claim=c.id, scope='world', estimate=est, low=low, high=high, n=100, clusters=50,
                              seeds=(0, 1, 2, 3, 4), statement=claim_hash(c)), **kw)


def card(tmp_path, *pairs, unrun=()):
    write_findings('deer', [f for _, f in pairs], tmp_path)
    claims = (*(c for c, _ in pairs), *unrun)
    return scorecard(tmp_path, lambda p: claims if p.slug == 'deer' else ())


def test_a_stored_verdict_is_not_believed(tmp_path):
    c, f = made(est=.01, low=-.02, high=.04, outcome='supported')
    entry = next(e for e in card(tmp_path, (c, f)) if e.claim)
    assert entry.outcome == 'contradicted' and entry.finding.outcome == 'supported'
    assert 'contradicted' in to_html(card(tmp_path, (c, f))) and '"outcome": "supported"' not in to_json(card(tmp_path, (c, f)))


def test_a_moved_bar_voids(tmp_path):
    c, f = made()
    write_findings('deer', [f], tmp_path)
    moved = scorecard(tmp_path, lambda p: (replace(c, effect=.01),) if p.slug == 'deer' else ())
    assert next(e for e in moved if e.claim).outcome == 'void'


def test_all_nineteen_are_there_and_planned_ones_say_so():
    now = scorecard()
    assert [p for p in dict.fromkeys(e.paper.slug for e in now)] == list(PAPERS)
    for e in now:
        assert (e.outcome == PLANNED) == (e.claim is None)
        if e.claim: assert e.outcome in (*OUTCOMES, NO_DATA) and e.outcome == verdict(e.claim, e.finding).outcome


def test_every_stored_finding_has_its_claim():
    for path in sorted(asset('findings').glob('*.json')):
        known = {c.id for c in claims_of(PAPERS[path.stem])}
        assert set(read_findings(path.stem)) <= known, f'{path.name}: a finding without a claim'


def test_html_json_csv_markdown_and_terminal_agree(tmp_path):
    pairs = [made(), made('flat', .01, -.02, .04), made('wide', .1, 0., .2)]
    rows = card(tmp_path, *pairs, unrun=(made('later')[0],))
    want = ['supported', 'contradicted', 'inconclusive', NO_DATA]
    assert [e.outcome for e in rows if e.claim] == want
    assert re.findall(r'</svg>(\w[\w: ]*)</span><span class="scope">', to_html(rows)) == want
    assert [r['outcome'] for r in json.loads(to_json(rows))['claims'] if 'id' in r] == want
    assert [r['outcome'] for r in csv.DictReader(io.StringIO(to_csv(rows))) if r['id']] == want
    assert [l.split('|')[3].split(maxsplit=1)[1].strip() for l in to_markdown(rows).splitlines()[2:6]] == want
    from rich.console import Console
    out = Console(file=io.StringIO(), width=140)
    print_scorecard(rows, console=out)
    assert all(w in out.file.getvalue() for w in want) and sum(tally(rows).values()) == 4 and '4 claims' in lead(rows)


@pytest.mark.parametrize('direction', ['more', 'less'])
@pytest.mark.parametrize('low,high', [(.1, .2), (-.3, -.2), (0., .1), (.05, .05), (0., 0.), (-1e6, 1e6)])
def test_the_strip_shows_what_the_verdict_says(direction, low, high):
    c, f = made(est=(low + high)/2, low=low, high=high, direction=direction, floors={'a floor': -.1})
    s = strip(c, f)
    assert all(0 <= s[k] <= 216 for k in ('low', 'high', 'estimate', 'effect')) and s['low'] <= s['estimate'] <= s['high']
    if verdict(c, f).outcome == 'supported':
        assert (s['low'] >= s['effect']) if direction == 'more' else (s['high'] <= s['effect'])


def test_text_of_claims_never_becomes_markup(tmp_path):
    c, f = made(text=EVIL)
    rows = card(tmp_path, (c, f))
    html = to_html(rows)
    assert '<script' not in html and '://' not in html.split('<body')[1]
    html.encode('utf-8')
    to_markdown(rows).encode('utf-8')
    print_scorecard(rows)
