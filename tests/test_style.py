"The house limits, notebook by notebook, so that they hold for good"
import ast
import re

import pytest

from book import NBS, Notebook, notebooks

CELLS, LINES, COLUMNS, BYTES, PROSE = 60, 30, 88, 300_000, 1 / 3
KERNEL_LINES = 60  # a Triton kernel may be longer
each = pytest.mark.parametrize("nb", [*notebooks(), *[Notebook(p) for p in sorted((NBS / "experiments").glob("*.ipynb"))]], ids=lambda nb: nb.name)
book_only = pytest.mark.parametrize("nb", notebooks(), ids=lambda nb: nb.name)
ASSERTS = re.compile(r"\bassert\b|\btest_\w+\(|expect_fail|raises")
MACHINE = re.compile(r"(?<![\w.:/])/(?:work|home|root|tmp|Users|opt|mnt)/\w|[A-Z]:\\\\?Users")


def tree(src):
    "The cell's syntax tree, magics left out"
    return ast.parse(re.sub(r"^\s*[%!].*$", "pass", src, flags=re.M))


def exported(nb):
    "Public functions and classes of the `#| export` and `#| exports` cells"
    cells = [c for c in nb.code if re.search(r"^#\|\s*exports?\b", c, re.M)]
    defs = [d for c in cells for d in tree(c).body if isinstance(d, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    return [d.name for d in defs if not d.name.startswith("_")]


def first(src): return next((line for line in src.splitlines() if line and not line.startswith("#|")), "")[:60]


@each
def test_size(nb):
    assert len(nb.cells) <= CELLS, f"{nb.name}: {len(nb.cells)} cells, at most {CELLS}"
    assert len(nb.raw.encode()) <= BYTES, f"{nb.name}: {len(nb.raw.encode())} bytes, at most {BYTES}"


@each
def test_a_third_is_prose(nb):
    share = sum(c["cell_type"] == "markdown" for c in nb.cells) / len(nb.cells)
    assert share >= PROSE, f"{nb.name}: {share:.0%} of the cells are prose, at least a third should be"


@each
def test_code_is_short(nb):
    long = [f"{len(c.splitlines())} lines: {first(c)}" for c in nb.code
            if len(c.splitlines()) > (KERNEL_LINES if "triton.jit" in c else LINES)]
    wide = [f"{max(map(len, c.splitlines()))} columns: {first(c)}" for c in nb.code if max(map(len, c.splitlines()), default=0) > COLUMNS]
    funs = [f"{d.name} has {d.end_lineno - d.lineno + 1} lines" for c in nb.code if "triton.jit" not in c for d in ast.walk(tree(c))
            if isinstance(d, (ast.FunctionDef, ast.AsyncFunctionDef)) and d.end_lineno - d.lineno + 1 > LINES]
    assert not long + wide + funs, f"{nb.name}:\n" + "\n".join(long + wide + funs)


@each
def test_stored_outputs_are_clean(nb):
    outputs = [o for c in nb.cells if c["cell_type"] == "code" for o in c.get("outputs", [])]
    errors = [o.get("ename") for o in outputs if o["output_type"] == "error"]
    assert not errors, f"{nb.name}: stored errors {errors}"
    loud = ["".join(o["text"])[:80] for o in outputs if o.get("name") == "stderr"]
    assert not loud, f"{nb.name}: warnings or logs in the stored output: {loud}"


@each
def test_no_path_of_a_machine(nb):
    text = re.sub(r'"image/png": "[^"]*"', "", nb.raw)
    found = [text[max(0, m.start() - 30):m.end() + 30] for m in MACHINE.finditer(text)]
    assert not found, f"{nb.name}: {found}"


@each
def test_expected_failures_are_run(nb):
    "`expect_fail` is a context manager: called as a function it runs nothing, and cannot fail"
    def held(t): return {id(w.context_expr) for n in ast.walk(t) if isinstance(n, ast.With) for w in n.items}
    idle = [first(ast.unparse(n)) for t in map(tree, nb.code) for n in ast.walk(t) if isinstance(n, ast.Call)
            and getattr(n.func, "id", getattr(n.func, "attr", "")) == "expect_fail" and id(n) not in held(t)]
    assert not idle, f"{nb.name}: use test_fail, or `with expect_fail(...):`: {idle}"


@book_only
def test_it_opens_and_closes_as_the_others(nb):
    head = "".join(nb.cells[0]["source"])
    assert re.match(r"# \S.*\n\n> \S", head), f"{nb.name}: starts with `# title`, an empty line, `> one-sentence promise`"
    if nb.module: assert "nbdev_export()" in nb.code[-1] and "#| hide" in nb.code[-1], f"{nb.name}: the last cell exports"


@book_only
def test_every_export_is_asserted(nb):
    asserting = " ".join(c for c in nb.code if ASSERTS.search(c) and not re.search(r"^#\|\s*exports?\b", c, re.M))
    bare = [n for n in exported(nb) if not re.search(rf"\b{re.escape(n)}\b", asserting)]
    assert not bare, f"{nb.name}: exported, never asserted in its notebook: {bare}"


@book_only
def test_exports_are_plain(nb):
    for c in nb.code:
        if not re.search(r"^#\|\s*exports?\b", c, re.M): continue
        assert not re.search(r"^\s*from \S+ import \*", c, re.M), f"{nb.name}: import * in an export"
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree(c).body}
        assert len(kinds) < 2, f"{nb.name}: imports mixed with code in {first(c)!r} (the docs build would run that cell)"
        calls = {n.func.id for n in ast.walk(tree(c)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not calls & {"eval", "exec"}, f"{nb.name}: {calls & {'eval', 'exec'}} in an export"
