"The front page's scorecard, from the stored findings; a claim without a finding is not on it"
import json

from reasonlab.core import asset_root, papers

ROW = "| [{slug}](/{slug}.ipynb) | {claim} | {estimate} | {n} | {verdict} |"
NONE = """No finding is stored yet. The first chapter's claims are written down before they are run; what they find, with its interval,
its floors and its control, will stand here, whichever way it goes."""


def findings():
    "(paper, finding) of every stored finding, in the order of the book"
    for p in papers().values():
        path = asset_root() / "findings" / f"{p.slug}.json"
        if path.exists():
            for f in json.loads(path.read_text(encoding="utf-8"))["findings"]: yield p, f


def scorecard():
    "A markdown table"
    rows = [ROW.format(slug=p.slug, claim=f.get("claim", ""), estimate=f.get("estimate", ""), n=f.get("n", ""), verdict=f.get("verdict", ""))
            for p, f in findings()]
    if not rows: return NONE
    return "\n".join(["| chapter | claim | estimate | n | verdict |", "|---|---|---|---|---|", *rows])
