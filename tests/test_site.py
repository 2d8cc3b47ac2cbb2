"""The built site in a real browser. It opens what `make site` left in _site/html (`make check` builds first).

Chromium is taken from $CHROMIUM or the path; without it, or without a site of today's notebooks, the tests skip and say so, except
where CI=true.
"""
import functools
import html.parser
import http.server
import os
import re
import shutil
import threading
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

from book import ROOT, notebooks

pytestmark = pytest.mark.site
SITE = ROOT / "_site" / "html"
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
OUTSIDE = re.compile(r"^https?://(?!127\.0\.0\.1)")  # the maths script comes from elsewhere; here nothing does


def need(thing, why):
    "Absent things skip on a reader's machine and fail in CI"
    if thing: return
    if os.environ.get("CI") == "true": pytest.fail(why)
    pytest.skip(why)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@pytest.fixture(scope="module")
def site():
    "Address of the site, served on loopback"
    front = SITE / "index.html"
    need(front.exists(), "no site in _site/html: run make site")
    newer = [nb.name for nb in notebooks() if nb.path.stat().st_mtime > front.stat().st_mtime]
    need(not newer, f"the site is older than {', '.join(newer)}: run make site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


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


def pages():
    "Every page of the built site"
    return sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts)


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
    "The ids of a page and what it points to"
    def __init__(self, text):
        super().__init__()
        self.ids, self.targets = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        got = dict(attrs)
        self.ids |= {got[k] for k in ("id", "name") if got.get(k)}
        self.targets |= {got[k] for k in ("href", "src") if got.get(k)}


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


def test_a_solution_folds(open_page):
    page, _ = open_page("core.html")
    solution = page.locator(".solution.dropdown, .admonition.solution").first
    body = solution.locator(".section, p:not(.admonition-title)").first
    assert not body.is_visible(), "the solution is open before anyone asked"
    solution.locator("button.toggle-button, summary, .admonition-title").first.click()
    body.wait_for(state="visible", timeout=5_000)


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
