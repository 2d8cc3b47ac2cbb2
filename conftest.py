"For every pytest run: offline, no windows; and nbval reads our notebooks (`pytest --nbval-lax nbs`, each in a fresh kernel)"
import os
import re

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

if "PYTEST_XDIST_WORKER" in os.environ: os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores

NOT_RUN = re.compile(r"^#\|\s*(slow|cuda|eval:\s*false)\b", re.M)  # directives that nbval does not know


def pytest_configure(config):
    if getattr(config.option, "nbval", False) or getattr(config.option, "nbval_lax", False):
        os.environ["IN_TEST"] = "1"  # the kernels inherit it: the closing export cell then does nothing


def pytest_ignore_collect(collection_path, config):
    # experiments train for minutes and are never tests; None leaves the rest to pytest
    return True if "experiments" in collection_path.parts and collection_path.suffix == ".ipynb" else None


def pytest_collection_modifyitems(items):
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None: continue
        if NOT_RUN.search(cell.source): item.add_marker(pytest.mark.skip(reason="directive"))
        # nbdev-clean keeps outputs and drops the counts; nbval takes a cell without a count for one never run
        if cell.execution_count is None: cell.execution_count = 1
