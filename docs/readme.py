"""README.md from nbs/index.ipynb: prose as it stands, code cells by their stored output, links turned from nbs/ to the root.

`python docs/readme.py` runs the notebook, stores its outputs and writes README.md; `--print` prints it from what is stored.
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "nbs" / "index.ipynb"


def refresh():
    "Run the notebook and keep its outputs, cleaned"
    from fastcore.nbio import read_nb, write_nb
    from nbdev.clean import clean_nb
    from nbdev.test import test_nb
    if not test_nb(INDEX, basepath=str(ROOT), save=True)[0]: sys.exit("nbs/index.ipynb failed")
    nb = read_nb(INDEX)
    clean_nb(nb)
    write_nb(nb, INDEX)


def shown(cell):
    "Prose, or the markdown a code cell displays; `#| hide` cells show nothing"
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown": return source.strip()
    if "#| hide" in source: return ""
    return "\n\n".join("".join(o.get("data", {}).get("text/markdown", o.get("text", ""))).strip() for o in cell["outputs"])


def at_root(md):
    "Links that hold in nbs/ made to hold at the root of the repository"
    md = re.sub(r"\]\(\.\./", "](", md)
    return re.sub(r"\]\(([\w/]+\.ipynb)", r"](nbs/\1", md)


def readme():
    cells = json.loads(INDEX.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(at_root(text) for c in cells if (text := shown(c))) + "\n"


if __name__ == "__main__":
    if "--print" in sys.argv: print(readme(), end="")
    else:
        refresh()
        (ROOT / "README.md").write_text(readme(), encoding="utf-8")
