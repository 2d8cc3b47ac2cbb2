"The scorecard: verdicts come from numbers, and every way to take it away says the same"
import csv
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reasonlab.claims import NO_DATA, OUTCOMES, Claim, Finding, claim_hash, read_findings, verdict, write_findings
from reasonlab.core import PAPERS, asset
from reasonlab.lab.scorecard import (ARMS, PLANNED, SITE, Entry, calibration, cell_link, claims_of, error_rates, kept, lead,
                                     print_scorecard, scorecard, sources, strip, tally, to_csv, to_html, to_json, to_markdown)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'docs'))
import axe  # noqa: E402

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
    assert re.findall(r'</svg>(\w[\w: ]*)</a><span class="scope">', to_html(rows)) == want
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
    assert '<script' not in html
    body = html.split('<body')[1] # links to the book, nothing fetched
    assert body.count('://') == body.count(f'href="{SITE}') and not re.search(r'\bsrc=|url\(|@import', html)
    html.encode('utf-8')
    to_markdown(rows).encode('utf-8')
    print_scorecard(rows)


def table(arms=({}, {}, {}, {})):
    "Made-up error rates"
    known = (('sham', [.0125, .0043, .0361], '<= .05'), ('edge', [.03, .014, .06], ''), ('planted', [.83, .776, .872], '>= .80'),
             ('broken', [0., 0., .05], '<= .05'))
    return dict(schema=1, name='placebo', arms=[dict(arm=a, what=f'{a} {EVIL}', n=1240, outcomes={}, rate=r, bar=b) | more
                                                for (a, r, b), more in zip(known, arms)])


@pytest.fixture
def measured(tmp_path):
    (tmp_path / 'calibration').mkdir()
    (tmp_path / 'calibration' / 'placebo.json').write_text(json.dumps(table()))
    return tmp_path / 'calibration'


def test_the_error_rate_is_said_or_said_to_be_missing(tmp_path, measured):
    rows = card(tmp_path, made())
    for kw in (dict(), dict(page=False)):
        html = to_html(rows, folder=measured, **kw)
        strip_of = html[html.index('class="rates"'):html.index('class="tallies"')]
        for said in ('1.2 %', '0.4 to 3.6 %', 'bar at most 5 %', '>met<', '83 %', '>open<', 'n = 1,240', *ARMS.values()): assert said in strip_of, said
        assert '<script' not in html and 'not measured yet' not in html and html.index('class="rates"') < html.index('class="glance"')
        bare = to_html(rows, folder=tmp_path, **kw)
        assert 'error rate not measured yet' in bare and '%</a>' not in bare
    assert json.loads(to_json(rows, table()))['placebo'] == table() and json.loads(to_json(rows))['placebo'] is None
    assert error_rates(None) == [] and len(error_rates(table())) == 4


@pytest.mark.parametrize('rate,bar,want', [
    ([.01, .0, .05], '<= .05', 'met'), ([.01, .0, .0501], '<= .05', 'open'), ([.2, .05, .3], '<= .05', 'open'), ([.2, .06, .3], '<= .05', 'missed'),
    ([.9, .80, .95], '>= .80', 'met'), ([.8, .79, .95], '>= .80', 'open'), ([.5, .4, .79], '>= .80', 'missed'), ([.5, .4, .6], '', ''), ([.5, .4, .6], None, '')])
def test_a_bar_is_kept_by_the_whole_interval(rate, bar, want): assert kept(rate, bar) == want


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / 'placebo.json').write_text('{"schema": 1, "name": "drills"}')
    with pytest.raises(ValueError, match='placebo'): to_html(scorecard(), folder=tmp_path)
    assert calibration('coverage', tmp_path) is None


def test_every_source_is_a_function_of_the_library():
    "What a number's link names exists, is public, and is the study's own"
    import importlib
    rows = [e for e in scorecard() if e.claim]
    assert rows
    for e in rows:
        for part, name in sources(e).items():
            module, _, symbol = name.rpartition('.')
            assert symbol in importlib.import_module(f'reasonlab.{module}').__all__, (e.claim.id, part, name)
            assert f'#{module.split(".")[-1].replace("_", "-")}-' in cell_link(name)
        assert e.claim in getattr(importlib.import_module(f"reasonlab.{sources(e)['stated'].rpartition('.')[0]}"), sources(e)['stated'].split('.')[-1])
    assert len({sources(e)['rows'] for e in rows}) > 2, 'one cell made all rows?'


def test_rows_of_nobody_knows_whom_lead_to_the_study(monkeypatch):
    "A study observed by a lambda or a partial has no cell of its own"
    from functools import partial
    from reasonlab.verification import natural_program
    known = natural_program.STUDY
    for observe in (lambda scale, seed: {}, partial(known.observe, 'smoke')):
        monkeypatch.setattr(natural_program, 'STUDY', replace(known, observe=observe, cells={}))
        found = [sources(e) for e in scorecard() if e.claim and e.paper.slug == 'natural_program']
        assert {f['rows'] for f in found} == {'claims.Study'} and cell_link('claims.Study').startswith('claims.html#')
    monkeypatch.setattr(natural_program, 'STUDY', replace(known, cells={}))
    mine = [e for e in scorecard() if e.claim and e.paper.slug == 'natural_program']
    assert {sources(e)['rows'] for e in mine} == {'verification.natural_program.observe'}


def full():
    "Nineteen papers with eight claims each: the most that one screen has to hold"
    out = []
    for p in PAPERS.values():
        for k in range(8):
            c, f = made(f'c{k}', .2, *[(.15, .25), (.0, .4)][k % 2])
            c = replace(c, id=f'{p.slug}.c{k}', paper=p.slug)
            out.append(Entry(p, c, f := replace(f, claim=c.id, statement=claim_hash(c)), verdict(c, f)))
    return out


@pytest.fixture(scope='module')
def browser():
    if not axe.BROWSER:
        if os.environ.get('CI') == 'true': pytest.fail('no chromium on this machine')
        pytest.skip('no chromium on this machine')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play, play.chromium.launch(executable_path=axe.BROWSER, args=axe.FLAGS) as b: yield b


@pytest.mark.parametrize('rows', [scorecard, full], ids=['today', 'full'])
@pytest.mark.parametrize('known', [True, False], ids=['measured', 'not measured'])
def test_a_laptop_shows_all_verdicts_without_scrolling(browser, tmp_path, measured, rows, known):
    (path := tmp_path / 'card.html').write_text(to_html(rows(), folder=measured if known else tmp_path), encoding='utf-8')
    page, errors = browser.new_page(viewport=dict(width=1366, height=768)), []
    page.on('console', lambda m: errors.append(m.text))
    page.goto(path.as_uri())
    for part in ('.rates', '.tallies', '.glance', '.glance li >> nth=18', '.glance .marks >> nth=-1'):
        box = page.locator(part).bounding_box()
        assert box['y'] >= 0 and box['y'] + box['height'] <= 768, part
    assert page.locator('.glance li').count() == 19
    assert page.locator('.glance .marks a').count() == sum(e.claim is not None for e in rows())
    page.set_viewport_size(dict(width=390, height=844))
    assert page.evaluate('document.documentElement.scrollWidth') <= 390 and not errors
    page.close()


def test_the_page_prints_and_can_be_taken_away(browser, tmp_path, measured):
    rows = scorecard()
    (path := tmp_path / 'card.html').write_text(to_html(rows, folder=measured), encoding='utf-8')
    page = browser.new_page(viewport=dict(width=1366, height=768), color_scheme='dark')
    page.goto(path.as_uri())
    for kind, want in (('JSON', to_json(rows, table())), ('CSV', to_csv(rows))):
        with page.expect_download() as got: page.get_by_role('link', name=f'Download as {kind}').click()
        assert Path(got.value.path()).read_text(encoding='utf-8') == want and got.value.suggested_filename == f'scorecard.{kind.lower()}'
    page.emulate_media(media='print', color_scheme='dark')
    look = page.evaluate("""() => ({paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.querySelector('.claims .value a')).color,
        lines: [...document.querySelectorAll('a')].filter(a => getComputedStyle(a).textDecorationLine != 'none').length,
        rows: [...document.querySelectorAll('.claims tbody tr')].map(r => getComputedStyle(r).breakInside), table: getComputedStyle(document.querySelector('.claims tr')).display})""")
    assert look['paper'] == 'rgb(255, 255, 255)' and look['ink'] == 'rgb(0, 0, 0)' and look['lines'] == 0
    assert set(look['rows']) == {'avoid'} and look['table'] == 'table-row' and not page.locator('.downloads').is_visible()
    assert page.locator('.rates').is_visible() and page.locator('.glance').is_visible()
    page.close()


def test_axe_finds_nothing_serious_on_the_page(tmp_path, measured):
    if not axe.BROWSER or not (axe.CORE / 'axe.min.js').exists():
        if os.environ.get('CI') == 'true': pytest.fail('no axe-core or no chromium on this machine')
        pytest.skip('no axe-core (make axe) or no chromium')
    (tmp_path / 'card.html').write_text(to_html(full()[:40], folder=measured), encoding='utf-8')
    rows = axe.audit_all(tmp_path, workers=1)
    assert {r['scheme'] for r in rows} == set(axe.SCHEMES) and not axe.grave(rows), axe.grave(rows)
