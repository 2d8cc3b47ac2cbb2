"Every notebook is a test: `make test ARGS='-k 50_steps'`. Directives (`#| slow`, `#| eval: false`) are honoured"
import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

from book import NBS, notebooks

pytestmark = pytest.mark.notebook
CFG = get_config(NBS)
SECONDS = 120  # for one cell: only catches what hangs


@pytest.fixture(autouse=True)
def commands():
    "A notebook registers its commands once more, on stand-ins; what runs after it in this process has the real ones"
    from reasonlab.lab.cli import app, load_parts
    load_parts()  # all, or one that a notebook is the first to import would be taken for its own
    keep = [*app.registered_commands], [*app.registered_groups]
    yield
    app.registered_commands[:], app.registered_groups[:] = keep


@pytest.mark.parametrize("nb", [*notebooks(), *notebooks("[a-z]*.ipynb")], ids=lambda nb: nb.name)
def test_notebook(nb):
    ok, _ = run_notebook(nb.path, skip_flags=CFG.tst_flags.split(), basepath=str(CFG.config_path), cell_timeout=SECONDS)
    assert ok, f"nbs/{nb.name}.ipynb: a cell failed; its traceback is above"
