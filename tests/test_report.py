"The report of `verify`: safe with any text, self-contained, readable by everyone"
import csv
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from reasonlab.core import asset
from reasonlab.lab.report import TABLE, fragment, lines, render, to_csv, write_report
from reasonlab.plot import contrast
from reasonlab.verification.steps import parse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'docs'))
import axe  # noqa: E402

CHROMIUM = axe.BROWSER
EVIL = '<script>alert(1)</script> "><img src=x onerror=alert(2)> \ud800 \x00 {{ 7*7 }} </style> 2 + 2 = 5'
FAULT = dict(kind='calculation', verdict='refuted', span=[0, 5], why='2 + 2 is 4, not 5',
             certificate=dict(type='arithmetic', left='2+2', relation='=', right='5', decimals=None))


def row(question, answer, bad=True, **kw):
    "A row as `verify` writes it, every step refuted or none"
    chain = parse(question, answer)
    verdict = 'refuted' if bad else 'supported'
    steps = [dict(label=s.label, start=s.start, end=s.end, verdict=verdict,
                  checks=[FAULT | dict(span=[s.start, s.end])] if bad else []) for s in chain.steps]
    return dict(id='x', question=question, answer=answer, verdict=verdict if steps else 'unchecked', score=.1, coverage=1.,
                first_error=steps[0]['label'] if bad and steps else None, steps=steps, checks=[],
                unparsed=[list(u) for u in chain.unparsed]) | kw


class Page(HTMLParser):
    "Elements, ids and balance of a page"
    VOID = {'meta', 'link', 'input', 'br', 'rect', 'path', 'line', 'circle'}

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.tags, self.text, self.attrs = [], [], [], [], []
        self.feed(html)
        assert not self.open, f'never closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs += attrs
        self.ids += [v for k, v in attrs if k == 'id']
        if tag not in self.VOID: self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f'unexpected </{tag}>'

    def handle_data(self, data): self.text.append(data)


def sound(html):
    "No script but ours, no handler, no address, unique ids, balanced tags"
    page = Page(html)
    assert page.tags.count('script') <= 1 and 'img' not in page.tags
    assert not [k for k, _ in page.attrs if k.startswith('on')]
    assert len(set(page.ids)) == len(page.ids)
    assert all(v.startswith(('#', 'data:')) for k, v in page.attrs if k in ('href', 'src'))
    assert '@import' not in html and 'url(' not in html
    html.encode('utf-8')
    return page


anything = st.text(st.characters(), max_size=120) | st.sampled_from([EVIL, '#1. a\n#2. (by #1) 2 + 2 = 5\n#2. (by #9) b'])


@settings(max_examples=60, deadline=None)
@given(anything, anything | st.lists(anything, max_size=4))
@example(EVIL, EVIL)
@example(EVIL, [EVIL, '', '\u202e'])
@example('', '')
@example('', [])
def test_any_text_gives_a_sound_page(question, answer):
    sound(render([row(question, answer), row(question, answer, bad=False, id=EVIL, choices=[EVIL])], EVIL, {EVIL: EVIL}))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=5))
def test_no_letter_is_lost_or_doubled(text, spans):
    parts = [dict(label='1', start=min(s), end=max(s), verdict='unchecked', checks=[FAULT | dict(span=s)]) for s in spans]
    shown = ''.join(r['gap'] + ''.join(t for t, _ in r['pieces']) for r in lines(text, parts))
    squeeze = lambda t: re.sub(r'[\s\ufffd\x00-\x1f\x7f-\x9f]', '', t)
    assert squeeze(shown) == squeeze(text)


def test_user_text_never_becomes_markup(tmp_path):
    path = write_report([row(EVIL, EVIL, id=EVIL)], tmp_path/'a b.html', EVIL)
    page = sound(path.read_text(encoding='utf-8'))
    shown = ''.join(page.text)
    assert '<script>alert(1)</script>' in shown and '{{ 7*7 }}' in shown and '\ufffd' in shown


def test_order_is_verdict_step_reason_then_the_rest():
    html = render([row('q', ['2 + 2 = 4'], bad=False, id='good'), row('q', ['2 + 2 = 5'], id='bad'), dict(id='r3', error='no answer')])
    order = [html.index(x) for x in ('1 of 3 chains is refuted', 'toc-id">bad', 'id="c1"', 'class="headline"', '<mark>', 'class="figures"')]
    assert order == sorted(order)
    assert html.index('toc-id">bad') < html.index('toc-id">good') < html.index('toc-id">r3')


def test_the_verdict_needs_no_colour():
    "Word, icon and underline beside every colour"
    html = render([row('q', ['2 + 2 = 5', '2 + 2 = 4'])])
    assert 'Refuted</span>' in html and '<span class="hidden">refuted: </span>' in html and '<mark>2 + 2 = 5</mark>' in html
    assert re.search(r'mark \{[^}]*underline wavy', asset('templates/report.css').read_text())


def test_equal_rows_give_equal_bytes():
    rows = [row('q', ['2 + 2 = 5'])]
    assert render(rows) == render(rows)


def test_a_fragment_brings_its_own_look_and_no_script():
    html = fragment(row('q', ['2 + 2 = 5']))
    sound(html)
    css = re.search('<style>(.*?)</style>', html, re.S)[1]
    rules = re.sub(r'/\*.*?\*/', '', css, flags=re.S)
    selectors = [s.strip() for block in re.findall(r'([^{}]+)\{', rules) for s in block.split(',') if not block.strip().startswith('@')]
    assert selectors and all('.rl' in s or s.startswith(('@', 'repeating')) for s in selectors), [s for s in selectors if '.rl' not in s]


@pytest.mark.parametrize('scheme', [0, 1, 2])
def test_contrast_meets_AA(scheme):
    "Text at least 4.5 to 1 on what it stands on, outlines at least 3 to 1, in the light and in the dark"
    css = asset('templates/base.css').read_text()
    block = [b for b in re.findall(r'\{([^{}]*--bg:[^{}]*)\}', css) if '--ink' in b][scheme]
    c = dict(re.findall(r'--([\w-]+): (#[0-9a-f]{3,6});', block))
    c = {k: v if len(v) == 7 else '#' + ''.join(x*2 for x in v[1:]) for k, v in c.items()}
    text = [(a, b) for a in ('ink', 'soft') for b in ('bg', 'card', 'tint', 'bad-bg')]
    text += [(v, b) for v in ('bad', 'good', 'open') for b in ('bg', 'card', f'{v}-bg')]
    text += [('bg', 'ink')]
    low = {p: round(contrast(c[p[0]], c[p[1]]), 2) for p in text if contrast(c[p[0]], c[p[1]]) < 4.5}
    low |= {p: round(contrast(c[p[0]], c[p[1]]), 2) for p in [('focus', 'bg'), ('focus', 'card'), ('edge', 'card')]
            if contrast(c[p[0]], c[p[1]]) < 3}
    assert not low


@pytest.fixture(scope='module')
def browser():
    if not CHROMIUM:
        if os.environ.get('CI') == 'true': pytest.fail('no chromium on this machine')
        pytest.skip('no chromium on this machine')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=axe.FLAGS)
        yield b
        b.close()


@pytest.fixture(scope='module')
def page_file(tmp_path_factory):
    long = '#1. Ida has 6 boxes of 8 pens.\n#2. (by #1) 6 * 8 = 48\n#3. (by #2) 48/2 = 25\n#4. (by #2 #3) ' + 'x'*300
    rows = [row('How many?', long, id='a'*90), row('q', ['2 + 2 = 4'], bad=False, id='good'), row(EVIL, EVIL, id='evil')]
    return write_report(rows, tmp_path_factory.mktemp('report')/'page.html', stats={'seconds': '0.4'})


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1200])
def test_fits_every_screen_without_errors(browser, page_file, scheme, width):
    context = browser.new_context(viewport=dict(width=width, height=800), color_scheme=scheme)
    page, errors = context.new_page(), []
    page.on('console', lambda m: errors.append(m.text))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.on('dialog', lambda d: errors.append('a dialog opened'))
    page.goto(page_file.as_uri())
    assert page.evaluate('document.documentElement.scrollWidth') <= width and not errors
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == 'rgb(20, 23, 26)'
    assert dark == (scheme == 'dark')
    context.close()


def test_works_by_keyboard_and_without_script(browser, page_file):
    context = browser.new_context(java_script_enabled=False, viewport=dict(width=1000, height=800))
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.keyboard.press('Tab')
    assert page.locator('.skip:focus').is_visible()
    page.keyboard.press('Tab')
    assert page.locator('#only-all:focus').count() == 1
    page.keyboard.press('ArrowRight')  # radio buttons move by arrow: only the refuted stay
    assert page.locator('article.refuted').count() == page.locator('article:visible').count() == 2
    page.locator('details.figures > summary').focus()
    page.keyboard.press('Enter')
    assert page.locator('.figures table').first.is_visible()
    context.close()


def test_a_very_long_chain_is_shown_whole():
    html = render([row('q', '\n'.join(f'#{i}. (by #1 #{max(i - 1, 1)}) {i} + {i} = {2*i}' for i in range(1, 600)))])
    assert html.count('<mark>') > 500


@pytest.fixture(scope='module', params=[1, 300])
def many_file(request, tmp_path_factory):
    "One refuted chain, or three hundred of which a third is refuted"
    rows = [row('How many are left?', ['6 * 8 = 48', f'{k} + 2 = 5'], bad=k % 3 == 0, id=f'row {k}') for k in range(request.param)]
    return rows, write_report(rows, tmp_path_factory.mktemp('many')/f'{request.param}.html')


def test_a_laptop_shows_the_verdict_without_scrolling(browser, many_file):
    rows, path = many_file
    page = browser.new_page(viewport=dict(width=1366, height=768))
    page.goto(path.as_uri())
    parts = ['h1', '.lead', '.tally', '.downloads', '.headline >> nth=0' if len(rows) == 1 else '.toc li >> nth=5']
    for part in parts:
        box = page.locator(part).bounding_box()
        assert box['y'] >= 0 and box['y'] + box['height'] <= 768, part
    want = 'The chain is refuted.' if len(rows) == 1 else '100 of 300 chains are refuted; 200 supported.'
    assert page.locator('.lead').inner_text() == want
    page.close()


def test_rows_can_be_taken_away(browser, many_file):
    rows, path = many_file
    page = browser.new_page()
    page.goto(path.as_uri())
    got = {}
    for kind in ('JSON', 'CSV'):
        with page.expect_download() as d: page.get_by_role('link', name=f'Download as {kind}').click()
        got[kind] = Path(d.value.path()).read_text(encoding='utf-8')
    assert json.loads(got['JSON']) == dict(schema=1, chains=rows)
    table = list(csv.DictReader(got['CSV'].splitlines()))
    assert [(t['id'], t['verdict']) for t in table] == [(r['id'], r['verdict']) for r in rows] and tuple(table[0]) == TABLE
    page.close()


@pytest.mark.parametrize('text', ['=1+1', '+A1', '-x', '@SUM(A1)', '\t=1'])
def test_no_spreadsheet_runs_what_a_stranger_wrote(text):
    table = list(csv.DictReader(to_csv([row('q', ['2 + 2 = 5'], id=text), dict(id=text, error=text)]).splitlines()))
    assert all(t['id'][0] == "'" and t['id'].endswith(text.strip()) for t in table)


def test_it_prints_black_on_white_with_every_fold_open(browser, many_file):
    rows, path = many_file
    page = browser.new_page(viewport=dict(width=1366, height=768), color_scheme='dark')
    page.goto(path.as_uri())
    page.emulate_media(media='print', color_scheme='dark')
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    look = page.evaluate("""() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.headline')).color,
        document.querySelectorAll('details:not([open])').length]""")
    assert look == ['rgb(255, 255, 255)', 'rgb(0, 0, 0)', 0]
    assert not page.locator('.downloads').is_visible() and page.locator('article.refuted .line.refuted').first.is_visible()
    assert {page.eval_on_selector(s, 'e => getComputedStyle(e).breakInside') for s in ('.line', '.headline', '.chain > header')} == {'avoid'}
    page.close()


def test_axe_finds_nothing_serious(page_file):
    if not CHROMIUM or not (axe.CORE / 'axe.min.js').exists():
        if os.environ.get('CI') == 'true': pytest.fail('no axe-core or no chromium on this machine')
        pytest.skip('no axe-core (make axe) or no chromium')
    rows = axe.audit_all(page_file.parent, workers=1)
    assert {r['scheme'] for r in rows} == set(axe.SCHEMES) and not axe.grave(rows), axe.grave(rows)
