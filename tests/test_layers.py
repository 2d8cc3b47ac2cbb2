"Imports point left only: foundations <- kernels <- models <- toolkits <- papers <- lab. The contract is generated from `ls nbs`"
import json
import subprocess
import sys
from pathlib import Path

import pytest

from book import LAYERS, ROOT, Notebook, notebooks

HEAD = """[importlinter]
root_package = reasonlab

[importlinter:contract:layers]
name = foundations <- kernels <- models <- toolkits <- papers <- lab
type = layers
layers =
"""
LEAF = """
[importlinter:contract:{number}]
name = no paper imports a paper: {number}
type = forbidden
source_modules =
{mine}
forbidden_modules =
{others}
"""
SIDE_BY_SIDE = ("papers", "kernels", "lab")  # no order among these; 51 and 51a are one paper


def contract(books):
    "Contracts for import-linter: one line per rank, highest first; then every paper against the others"
    rows, papers = [], {}
    for layer in LAYERS:
        mods = [f"reasonlab.{nb.module}" for nb in books if nb.layer == layer and nb.module]
        rows += [" : ".join(mods)] if layer in SIDE_BY_SIDE and mods else mods[::-1]
    for nb in books:
        if nb.layer == "papers" and nb.module: papers.setdefault(nb.number, []).append(f"reasonlab.{nb.module}")
    return HEAD + lines(rows) + "".join(
        LEAF.format(number=n, mine=lines(mine), others=lines([m for k, v in papers.items() if k != n for m in v]))
        for n, mine in papers.items() if len(papers) > 1)


def lines(rows): return "".join(f"    {row}\n" for row in rows)


def lint(cwd, text, tmp_path):
    config = tmp_path / "contract.ini"
    config.write_text(text)
    call = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", config]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_layers_hold(tmp_path):
    done = lint(ROOT, contract(notebooks()), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_stands_on_one_rank():
    names = [nb.module for nb in notebooks() if nb.module]
    twice = {m for m in names if names.count(m) > 1}
    assert not twice, f"exported by two notebooks: {twice}"
    by_path = {str(p.relative_to(ROOT / "reasonlab").with_suffix("")).replace("/", ".") for p in (ROOT / "reasonlab").rglob("*.py")
               if p.stem not in ("__init__", "_modidx")}
    assert by_path == set(names), f"module without notebook or notebook without module: {by_path ^ set(names)}"


@pytest.mark.parametrize("name,layer", [("00_core", "foundations"), ("11_logprob", "kernels"), ("22_train", "models"),
                                        ("50a_calculation", "toolkits"), ("51_natural_program", "papers"), ("82_cli", "lab")])
def test_layer_by_number(name, layer): assert Notebook(Path(f"{name}.ipynb")).layer == layer


def test_a_wrong_import_is_found(tmp_path):
    "The contract can fail: a foundation that imports a paper, and a paper that imports another; two notebooks of one paper may"
    package, books = tmp_path / "reasonlab", []
    package.mkdir()
    (package / "__init__.py").touch()
    for name, source in {"00_core": "import reasonlab.one\n", "51_one": "import reasonlab.more, reasonlab.two\n", "51a_more": "", "52_two": ""}.items():
        module = name.split("_")[1]
        (package / f"{module}.py").write_text(source)
        cell = dict(cell_type="code", source=[f"#| default_exp {module}"])
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(dict(cells=[cell])))
        books.append(Notebook(tmp_path / f"{name}.ipynb"))
    said = lint(tmp_path, contract(books), tmp_path)
    assert said.returncode == 1 and "reasonlab.core is not allowed to import reasonlab.one" in said.stdout
    assert "reasonlab.one is not allowed to import reasonlab.two" in said.stdout
    assert "reasonlab.more" not in said.stdout.split("Broken contracts")[1]
