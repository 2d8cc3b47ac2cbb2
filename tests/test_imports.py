"The library is light: importing it brings no notebook tooling, and what is heavy comes only when it is used"
import subprocess
import sys

import pytest

from book import ROOT, notebooks

NEVER = ("nbdev", "IPython", "fastcore", "execnb", "pytest", "ipywidgets")  # tools of the book, not of the library
LATE = ("torch", "transformers", "datasets", "peft", "sklearn", "sympy", "z3", "clingo", "matplotlib", "ray")
HEAVY_PARTS = ("kernels.", "models.")  # these may import torch at the top; reasonlab.plot may import matplotlib
PROBE = """
import importlib, sys
for name, banned in {jobs}:
    importlib.import_module(name)
    for b in banned:
        if b in sys.modules: print(name, 'imports', b)
    if any(b in sys.modules for b in banned): break
"""


def fresh(code):
    "Standard output of a fresh interpreter"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def banned_for(module):
    if module == "plot": return NEVER
    return NEVER + (("matplotlib",) if module.startswith(HEAVY_PARTS) else LATE)


def test_modules_import_nothing_heavy():
    mods = sorted((nb.module for nb in notebooks() if nb.module), key=lambda m: len(banned_for(m)), reverse=True)
    said = fresh(PROBE.format(jobs=[(f"reasonlab.{m}", banned_for(m)) for m in mods if m != "plot"]))
    assert not said, said


def test_the_probe_can_fail():
    assert fresh(PROBE.format(jobs=[("json", ("json",))])) == "json imports json\n"


def test_the_package_itself_is_almost_free():
    said = fresh("import sys; a = set(sys.modules); import reasonlab; print(sorted(set(sys.modules) - a))")
    assert said == "['reasonlab']\n"


@pytest.mark.parametrize("name", ["nonsense", "classify_nothing"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=name): getattr(__import__("reasonlab"), name)
