"""axe-core on every page of the built site, in light and in dark, with every fold open.

`python docs/axe.py` prints what it found, `--store` also writes data/calibration/axe.json. It needs `make site`, `make axe` (which
fetches axe-core from npm) and Chromium, from $CHROMIUM or the path. The tests use the same functions.
"""
import argparse
import functools
import http.server
import json
import os
import re
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE, CORE = ROOT / "_site" / "html", ROOT / "_site" / "axe"
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
OUTSIDE = re.compile(r"^https?://(?!127\.0\.0\.1)")  # the maths script comes from elsewhere; here nothing does
SCHEMES = ("light", "dark")
IMPACTS = ("critical", "serious", "moderate", "minor")
# Folds are opened, but not those of source code, which looks the same where it is not folded and takes minutes to measure.
OPEN = """() => { document.querySelectorAll("details:not(.hide)").forEach(d => { d.open = true; });
  document.querySelectorAll(".toggle-hidden > .toggle-button").forEach(b => b.click()); }"""
FOLLOWS = "scheme => [scheme, undefined].includes(document.documentElement.dataset.theme)"  # our own pages have only the system's
SETTLED = """() => document.getAnimations().filter(a => isFinite(a.effect.getComputedTiming().endTime)).forEach(a => a.finish())"""
RUN = """async () => { const r = await axe.run(document, {resultTypes: ["violations"]});
  return {passes: r.passes.map(p => p.id), violations: r.violations.map(v => ({rule: v.id, impact: v.impact, help: v.help,
          nodes: v.nodes.length, first: v.nodes[0].target.join(" ") + " " + v.nodes[0].html.slice(0, 200)}))}; }"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@contextmanager
def served(folder=SITE):
    "The address of a folder, served on loopback"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/"
    finally: server.shutdown()


def pages(folder=SITE):
    "Every page of the built site"
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.html") if "_static" not in p.parts)


def version(): return json.loads((CORE / "package.json").read_text(encoding="utf-8"))["version"]


def examine(page):
    "What axe says of the page as it stands now: rules passed, violations"
    page.evaluate((CORE / "axe.min.js").read_text(encoding="utf-8"))
    return page.evaluate(RUN)


def audit(address, names, schemes=SCHEMES):
    "One row for each page and scheme, in a browser of its own"
    from playwright.sync_api import sync_playwright
    rows = []
    with sync_playwright() as play, play.chromium.launch(executable_path=BROWSER, args=FLAGS) as browser:
        page = browser.new_page(viewport=dict(width=1280, height=900), bypass_csp=True)
        page.route(OUTSIDE, lambda route: route.fulfill(status=200, content_type="text/javascript", body=""))
        for name in names:
            page.goto(address + name, wait_until="load")
            page.evaluate(OPEN)
            for scheme in schemes:
                page.emulate_media(color_scheme=scheme)
                page.wait_for_function(FOLLOWS, arg=scheme, timeout=5000)
                page.evaluate(SETTLED)
                rows.append(dict(page=name, scheme=scheme, **examine(page)))
    return rows


def audit_all(folder=SITE, workers=2):
    "Every page, by several browsers at a time"
    names = pages(folder)
    with served(folder) as address, ThreadPoolExecutor(workers) as pool:
        return [row for part in pool.map(lambda i: audit(address, names[i::workers]), range(workers)) for row in part]


def table(rows):
    "The counts that data/calibration/axe.json keeps"
    found = [dict(page=r["page"], scheme=r["scheme"], **{k: v[k] for k in ("rule", "impact", "nodes", "help")}) for r in rows for v in r["violations"]]
    count = Counter(f["impact"] for f in found)
    return dict(schema=1, name="axe", version=version(), pages=len({r["page"] for r in rows}), schemes=list(SCHEMES),
                rules_passed=len({p for r in rows for p in r["passes"]} - {f["rule"] for f in found}),
                violations={i: count[i] for i in IMPACTS}, found=sorted(found, key=lambda f: (IMPACTS.index(f["impact"]), f["page"], f["scheme"], f["rule"])))


def grave(rows):
    "Violations that nobody may meet, for a person to read"
    return [f"{r['page']} ({r['scheme']}): {v['rule']}, {v['impact']}, {v['nodes']} x {v['first']}"
            for r in rows for v in r["violations"] if v["impact"] in ("critical", "serious")]


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--store", action="store_true", help="write data/calibration/axe.json")
    store = args.parse_args().store
    rows = audit_all()
    made = table(rows)
    print(json.dumps({k: v for k, v in made.items() if k != "found"}), *grave(rows), sep="\n")
    if store:
        from reasonlab.runs import write_atomic
        write_atomic(ROOT / "data" / "calibration" / "axe.json", json.dumps(made, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__": main()
