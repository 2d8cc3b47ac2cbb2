"""The built site in a real browser. It opens what `make site` left in _site/html (`make check` builds first).

Chromium is taken from $CHROMIUM or the path, axe-core from `make axe`; without them, or without a site of today's notebooks, the
tests skip and say so, except where CI=true.
"""
import functools
import html.parser
import json
import os
import re
import sys
from collections import Counter
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

from book import ROOT, notebooks
from reasonlab.lab.scorecard import SITE as ADDRESS, calibration

sys.path.insert(0, str(ROOT / "docs"))
import axe  # noqa: E402
import front  # noqa: E402
from axe import BROWSER, FLAGS, OUTSIDE, SITE  # noqa: E402

pytestmark = pytest.mark.site

def need(thing, why):
    "Absent things skip on a reader's machine and fail in CI"
    if thing: return
    if os.environ.get("CI") == "true": pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def site():
    "Address of the site, served on loopback"
    front = SITE / "index.html"
    need(front.exists(), "no site in _site/html: run make site")
    newer = [nb.name for nb in notebooks() if nb.path.stat().st_mtime > front.stat().st_mtime]
    need(not newer, f"the site is older than {', '.join(newer)}: run make site")
    with axe.served() as address: yield address


@pytest.fixture(scope="module")
def browser(site):
    need(BROWSER, "no Chromium: apt-get install chromium, or set CHROMIUM")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, site):
    "open_page('core.html', width=390) -> (page, what the console complained of)"
    contexts = []

    def opened(name="index.html", width=1280, height=900, scheme="light"):
        contexts.append(browser.new_context(viewport=dict(width=width, height=height), color_scheme=scheme))
        page, complaints = contexts[-1].new_page(), []
        page.route(OUTSIDE, lambda route: route.fulfill(status=200, content_type="text/javascript", body=""))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(site + name, wait_until="load")
        return page, complaints
    yield opened
    for c in contexts: c.close()


pages = functools.cache(axe.pages)


def contrast(page, selector):
    "WCAG contrast of an element's text against what is behind it"
    return page.eval_on_selector(selector, """el => {
      const rgb = s => s.match(/[\\d.]+/g).map(Number);
      const lum = c => [0, 1, 2].map(i => c[i] / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                                .reduce((a, v, i) => a + v * [.2126, .7152, .0722][i], 0);
      let b = el; while (b && (rgb(getComputedStyle(b).backgroundColor)[3] ?? 1) == 0) b = b.parentElement;
      const [x, y] = [lum(rgb(getComputedStyle(el).color)), lum(rgb(getComputedStyle(b).backgroundColor))].sort((p, q) => q - p);
      return (x + .05) / (y + .05); }""")


def test_front_page_shows_the_bad_step_first(open_page):
    page, complaints = open_page()
    assert page.title().startswith("reasonlab")
    bad = page.locator(".chain .line.refuted")
    assert bad.count() == 1 and "6 × 3 is 18, not 21" in bad.inner_text()
    assert page.locator(".chain .headline").bounding_box()["y"] < 500 and bad.bounding_box()["y"] < 900, "not on the first screen"
    order = page.eval_on_selector_all("article.chain, section > h2", "els => els.map(e => e.className || e.firstChild.textContent.trim())")
    assert order == ["chain refuted", "The scorecard", "The book"], order
    certificate = bad.locator("pre")
    assert not certificate.is_visible()
    bad.locator("summary").click()
    assert certificate.is_visible() and '"type": "arithmetic"' in certificate.inner_text()
    assert not complaints, complaints


def test_every_notebook_has_its_page(site):
    names = {p.removesuffix(".html") for p in pages()}
    missing = [nb.name for nb in notebooks() if nb.name.split("_", 1)[1] not in names]
    assert not missing, f"run make site: {missing}"


def test_pages_open_quietly_and_fit_a_phone(open_page):
    page, complaints = open_page(width=390, height=844)
    wide, loud = [], []
    for name in pages():
        complaints.clear()
        page.goto(urljoin(page.url, "/" + name), wait_until="load")
        if page.evaluate("document.documentElement.scrollWidth") > 390: wide.append(name)
        loud += [f"{name}: {c}" for c in complaints]
    assert not wide, f"wider than a phone: {wide}"
    assert not loud, loud


class Links(html.parser.HTMLParser):
    "The ids of a page, what it points to, and the prose of its article: paragraphs and lists, no code"
    def __init__(self, text):
        super().__init__()
        self.ids, self.targets, self.prose, self.depth = set(), set(), "", Counter()
        self.feed(text)

    def handle_data(self, data):
        if self.depth["article"] and self.depth["p"] and not self.depth["code"]: self.prose += data + " "

    def handle_endtag(self, tag): self.depth[tag] -= 1

    def handle_starttag(self, tag, attrs):
        got = dict(attrs)
        self.depth[tag] += 1
        self.ids |= {got[k] for k in ("id", "name") if got.get(k)}
        self.targets |= {got[k] for k in ("href", "src") if got.get(k)}


def test_formulas_are_whole(site):
    "A display formula inside a paragraph is read as an inline one between two dollars"
    torn = [name for name in pages() if re.search(r"\$\s*(<[^>]*>\s*)*\\\(|\\\)(\s*<[^>]*>)*\s*\$", (SITE / name).read_text(encoding="utf-8"))]
    assert not torn, f"put a blank line around the $$ of {torn}"


def test_internal_links_lead_somewhere(site):
    "Every href and src of every page exists, and every #fragment is an id there"
    read = {name: Links((SITE / name).read_text(encoding="utf-8")) for name in pages()}
    dead = []
    for name, links in read.items():
        for url in links.targets:
            if urlparse(url).scheme or url.startswith("//"): continue
            path, fragment = urldefrag(urljoin(name, url))
            path = unquote(path.split("?")[0]) or name
            if not (SITE / path).exists(): dead.append(f"{name} -> {url}")
            elif fragment and path in read and unquote(fragment) not in read[path].ids: dead.append(f"{name} -> {url}")
    assert len(read) > 5 and not dead, dead


def test_search_finds_a_word(open_page):
    page, complaints = open_page("search.html?q=certificate")
    page.wait_for_selector("#search-results ul.search li a", timeout=15_000)
    found = page.eval_on_selector_all("#search-results ul.search li a", "els => els.map(e => e.getAttribute('href'))")
    assert any(u.startswith("recheck.html") for u in found), found
    assert not complaints, complaints


def prose(page):
    "Words of what is written for a person on a page, in the order of its text"
    text = Links((SITE / page).read_text(encoding="utf-8")).prose
    return [w.lower() for w in re.findall(r"\b[A-Za-z]{7,}\b", text)]


def test_search_finds_words_that_stand_in_one_chapter_only(open_page):
    "The longest such word of every fifth chapter leads to that chapter"
    words = {p: set(prose(p)) for p in pages() if p not in ("genindex.html", "search.html", "index.html")}
    count, chapters = Counter(w for found in words.values() for w in found), [f"{nb.name.split('_', 1)[1]}.html" for nb in notebooks()]
    page, complaints = open_page("search.html")
    own = {p: sorted((w for w in words[p] if count[w] == 1), key=lambda w: (-len(w), w)) for p in chapters}
    own, asked = {p: found[0] for p, found in own.items() if found}, {}
    assert len(own) > .8 * len(chapters), "chapters without a word of their own"
    for name, word in [*own.items()][::5]:
        page.goto(urljoin(page.url, f"/search.html?q={word}"), wait_until="load")
        page.wait_for_selector("#search-results ul.search li a", timeout=15_000)
        page.wait_for_function("() => /found/.test(document.querySelector('#search-results .search-summary').innerText)", timeout=15_000)  # results come one by one
        asked[name, word] = page.eval_on_selector_all("#search-results ul.search li a", "els => els.map(e => e.getAttribute('href').split('#')[0].split('?')[0])")
    lost = {k: found for k, found in asked.items() if k[0] not in [u.split("/")[-1] for u in found]}
    assert len(asked) > 5 and not lost and not complaints, (lost, complaints)


def test_search_says_when_nothing_is_found(open_page):
    page, _ = open_page("search.html?q=zyxwvutsrq")
    page.wait_for_selector("#search-results .search-summary", timeout=15_000)
    assert "did not match" in page.locator("#search-results").inner_text()


def test_every_solution_is_there_and_folded(open_page):
    page, _ = open_page("core.html")
    known, shut = {}, {}
    for nb in notebooks():
        name = f"{nb.name.split('_', 1)[1]}.html"
        known[name] = sum(len(re.findall(r"^`{3,}\{solution\}", "".join(c["source"]), re.M)) for c in nb.cells if c["cell_type"] == "markdown")
        page.goto(urljoin(page.url, "/" + name), wait_until="load")
        page.wait_for_function("n => document.querySelectorAll('.solution .toggle-button').length >= n", arg=known[name])
        shut[name] = page.eval_on_selector_all(".solution", """els => els.filter(e => [...e.children].every(c =>
            c.matches('.admonition-title, button') || c.getClientRects().length == 0 || c.getBoundingClientRect().height == 0 || getComputedStyle(c).opacity == 0)).length""")
    assert sum(known.values()) > 40 and shut == known, {k: (n, shut[k]) for k, n in known.items() if shut[k] != n}


def test_solutions_and_their_code_fold_and_unfold(open_page):
    "Every solution of one page, by its button, twice; and a folded cell, by the keyboard"
    page, complaints = open_page("stats.html")
    solutions = page.locator(".solution")
    assert solutions.count() >= 2
    for solution in solutions.all():
        body, button = solution.locator("#solution-content, .section, section").first, solution.locator("button.toggle-button")
        for _ in range(2):
            assert not body.is_visible(), "open before anyone asked, or still open when shut again"
            button.click()
            body.wait_for(state="visible", timeout=5_000)
            button.click()
            body.wait_for(state="hidden", timeout=5_000)
    fold = page.locator("details.hide").first
    code = fold.locator(".highlight")
    for seen in (False, True, False):
        assert code.is_visible() == seen
        fold.locator("summary").focus()
        page.keyboard.press("Enter")
    assert not complaints, complaints


def test_library_source_is_shown_and_helpers_fold(open_page):
    page, _ = open_page("core.html")
    assert any("def settings(" in t for t in page.locator(".tag_library .highlight:visible").all_inner_texts())
    helper = page.locator("details.hide.above-input").first
    assert not helper.locator(".highlight").is_visible()
    helper.locator("summary").click()
    assert helper.locator(".highlight").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(open_page, scheme):
    page, _ = open_page(scheme=scheme)
    ink = {s: contrast(page, s) for s in (".chain .headline", ".chain .note b", ".chain .quiet", ".chain figcaption", ".bd-article p",
                                          ".rl-planned li", ".glance .quiet")}
    low = {s: round(c, 2) for s, c in ink.items() if c < 4.5}
    assert not low, f"contrast under 4.5 in {scheme}: {low}"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, dark[4:-1].split(",")[:3])) < 200) == (scheme == "dark")


def test_the_switch_of_the_site_goes_through_its_modes(open_page):
    "Against what the system prefers, and kept on the next page"
    page, complaints = open_page("core.html", scheme="light")
    shade = {}
    for mode in ("dark", "light", "auto"):
        page.locator("button.theme-switch-button").first.click()
        page.locator(f"button.theme-change-button[data-mode={mode}]").first.click()
        page.wait_for_function("m => document.documentElement.dataset.theme == m", arg="light" if mode == "auto" else mode)
        page.goto(urljoin(page.url, "/index.html"), wait_until="load")
        assert page.evaluate("document.documentElement.dataset.mode") == mode
        red, green, blue = map(int, page.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1].split(",")[:3])
        shade[mode] = red + green + blue
        assert contrast(page, ".bd-article p") >= 4.5 and contrast(page, ".glance .quiet") >= 4.5
    assert shade["dark"] < 200 and shade["light"] == shade["auto"] > 600 and not complaints, (shade, complaints)


@pytest.fixture(scope="module")
def rules():
    need((axe.CORE / "axe.min.js").exists(), "no axe-core: run make axe (it needs npm)")
    need(BROWSER, "no Chromium: apt-get install chromium, or set CHROMIUM")


def test_axe_finds_nothing_serious(site, rules):
    "Every page, light and dark, nothing silenced"
    rows = axe.audit_all()
    assert {(r["page"], r["scheme"]) for r in rows} == {(p, s) for p in pages() for s in axe.SCHEMES}
    assert min(len(r["passes"]) for r in rows) > 15, "axe looked at next to nothing"
    assert not axe.grave(rows), "\n".join(axe.grave(rows))


PLANTED = {
    "image-alt": '<img src="_static/report.png">',
    "button-name": "<button></button>",
    "color-contrast": '<p style="color:#999;background:#fff">Nobody can read this.</p>',
    "link-name": '<a href="core.html"></a>',
}


@pytest.mark.parametrize("rule", PLANTED)
def test_axe_sees_what_is_planted(tmp_path, site, rules, rule):
    "A copy of a page with one fault: the same functions name it"
    text = (SITE / "notation.html").read_text(encoding="utf-8")
    (tmp_path / "notation.html").write_text(text.replace("<article", PLANTED[rule] + "<article", 1), encoding="utf-8")
    (tmp_path / "_static").symlink_to(SITE / "_static")
    rows = axe.audit_all(tmp_path, workers=1)
    assert {v["rule"] for r in rows for v in r["violations"] if v["impact"] in ("serious", "critical")} == {rule}, axe.grave(rows)
    made = axe.table(rows)
    assert made["violations"]["serious"] + made["violations"]["critical"] >= 1 and {f["rule"] for f in made["found"]} >= {rule}


def test_stored_axe_counts_are_of_a_site_like_this(site):
    "What the page on trust shows: the same version and schemes, and nothing grave"
    stored = calibration("axe")
    assert stored["schemes"] == list(axe.SCHEMES) and stored["version"] in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert sum(stored["violations"].values()) == len(stored["found"]) and not stored["violations"]["critical"] + stored["violations"]["serious"]


NUMBER = re.compile(r"(?<![\w.])[−-]?(?:\d[\d,]*\.?\d*|\.\d+)(?!\w)")


def bare_numbers(page, scope):
    "Numbers in the text of a part that stand outside every link, and the links of the others"
    return page.eval_on_selector(scope, """root => {
      const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), out = []; let t;
      while ((t = walk.nextNode())) { const a = t.parentElement.closest("a");
        out.push([t.textContent.trim(), a ? a.getAttribute("href") : null]); }
      return out.filter(x => x[0]); }""")


def test_every_number_of_the_scorecard_leads_to_its_cell(open_page):
    page, _ = open_page()
    ids = {p: Links((SITE / p).read_text(encoding="utf-8")).ids for p in pages()}
    seen, wrong = 0, []
    for scope in (".rl.scorecard .claims tbody", ".rl.scorecard .tallies", ".rl.scorecard .rates"):
        for text, href in bare_numbers(page, scope):
            if not NUMBER.search(text): continue
            path, anchor = urldefrag(href or "")
            seen += 1
            if path not in ids or anchor not in ids[path]: wrong.append((text, href))
    pending = {w for w in wrong if w[1] == "trust.html"}  # a chapter that is to come
    assert seen > 60 and not set(wrong) - pending, wrong
    assert not pending or not (SITE / "placebo.html").exists(), pending
    estimate = page.locator(".claims tbody tr[id='natural_program.flags'] .value a").first
    assert estimate.get_attribute("href") == "natural_program.html#natural-program-observe-flags"
    estimate.click()
    page.wait_for_url("**/natural_program.html#natural-program-observe-flags")
    after = page.eval_on_selector("#natural-program-observe-flags", """e => {
      const cell = [...document.querySelectorAll(".cell")].find(c => e.compareDocumentPosition(c) & Node.DOCUMENT_POSITION_FOLLOWING); return cell.textContent; }""")
    assert "def observe_flags(" in after, "the anchor does not stand above the cell"


def test_the_address_of_the_book_stands_in_one_place():
    about = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    host, base = re.search(r'^doc_host = "(.*)"', about, re.M)[1], re.search(r'^doc_baseurl = "(.*)"', about, re.M)[1]
    assert ADDRESS == f"{host}{base}/" == re.search(r'^Documentation = "(.*)"', about, re.M)[1]


def test_scorecard_and_its_error_rate_stand_on_the_front_page(open_page):
    page, _ = open_page()
    top = {k: page.locator(f".rl.scorecard {k}").bounding_box()["y"] for k in (".rates", ".tallies", ".glance", ".claims")}
    assert sorted(top, key=top.get) == list(top), "the error rate first, then the verdicts, then the numbers"
    assert page.locator(".glance li").count() == 19
    assert page.locator(".rates").inner_text().count("rror rate not measured yet") == (calibration() is None)
    with page.expect_download() as got: page.get_by_role("link", name="Download as JSON").click()
    assert len(json.loads(open(got.value.path(), encoding="utf-8").read())["claims"]) >= 19
    page.get_by_role("link", name="Can this be trusted?").first.click()
    page.wait_for_url("**/trust.html*")
    assert page.locator("article h2").count() == len(front.TRUST)


def test_the_front_page_prints_black_on_white(open_page):
    page, _ = open_page(scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    for part in (".bd-article p", ".claims .value a", ".glance .name", ".chain .headline"): assert contrast(page, part) >= 7, part
    assert not page.locator(".downloads").first.is_visible() and not page.locator(".bd-sidebar-primary").is_visible()
    assert {page.eval_on_selector(f".rl.scorecard {s}", "e => getComputedStyle(e).textDecorationLine") for s in (".claims a", ".tallies a")} == {"none"}


def tables(folder):
    "One made-up table of each kind, with a shortfall in each"
    made = dict(
        placebo=dict(arms=[dict(arm="sham", what="Nothing | to find.", n=240, rate=[.2, .15, .26], bar="<= .05")], kinds=[]),
        coverage=dict(simulations=2000, level=.95, tests=[dict(test="mcnemar", clusters=20, shape="pairs", type_1=[.08, .07, .09])], intervals=[
            dict(interval="hierarchical", clusters=c, shape="normal", statistic="mean", coverage=[x, x - .01, x + .01], below=(1 - x) / 2, above=(1 - x) / 2)
            for c, x in ((20, .91), (100, .95), (500, .99))]),
        drills=dict(rows=[dict(drill="full disk", study="a", runs=50, held=48, what="one error")], overhead=dict(study="a", share=.012, n=20)),
        judge=dict(lines=[dict(set="a set", about="", n=20, groups=5, accuracy=[.5, .4, .6], majority=.4)]),
        bench_nli=dict(runs=[dict(threads=2, clock="wall", machine=dict(cpu="a processor", isa="AVX2"), versions={"torch": "2", "sentence-transformers": None},
            memory=dict(few=10, many=100, mib=[500., 505.]), contests=[dict(kind="mnli", pairs=100, share=dict(wall=.715), arms=[
                dict(arm="pipeline, batch 4", wall=[1.9, 1], gap=0.), dict(arm="ours, 1024 tokens", wall=[1., 1], gap=3e-8), dict(arm="bf16, packed", wall=[.5, 1], gap=1e-3)],
                final=[dict(arm="pipeline, batch 4", wall=[1.9, 1]), dict(arm="ours, 1024 tokens", wall=[1., 1])], ratios=[dict(peer="pipeline", best="pipeline, batch 4", ratio=1.9, target=2.), dict(peer="a peer", best=None, ratio=None, target=1.3)])])]),
        bench_kernels=dict(runs=[dict(device="cpu", threads=1, machine=dict(name="a processor", torch="2"), contests=[dict(name="logprob forward", shape=[9, 8, 7], dtype="float32", arms=[
            dict(arm="ours", seconds=[1., 1.], mib=20., share=.9), dict(arm="naive, a", seconds=[1.1, 1.], mib=None, share=.8), dict(arm="naive, b", seconds=[1.3, 1.], mib=90., share=.7)])])]),
        fuzz=dict(rows=[dict(target="steps.parse", engine="atheris", seconds=600, runs=10**6, corpus=80, crashes=2)]),
        axe=dict(version="4", pages=2, schemes=["light", "dark"], rules_passed=50, violations=dict(critical=0, serious=0, moderate=1, minor=0),
                 found=[dict(page="a.html", scheme="light", rule="region", impact="moderate", nodes=1, help="Landmarks")]))
    for name, table in made.items(): (folder / f"{name}.json").write_text(json.dumps(dict(schema=1, name=name, **table)))


def test_the_page_on_trust_says_what_is_missing_and_what_falls_short(tmp_path):
    text = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    assert front.trust(text, set(), tmp_path).count(front.NOT_YET) == len(front.TRUST)
    tables(tmp_path)
    arm = lambda k, t: dict(arm=k, seconds=[t, t], gap=1e-6)
    (tmp_path / "bench_lm.json").write_text(json.dumps(dict(schema=1, name="bench_lm", runs=[dict(
        device="cpu", threads=1, context=200, options=16, length=12, machine=dict(name="a box", torch="2.13"),
        arms=[arm("ours", 1.), arm("all_logits, 1", 9.), arm("needed_states, 4", 4.5)])])))
    full = front.trust(text, {"coverage"}, tmp_path)
    assert "**4.50**" in full and "9.00" in full and front.NOT_YET not in full and not re.search(r"^@\w+@$", full, re.M)
    assert "(/coverage.ipynb)" in full and "(/placebo.ipynb)" not in full, "a link to a chapter that does not stand, or none to one that does"
    for word in ("missed", "91 % [90.0, 92.0], **too rarely**", "95 % [94.0, 96.0], as stated", "99 % [98.0, 100.0], more than stated",
                 "**1 of 3**", "**too often**", "**lost 2**", "costs 1.2 %", "**2**", "region", "**1.90**", "a peer: not installed", "71.5 %", "mnli 2.00x (logits off by 1e-03)", "**1.10**", "**20.00**", "On a GPU: not measured", "Nothing \\| to find."): assert word in full, word
