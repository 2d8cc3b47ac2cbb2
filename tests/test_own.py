"A reader's own claim from `claim new` to the scorecard, through the command, in an empty folder; and everything that is refused"
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from book import ROOT
from reasonlab.core import asset, papers
from reasonlab.runs import from_line

MAIN = "from reasonlab.lab.cli import main; main()"
GIT = shutil.which("git")


def lab(*args, cwd, **env):
    call = [sys.executable, "-c", MAIN, *map(str, args)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT), **env})


def hash_of_data():
    files = sorted(p for p in (ROOT / "data").rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()


def register(folder, name="digits"): return [from_line(line) for line in (folder / f"{name}.claims.jsonl").read_bytes().splitlines()]


def edit(path, old, new, count=1):
    nb = nbformat.read(path, as_version=4)
    hits = [c for c in nb.cells if c.cell_type == "code" and old in c.source]
    assert len(hits) == count, f"{old!r} is in {len(hits)} cells"
    for c in hits: c.source = c.source.replace(old, new)
    nbformat.write(nb, path)


@pytest.fixture
def mine(tmp_path):
    "A notebook fresh from the template, at a fifth of its size"
    done = lab("claim", "new", "digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    edit(tmp_path / "digits.ipynb", "home=400", "home=80")
    return tmp_path / "digits.ipynb"


def git(folder, *args):
    call = ["git", "-c", "user.name=Reader", "-c", "user.email=reader@example.org", *args]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_from_an_empty_folder_to_the_scorecard(tmp_path):
    before = hash_of_data()
    new = lab("claim", "new", "digits", cwd=tmp_path)
    assert new.returncode == 0 and "reasonlab reproduce digits.ipynb" in new.stdout and "git commit" in new.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["digits.ipynb"]
    check = lab("claim", "check", "digits.ipynb", cwd=tmp_path)
    assert check.returncode == 0 and "✓ digits.first" in check.stdout and not (tmp_path / "digits.claims.jsonl").exists()
    ran = lab("reproduce", "digits.ipynb", "--report", "page.html", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "✓ world: supported" in ran.stdout and "digits.first" in ran.stdout and "exploratory" in ran.stdout and "looked once: 5 seeds" in ran.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"digits.ipynb", "digits.findings.json", "digits.claims.jsonl", "page.html", "runs"}
    table = json.loads((tmp_path / "digits.findings.json").read_text())
    assert table["schema"] == 1 and table["slug"] == "digits" and len(table["findings"][0]["seeds"]) == 5
    page = (tmp_path / "page.html").read_text()
    assert "supported" in page and "looked once" in page and 'class="strip"' in page and "://" not in page.split("<body")[1]
    show = lab("claim", "show", "digits.ipynb", cwd=tmp_path)
    assert show.returncode == 0 and show.stdout.strip() in ran.stdout
    assert hash_of_data() == before


def test_the_template_is_a_clean_notebook_that_runs(mine):
    shipped = nbformat.read(asset("templates/claim.ipynb"), as_version=4)
    nbformat.validate(shipped)
    code = [c for c in shipped.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None and not c.metadata for c in code)
    assert len(shipped.cells) - len(code) >= len(shipped.cells) / 3
    assert max(len(line) for c in code for line in c.source.splitlines()) <= 88
    assert "claim_name" not in mine.read_text()  # the placeholder is replaced everywhere
    from nbdev.test import test_nb as run_notebook
    ok, _ = run_notebook(mine, basepath=str(mine.parent), cell_timeout=60)
    assert ok
    done = subprocess.run([sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", mine], cwd=mine.parent, timeout=120,
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(mine.parent / "ipython")})
    assert done.returncode == 0 and f"{len(code)} passed" in done.stdout, done.stdout
    assert not (mine.parent / "digits.claims.jsonl").exists()  # the notebook itself registers nothing


def test_a_changed_claim_is_refused_and_a_new_one_is_not(mine):
    at = mine.parent
    assert lab("reproduce", mine, "--seeds", 2, cwd=at).returncode == 0
    kept, found = (at / "digits.claims.jsonl").read_bytes(), (at / "digits.findings.json").read_bytes()
    edit(mine, "effect=.1", "effect=.05")
    for args in (["reproduce", mine], ["claim", "check", mine], ["reproduce", mine, "--scale", "smoke"]):
        done = lab(*args, cwd=at)
        assert done.returncode == 2 and "effect was 0.1, is 0.05" in done.stderr and "digits.first_2" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert (at / "digits.claims.jsonl").read_bytes() == kept and (at / "digits.findings.json").read_bytes() == found
    edit(mine, "digits.first", "digits.first_2")
    done = lab("reproduce", mine, "--seeds", 2, cwd=at)
    assert done.returncode == 0 and "digits.first_2" in done.stdout
    assert re.search(r"digits\.first$", done.stdout, re.M)  # the old one stays on the card
    assert (at / "digits.claims.jsonl").read_bytes().startswith(kept)


def test_looks_are_counted(mine):
    at = mine.parent
    for n in (2, 2, 5, 6): assert lab("reproduce", mine, "--seeds", n, cwd=at).returncode == 0  # the same again shows nothing new
    assert [r["seeds"] for r in register(at) if r["kind"] == "look"] == [2, 5, 6]
    assert "looked 3 times: 2, 5, 6 seeds" in lab("claim", "show", mine, cwd=at).stdout
    edit(mine, "rng.random(n) < .5", "rng.random(n) < .4")
    done = lab("reproduce", mine, "--seeds", 6, cwd=at)
    assert "seed 0 done" in done.stderr  # other code is another run
    assert "2 versions of the code" in " ".join(done.stdout.split())


def test_smoke_is_a_rehearsal(mine):
    done = lab("reproduce", mine, "--scale", "smoke", cwd=mine.parent)
    assert done.returncode == 0 and "rehearsal" in done.stderr
    assert not list(mine.parent.glob("*.claims.jsonl")) and not list(mine.parent.glob("*.findings.json"))


def test_an_edited_register_is_noticed(mine):
    at = mine.parent
    path = at / "digits.claims.jsonl"
    assert lab("reproduce", mine, "--seeds", 2, cwd=at).returncode == 0
    good = path.read_bytes()
    for bad in (good.replace(b'"effect":0.1', b'"effect":0.0'), good.split(b"\n", 1)[1]):
        path.write_bytes(bad)
        for args in (["reproduce", mine], ["claim", "show", mine]):
            done = lab(*args, cwd=at)
            assert done.returncode == 2 and "never edited" in done.stderr and "line 1" in done.stderr


@pytest.mark.skipif(not GIT, reason="no git on this machine")
def test_committed_before_the_run_or_not(mine):
    at = mine.parent
    git(at, "init", "-q")
    assert "not committed: commit it" in lab("claim", "check", mine, cwd=at).stdout
    git(at, "add", "digits.ipynb")
    git(at, "commit", "-qm", "Claim before the run")
    commit = git(at, "rev-parse", "HEAD")
    nb = nbformat.read(mine, as_version=4)
    nb.cells[0].source += "\n\nMore prose, and outputs: the code is the same."
    nbformat.write(nb, mine)
    assert f"committed as {commit[:10]}" in lab("claim", "check", mine, cwd=at).stdout
    done = lab("reproduce", mine, "--seeds", 2, "--report", "page.html", cwd=at)
    assert f"committed before it was run, as {commit[:10]}" in done.stdout and "exploratory" not in done.stdout
    assert commit[:10] in (at / "page.html").read_text()
    edit(mine, "FIRST.id: Obs", "SECOND.id: Observation(rows, dict(share_wrong=1 - right.mean())),\n            FIRST.id: Obs")
    edit(mine, "claims=(FIRST,)", "claims=(FIRST, SECOND)")
    edit(mine, "FIRST = Claim(", "from dataclasses import replace\nFIRST = Claim(")
    edit(mine, "STUDY = Study", "SECOND = replace(FIRST, id='digits.second')\nSTUDY = Study")
    said = lab("reproduce", mine, "--seeds", 2, cwd=at).stdout
    assert "exploratory: not committed before it was run (changed since it was" in " ".join(said.split())
    assert said.count(commit[:10]) == 1  # the first claim stays what it was
    shutil.rmtree(at / ".git")
    assert "does not have that commit" in " ".join(lab("claim", "show", mine, cwd=at).stdout.split())


@pytest.mark.parametrize("name,why", [("natural_program", "of the book itself"), ("placebo", "of the book itself"), ("two words", "letters"),
                                      ("class", "a word of Python"), ("../up", "letters"), ("1st", "letters"), ("zero_shot", "of the book itself")])
def test_a_name_that_cannot_be(tmp_path, name, why):
    done = lab("claim", "new", name, cwd=tmp_path)
    assert done.returncode == 2 and why in done.stderr and not list(tmp_path.iterdir())


def test_a_name_that_is_taken(mine):
    before = mine.read_bytes()
    for there in ("digits.ipynb", "other.claims.jsonl"):
        (mine.parent / there).touch()
        done = lab("claim", "new", there.split(".")[0], cwd=mine.parent)
        assert done.returncode == 2 and "there already" in done.stderr and there in done.stderr
    assert mine.read_bytes() == before


BROKEN = {
    "a name that is not there": (("return (a + b) % 9", "return (a + c) % 9"), r"digits\.ipynb, cell \d+ \(def nines\(items\):\), line 4: NameError"),
    "a cell that is no Python": (("def nines(items):", "def nines(items:"), r"digits\.ipynb, cell \d+ .*, line \d+: SyntaxError"),
    "a malformed claim": (("direction='more'", "direction='up'"), r"cell \d+ \(FIRST = Claim\(\), line \d+: ValueError: direction is more or less"),
    "an unknown statistic": (("'balanced_accuracy_gain'", "'vibes'"), r"digits\.first: no statistic 'vibes'"),
    "no study": (("STUDY =", "MINE ="), r"has no STUDY: end it with STUDY = Study"),
    "a chapter's slug": (("Study(slug='digits'", "Study(slug='natural_program'"), r"is a claim of another paper"),
    "another slug": (("'digits", "'figures"), r"make them equal"),
    "a missing column": (("pred=said,", ""), r"no column 'pred'"),
    "NaN": (("y=right, pred=said,", "y=right, pred=np.where(said, 1., np.nan),"), r"'pred' holds NaN"),
    "no rows at all": (("return {FIRST.id", "return None and {FIRST.id"), r"returned a NoneType: return \{claim id"),
    "a claim that is not in the study": (("return {FIRST.id", "return {'digits.x'"), r"claim 'digits\.x' that is not in STUDY"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_notebook_gives_one_clear_error(mine, what):
    (old, new), said = BROKEN[what]
    assert old in mine.read_text()
    mine.write_text(mine.read_text().replace(old, new))
    done = lab("reproduce", mine, "--seeds", 2, cwd=mine.parent)
    assert done.returncode == 2 and not done.stdout, done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("reasonlab:")]
    assert len(errors) == 1 and re.search(said, errors[0]) and "Traceback" not in done.stderr, done.stderr
    assert not (mine.parent / "digits.findings.json").exists()


@pytest.mark.parametrize("name,text,said", [("x.ipynb", "{}", "is not a notebook"), ("x.ipynb", "{", "is not a notebook"), ("x.ipynb", None, "cannot be read"),
                                            ("x.py", "STUDY = 3", "has no STUDY"), ("x.py", "import sys\nsys.exit(3)", "SystemExit"),
                                            ("x.py", "import nothing_like_it", "ModuleNotFoundError"), ("x.py", "x = '\x00'", "x.py")])
def test_a_file_that_is_no_study(tmp_path, name, text, said):
    if text is not None: (tmp_path / name).write_text(text)
    done = lab("reproduce", name, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_claim_of_ours_cannot_be_taken_over(tmp_path):
    slug = next(s for s, p in papers().items() if p.state == "working")
    (tmp_path / f"{slug}.py").write_text(f"from reasonlab.claims import *\nc = Claim(id='{slug}.x', paper='{slug}', text='x', statistic='mean', effect=.1)\n"
                                         f"STUDY = Study(slug='{slug}', claims=(c,), observe=None)\n")
    done = lab("reproduce", f"{slug}.py", cwd=tmp_path)
    assert done.returncode == 2 and f"my_{slug}" in done.stderr
    for option in ("--store", "--retrain"):
        done = lab("reproduce", f"{slug}.py", option, cwd=tmp_path)
        assert done.returncode == 2 and "for chapters of the book" in done.stderr


def test_cells_that_are_left_out_are_said(mine):
    nb = nbformat.read(mine, as_version=4)
    for source in ("#| eval: false\nraise SystemExit", "#| slow\nimport nothing_like_it", "%matplotlib inline\nx = 1", "!ls", "x = 7\nx?"):
        nb.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(nb, mine)
    done = lab("claim", "check", mine, cwd=mine.parent)
    assert done.returncode == 0, done.stderr
    left = [line for line in done.stdout.splitlines() if line.startswith("left out: cell")]
    assert len(left) == 5 and sum("magic" in line for line in left) == 3 and "marked #| slow" in "".join(left)


def test_the_folder_of_the_notebook_is_where_its_code_stands(tmp_path):
    "A module and a file beside it are found, from wherever the command is typed; a change in either module or notebook is another run"
    sub = tmp_path / "deep"
    sub.mkdir()
    assert lab("claim", "new", "digits", "--folder", "deep", cwd=tmp_path).returncode == 0
    (sub / "sizes.py").write_text("N = 60\n")
    (sub / "rate.txt").write_text(".5")
    mine = sub / "digits.ipynb"
    edit(mine, "import numpy as np", "import numpy as np\nimport sizes")
    edit(mine, "home=400", "home=sizes.N")
    edit(mine, "rng.random(n) < .5", "rng.random(n) < float(open('rate.txt').read())")
    for n in (1, 2):
        done = lab("reproduce", "deep/digits.ipynb", "--seeds", 2, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "runs").iterdir())) == n and not (sub / "runs").exists()
        (sub / "sizes.py").write_text("N = 61\n")
    assert (sub / "digits.findings.json").exists() and not list(tmp_path.glob("*.json*"))


def test_text_of_a_claim_is_text(mine):
    "Markup of the terminal and of the page are not for a claim to write"
    edit(mine, "Casting out nines finds", "[red]Nines[/red] & <script>alert(1)</script> [/] find")
    done = lab("reproduce", mine, "--seeds", 2, "--report", "page.html", cwd=mine.parent)
    assert done.returncode == 0 and "[red]Nines[/red] & <script>" in done.stdout, done.stderr
    page = (mine.parent / "page.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def said(*args, cwd): return " ".join(lab(*args, cwd=cwd).stdout.split())


def test_a_finding_that_was_edited_is_void_and_a_register_that_was_cut_is_noticed(mine):
    at, found, log = mine.parent, mine.parent / "digits.findings.json", mine.parent / "digits.claims.jsonl"
    assert lab("reproduce", mine, "--seeds", 2, cwd=at).returncode == 0
    good, kept = found.read_text(), log.read_bytes()
    table = json.loads(good)
    table["findings"][0]["seeds"] = [0, 1, 2, 3, 4]
    found.write_text(json.dumps(table))
    void = "void digits.first"
    assert void in said("claim", "show", mine, cwd=at) and "not the one that was registered" in said("claim", "show", mine, cwd=at)
    done = lab("reproduce", mine, "--seeds", 2, "--report", "page.html", cwd=at)
    assert "is not the one that was registered" in " ".join(done.stderr.split()) and "nothing stored" in done.stdout
    assert found.read_text() != json.dumps(table) and void not in done.stdout  # made anew
    log.write_bytes(kept.splitlines(keepends=True)[0])
    assert void in said("claim", "show", mine, cwd=at)
    assert lab("claim", "show", mine, "--report", "page.html", cwd=at).returncode == 0
    assert "not the one that was registered" in (at / "page.html").read_text()
    log.unlink()
    assert "digits.first is not registered, but has a finding" in said("claim", "show", mine, cwd=at)


@pytest.mark.skipif(not GIT, reason="no git on this machine")
def test_a_register_that_was_restarted_is_found_in_git(mine):
    at = mine.parent
    git(at, "init", "-q")
    git(at, "add", "digits.ipynb")
    git(at, "commit", "-qm", "Claim before the run")
    assert lab("reproduce", mine, "--seeds", 2, cwd=at).returncode == 0
    git(at, "add", "digits.claims.jsonl", "digits.findings.json")
    git(at, "commit", "-qm", "The result")
    assert lab("reproduce", mine, "--seeds", 3, cwd=at).returncode == 0  # a longer register is the same register
    assert "committed before it was run, as" in said("claim", "show", mine, cwd=at)
    for name in ("claims.jsonl", "findings.json"): (at / f"digits.{name}").unlink()
    assert "restarted" in said("claim", "show", mine, cwd=at)
    edit(mine, "effect=.1", "effect=.05")
    git(at, "commit", "-qam", "An easier bar")
    text = said("reproduce", mine, "--seeds", 2, cwd=at)
    assert "exploratory: the register was restarted: an earlier one is in git" in text and "committed before" not in text


@pytest.mark.skipif(not GIT, reason="no git on this machine")
def test_modules_beside_the_notebook_must_be_committed_too(mine):
    at = mine.parent
    (at / "sizes.py").write_text("N = 60\n")
    edit(mine, "import numpy as np", "import numpy as np\nimport sizes")
    edit(mine, "home=400" if "home=400" in mine.read_text() else "home=80", "home=sizes.N")
    git(at, "init", "-q")
    git(at, "add", "digits.ipynb")
    git(at, "commit", "-qm", "The notebook alone")
    assert "sizes.py not committed: commit it" in said("claim", "check", mine, cwd=at)
    git(at, "add", "sizes.py")
    git(at, "commit", "-qm", "And its module")
    head = git(at, "rev-parse", "HEAD")[:10]
    text = said("reproduce", mine, "--seeds", 2, cwd=at)
    assert f"committed before it was run, as {head}" in text and "changed since" not in text
    (at / "sizes.py").write_text("N = 61\n")
    assert f"as {head}; sizes.py changed since it was committed" in said("claim", "show", mine, cwd=at)
    assert "but the finding is from code that was not (sizes.py changed since it was committed)" in said(
        "reproduce", mine, "--seeds", 2, cwd=at)
    git(at, "commit", "-qam", "Another size")
    text = said("reproduce", mine, "--seeds", 3, cwd=at)
    assert f"as {head}, and run with the code of {git(at, 'rev-parse', 'HEAD')[:10]}" in text


def test_a_data_file_that_is_named_belongs_to_the_run(mine):
    at = mine.parent
    (at / "rate.txt").write_text(".5")
    edit(mine, "rng.random(n) < .5", "rng.random(n) < float(open('rate.txt').read())")
    for _ in range(2): done = lab("reproduce", mine, "--seeds", 2, cwd=at)
    assert "seeds 0-1 were there already; files that are not named in DATA are not watched" in " ".join(done.stderr.split())
    edit(mine, "import numpy as np", "import numpy as np\nDATA = ['rate.txt']")
    for rate in (".5", ".4"):
        (at / "rate.txt").write_text(rate)
        done = lab("reproduce", mine, "--seeds", 2, cwd=at)
        assert done.returncode == 0 and "there already" not in done.stderr
    (at / "rate.txt").unlink()
    done = lab("claim", "check", mine, cwd=at)
    assert done.returncode == 2 and "DATA names rate.txt" in done.stderr
    edit(mine, "DATA = ['rate.txt']", "DATA = 'rate.txt'")
    assert "DATA is a list" in lab("claim", "check", mine, cwd=at).stderr


@pytest.mark.parametrize("bad", ["float('nan')", "[][0]", "1/0"])
def test_an_error_before_any_result_fixes_nothing(mine, bad):
    at = mine.parent
    edit(mine, "statistic='balanced_accuracy_gain'", "statistic='mine'")
    edit(mine, "observe=observe)", "observe=observe, statistics={'mine': lambda *a, **k: " + bad + "})")
    done = lab("reproduce", mine, "--seeds", 2, cwd=at)
    assert done.returncode == 2 and "reasonlab:" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (at / "digits.claims.jsonl").exists() and not (at / "digits.findings.json").exists()


def test_smoke_shows_no_verdict(mine):
    at = mine.parent
    for args in ([], ["--json"], ["--report", "page.html"]):
        done = lab("reproduce", mine, "--scale", "smoke", *args, cwd=at)
        assert done.returncode == 0 and not done.stdout and "smoke: the plumbing works; no verdict" in done.stderr, done.stderr
    assert not (at / "page.html").exists()


@pytest.mark.parametrize("where", ["", "/dev/full", "digits.ipynb/page.html"])
def test_a_page_that_cannot_be_written_is_one_message(mine, where):
    at = mine.parent
    assert lab("reproduce", mine, "--seeds", 2, cwd=at).returncode == 0
    for args in (["scorecard"], ["claim", "show", mine], ["reproduce", mine, "--seeds", 2]):
        done = lab(*args, "--report", where or at, cwd=at)
        errors = [line for line in done.stderr.splitlines() if line.startswith("reasonlab:")]
        assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr


def test_nothing_writes_over_what_it_reads(mine):
    at, chains = mine.parent, mine.parent / "chains.jsonl"
    chains.write_text(lab("verify", "--example", cwd=at).stdout)
    for args in (["verify", "chains.jsonl", "--out", chains], ["verify", "chains.jsonl", "--report", "./chains.jsonl"],
                 ["claim", "show", mine, "--report", mine], ["reproduce", "digits.ipynb", "--report", mine],
                 ["reproduce", mine, "--report", "digits.claims.jsonl"]):
        before = {p: p.read_bytes() for p in at.iterdir()}
        done = lab(*args, cwd=at)
        assert done.returncode == 2 and "name another file" in done.stderr and not done.stdout, done.stderr
        assert {p: p.read_bytes() for p in at.iterdir()} == before


def test_what_is_not_there_has_a_remedy(tmp_path):
    done = lab("claim", "show", "nosuch.py", cwd=tmp_path)
    assert done.returncode == 2 and "claim new NAME" in done.stderr
    done = lab("reproduce", "nosuch", cwd=tmp_path)
    assert done.returncode == 2 and "placebo, coverage, drills" in done.stderr and "./nosuch.ipynb" in done.stderr


@pytest.mark.parametrize("field,bad", [("estimate", "high"), ("low", None), ("n", [3]), ("seeds", ["a"]), ("floors", [1]), ("control", {"name": "shuffled"}),
                                       ("margins", {"length": 3}), ("preconditions", "none"), ("estimate", float("nan"))])
def test_findings_of_wrong_types_are_one_message(mine, field, bad):
    good = dict(claim="digits.first", scope="world", estimate=.3, low=.2, high=.4, n=9, seeds=[0, 1])
    (mine.parent / "digits.findings.json").write_text(json.dumps(dict(schema=1, slug="digits", findings=[good])))
    from reasonlab.lab.own import own_findings
    assert own_findings(mine)
    (mine.parent / "digits.findings.json").write_text(json.dumps(dict(schema=1, slug="digits", findings=[good | {field: bad}])))
    with pytest.raises(ValueError, match="is not a table of findings"): own_findings(mine)
