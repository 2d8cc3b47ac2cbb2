"README.md is made from nbs/index.ipynb, and its table from the registry of papers"
import subprocess
import sys

from book import ROOT
from reasonlab.core import PAPERS

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_up_to_date():
    done = subprocess.run([sys.executable, "docs/readme.py", "--print"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == README, "run: .venv/bin/python docs/readme.py"


def test_readme_has_every_paper_with_its_state():
    rows = {r.split("|")[2].strip(): r for r in README.splitlines() if r.startswith("| [") and "arxiv" in r}
    assert len(rows) == len(PAPERS)
    for p in PAPERS.values():
        row = next(r for k, r in rows.items() if p.notebook in k)
        assert row.rstrip(" |").endswith(p.state) and p.command in row


def test_readme_links_lead_somewhere():
    import re
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README): assert (ROOT / target).exists(), target
