"What several tests ask about the book: where it is, which notebooks it has, what each exports, on which layer"
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
TOOLKITS = {"30", "40", "50", "60", "70"}
LAYERS = ("lab", "papers", "toolkits", "models", "kernels", "foundations")  # highest first


@dataclass(frozen=True)
class Notebook:
    path: Path

    @property
    def name(self): return self.path.stem

    @property
    def number(self):
        "'50' of 50a_calculation; None for index and notation"
        m = re.match(r"\d\d", self.name)
        return m and m[0]

    @cached_property
    def raw(self): return self.path.read_text(encoding="utf-8")

    @cached_property
    def cells(self): return json.loads(self.raw)["cells"]

    @cached_property
    def code(self): return ["".join(c["source"]) for c in self.cells if c["cell_type"] == "code"]

    @cached_property
    def module(self):
        "What `#| default_exp` says, or None"
        m = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(self.code), re.M)
        return m and m[1]

    @property
    def layer(self):
        if self.number[0] in "012": return ("foundations", "kernels", "models")[int(self.number[0])]
        if self.number[0] == "8": return "lab"
        return "toolkits" if self.number in TOOLKITS else "papers"


def notebooks(pattern="[0-9]*.ipynb"):
    "The book's notebooks in order; experiments, drafts and checkpoints are not part of it"
    return [Notebook(p) for p in sorted(NBS.glob(pattern))]
