"Every notebook is a test: `make test ARGS='-k 50_steps'`. Directives (`#| slow`, `#| eval: false`) are honoured"
import time

import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

from book import NBS, notebooks

pytestmark = pytest.mark.notebook
CFG = get_config(NBS)
SECONDS = 60  # the house limit is 20 s on a quiet machine; this one only catches what went astray


@pytest.mark.parametrize("nb", [*notebooks(), *notebooks("[a-z]*.ipynb")], ids=lambda nb: nb.name)
def test_notebook(nb):
    start = time.process_time()
    ok, _ = run_notebook(nb.path, skip_flags=CFG.tst_flags.split(), basepath=str(CFG.config_path), cell_timeout=SECONDS * 2)
    assert ok, f"nbs/{nb.name}.ipynb: a cell failed; its traceback is above"
    assert time.process_time() - start < SECONDS, f"nbs/{nb.name}.ipynb took over {SECONDS} CPU seconds"
