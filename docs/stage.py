"""Stage the book for Sphinx: `python docs/stage.py` fills _stage/ from nbs/, docs/ and data/. No notebook is executed here.

A notebook becomes a page in MyST: hidden cells go, library source gets a line that names it (and that links can reach), helpers
fold, a name in backticks becomes a link to where it is defined, a link to a notebook one to its page. The front page is
docs/index.md with its marks filled in: the chain, the scorecard, the parts, the tables of contents.
"""
import ast
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import front

ROOT = Path(__file__).resolve().parent.parent
NBS, DST = ROOT / "nbs", ROOT / "_stage"
SOURCES = "https://github.com/reasonlab/reasonlab/blob/main/"
PARTS = ["Foundations", "Kernels", "Models", "Entailment", "Unlearning", "Verification", "Provenance", "Benchmarks", "The lab"]
ORDER = [*PARTS, "Experiments", "Reference"]
TAGS = {"code-fold": "hide-input", "echo": "remove-input", "output": "remove-output", "export": "hide-input"}
NAME = re.compile(r"(?<![\[`])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])")
EXERCISE = re.compile(r"^(`{3,}|:{3,})\{(exercise|solution)\} *(.*)\n(?::label: *(\S+)\n)?", re.M)
LINK = re.compile(r"\[([^\]]*)\]\((?:\./)?([\w/]+)\.ipynb(#[\w.-]+)?\)")


def source(cell): return "".join(cell["source"])


def directives(src): return dict(re.findall(r"^#\|\s*([\w-]+):?[ \t]*(.*)$", src, re.M))


def defined(src):
    "Public functions, classes and constants of a cell"
    out = []
    for d in ast.parse(re.sub(r"^\s*[%!].*$", "pass", src, flags=re.M)).body:
        if isinstance(d, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): out.append(d.name)
        if isinstance(d, ast.Assign): out += [n.id for t in d.targets for n in getattr(t, "elts", [t]) if isinstance(n, ast.Name) and n.id.isupper()]
    return [n for n in dict.fromkeys(out) if not n.startswith("_")]


def page_name(path):
    "Its path without number and suffix; the README's notebook is the page `start`"
    name = re.sub(r"^\d\d[a-z]?_", "", path.stem)
    return path.with_name({"index": "start"}.get(name, name)).as_posix()


def markdown(text): return {"cell_type": "markdown", "metadata": {}, "source": text}


class Page:
    "One notebook on its way to the site"
    def __init__(self, path):
        self.path = path.relative_to(NBS)
        self.name = page_name(self.path)
        self.nb = json.loads(path.read_text(encoding="utf-8"))
        self.module = next((m for c in self.nb["cells"] if (m := directives(source(c)).get("default_exp"))), None)
        self.exports = [n for c in self.nb["cells"] if c["cell_type"] == "code" and directives(source(c)).keys() & {"export", "exports"}
                        for n in defined(source(c))]
        self.exercises = []
        promise = re.search(r"^> (.+(?:\n> .+)*)", source(self.nb["cells"][0]), re.M)
        self.promise = re.sub(r"\n> ", " ", promise[1]) if promise else ""

    @property
    def part(self):
        "By the first digit"
        if self.path.name[0].isdigit() and self.path.parent == Path(): return PARTS[int(self.path.name[0])]
        return "Experiments" if self.path.parent.name else "Reference"

    def label(self, name):
        "Labels ignore case, and names may differ by case alone: `Settings`, `settings`. `lab.scorecard.cell_link` knows this rule, too"
        return f"{self.name.replace('/', '.')}.{name.lower()}{'-const' if name.isupper() else '-class' if name[0].isupper() else ''}"


class Book:
    "All pages, and where each exported name is defined"
    def __init__(self, paths):
        self.pages = {p.name: p for p in map(Page, paths)}
        if len(self.pages) < len(paths): raise SystemExit("two notebooks have the same name but for their number: their pages would collide")
        count = Counter(n for p in self.pages.values() for n in set(p.exports))
        self.home = {n: p for p in self.pages.values() for n in p.exports if count[n] == 1}

    def linked(self, page, line):
        "Names in backticks as links to their definition"
        if line.startswith("#"): return line
        def swap(m):
            *prefix, name = m[1].split(".")
            home = page if not prefix and name in page.exports else self.home.get(name)
            known = home and (not prefix or f"reasonlab.{home.module}".endswith(".".join(prefix)))
            return f"[{m[0]}](#{home.label(name)})" if known else m[0]
        return NAME.sub(swap, line)

    def prose(self, page, text):
        "Links turned to pages, names to links, exercises labelled; fences stay as they are"
        def labelled(m):
            fence, kind, title, label = m[1], m[2], m[3].strip(), m[4]
            key = re.sub(r"\W+", "-", f"exercise-{page.name}-{label or title}".lower())
            if kind == "exercise":
                page.exercises.append(key)
                return f"{fence}{{exercise}} {title}\n:label: {key}\n"
            # a solution names its exercise, or is that of the last one before it
            return f"{fence}{{solution}} {key if key in page.exercises else page.exercises[-1]}\n"

        def to_page(m):
            target = page_name(Path(m[2]))
            return f"[{m[1]}](/{target}.ipynb{m[3] or ''})" if target in self.pages else m[1]  # plain words until that chapter stands
        text = LINK.sub(to_page, EXERCISE.sub(labelled, text)).replace("](../docs/_static/", "](/_static/").replace("](../", f"]({SOURCES}")
        out, fenced = [], False
        for line in text.splitlines():
            fenced ^= line.lstrip().startswith("```") and not line.lstrip().startswith(("```{exercise}", "```{solution}"))
            out.append(line if fenced else self.linked(page, line))
        return "\n".join(out)

    def addressed(self, text):
        "Links to notebooks as addresses of their pages"
        def to_page(m): return f"[{m[1]}]({name}.html{m[3] or ''})" if (name := page_name(Path(m[2]))) in self.pages else m[1]
        return LINK.sub(to_page, text)

    def cells(self, page, cell):
        "What one cell of a notebook becomes: none, one, or its heading and itself"
        src, says = source(cell), directives(source(cell))
        if cell["cell_type"] == "markdown": return [markdown(self.prose(page, src))]
        body = re.sub(r"^#\|.*\n?", "", src, flags=re.M).strip("\n")
        if says.keys() & {"hide", "default_exp"} or says.get("include") == "false" or not body: return []
        tags = sorted({tag for key, tag in TAGS.items() if key in says and says[key] != ("true" if key in ("echo", "output") else "false")})
        exported = bool(says.keys() & {"export", "exports"})
        cell = dict(cell, source=body, metadata={"tags": tags + ["library"] * exported})
        for o in cell["outputs"]:  # a computed table links to pages, too; what is shown is plain markdown, so by their address
            if "text/markdown" in o.get("data", {}): o["data"]["text/markdown"] = self.addressed("".join(o["data"]["text/markdown"]))
        said = ["".join(o["data"].get("text/plain", "")) for o in cell["outputs"] if "image/png" in o.get("data", {})]
        if any(said): cell["metadata"]["mystnb"] = {"image": {"alt": " ".join(said[0].split())}}  # a figure's text stands beside it
        names = defined(body) if exported else []
        if not names: return [cell]
        anchors = "\n".join(f"({page.label(n)})=" for n in names)
        return [markdown(f"{anchors}\n:::{{div}} rl-exports\n`reasonlab.{page.module}` {' '.join(f'`{n}`' for n in names)}\n:::"), cell]

    def write(self, page):
        cells = [new for c in page.nb["cells"] for new in self.cells(page, c)]
        for i, c in enumerate(cells): c["id"] = f"cell{i}"
        target = DST / f"{page.name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(dict(page.nb, cells=cells), ensure_ascii=False), encoding="utf-8")

    def parts(self):
        "Pages by part, in the order of the book"
        by_part = {part: [p for p in self.pages.values() if p.part == part] for part in ORDER}
        return {part: pages for part, pages in by_part.items() if pages}


def planned():
    "Papers without a chapter, by part"
    from reasonlab.core import papers
    rows = {}
    for p in papers().values():
        if p.state == "planned": rows.setdefault(PARTS[int(p.notebook[0])], []).append(f"- {p.title} ([{p.year}]({p.url}), planned)")
    return rows


def contents(parts):
    "The book by parts: each chapter with its promise, then what is planned"
    to_come, out = planned(), []
    for part in [p for p in ORDER if p in parts or p in to_come]:
        out += [f"### {part}", "\n".join(f"- [{p.name.split('/')[-1]}](/{p.name}.ipynb): {p.promise}" for p in parts.get(part, []) if p.name != "start")]
        if part in to_come: out += ["::::{div} rl-planned\n" + "\n".join(to_come[part]) + "\n::::"]
    return "\n\n".join(out)


def toctrees(parts):
    "One captioned, hidden table of contents per part"
    names = {part: [p.name for p in pages] for part, pages in parts.items()}
    names.setdefault("The lab", []).append("trust")
    names["Reference"] = ["Read me <start>" if n == "start" else n for n in names["Reference"]] + ["bibliography"]
    return "\n\n".join(f"```{{toctree}}\n:hidden:\n:caption: {part}\n" + "\n".join(n) + "\n```" for part, n in names.items())


def main():
    shutil.rmtree(DST, ignore_errors=True)
    for folder in ("_static", "_templates"): shutil.copytree(ROOT / "docs" / folder, DST / folder)
    for f in ("docs/conf.py", "docs/bibliography.md", "data/refs.bib"): shutil.copy(ROOT / f, DST)
    paths = [*sorted(NBS.glob("[0-9]*.ipynb")), *sorted(NBS.glob("experiments/[!._]*.ipynb")), *sorted(NBS.glob("[a-z]*.ipynb"))]
    book = Book(paths)
    for page in book.pages.values(): book.write(page)
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for mark, text in {"@chain@": front.raw(front.chain()), "@scorecard@": front.card(), "@parts@": contents(book.parts()), "@toctrees@": toctrees(book.parts())}.items():
        index = index.replace(mark, text)
    (DST / "index.md").write_text(index, encoding="utf-8")
    trust = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    (DST / "trust.md").write_text(front.trust(trust, book.pages), encoding="utf-8")


if __name__ == "__main__": main()
