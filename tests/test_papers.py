"The table of papers says what the files say"
import importlib
import json
import re

import pytest

from book import NBS, ROOT, notebooks
from reasonlab.core import PAPERS, asset_root

BIB = (ROOT / "data" / "refs.bib").read_text(encoding="utf-8")
each_paper = pytest.mark.parametrize("p", PAPERS.values(), ids=lambda p: p.slug)


def finding(p): return asset_root() / "findings" / f"{p.slug}.json"


@each_paper
def test_state_is_what_stands(p):
    notebook = NBS / f"{p.notebook}.ipynb"
    if p.state == "planned":
        assert not notebook.exists(), f"{notebook.name} stands, yet data/papers.yaml calls {p.slug} planned"
        return
    assert notebook.exists(), f"{p.slug} is working, but {notebook.name} is missing"
    assert importlib.import_module(f"reasonlab.{p.module}").__all__, f"reasonlab.{p.module} exports nothing"
    assert finding(p).exists(), f"{p.slug} is working, but data/findings/{p.slug}.json is missing"
    stored = json.loads(finding(p).read_text(encoding="utf-8"))
    assert stored["schema"] == 1 and stored["slug"] == p.slug and stored["findings"]
    study = importlib.import_module(f"reasonlab.{p.module}").STUDY
    assert p.claims == tuple(c.id for c in study.claims), f"data/papers.yaml and the study disagree on the claims of {p.slug}"


@each_paper
def test_names_agree(p):
    assert p.notebook.split("_", 1)[1] == p.slug == p.module.split(".")[-1]
    assert re.fullmatch(r"\d{4}\.\d{5}", p.arxiv)


@each_paper
def test_bibliography_has_it(p):
    entry = re.search(rf"@\w+\{{{p.slug},(.*?)\n\}}", BIB, re.S)
    assert entry, f"data/refs.bib has no entry {p.slug}"
    assert p.arxiv in entry[1] and str(p.year) in entry[1], f"data/refs.bib and data/papers.yaml disagree on {p.slug}"


def test_modules_match_their_notebooks():
    by_name = {nb.name: nb.module for nb in notebooks()}
    wrong = [p.slug for p in PAPERS.values() if p.notebook in by_name and by_name[p.notebook] != p.module]
    assert not wrong, f"`default_exp` and data/papers.yaml disagree: {wrong}"


def test_no_finding_without_a_paper():
    spare = {f.stem for f in (asset_root() / "findings").glob("*.json")} - set(PAPERS)
    assert not spare, f"findings of no paper: {spare}"
