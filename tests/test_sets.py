"The public sets of pairs and topics: complete in the catalogue, counted, and read without losing a row"
import csv
import gzip
import io
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonlab import data, sets
from reasonlab.core import LABELS
from reasonlab.files import BadFile, BadRow, Layout, read_rows

HERE = os.environ.get("REASONLAB_DATA")
real = pytest.mark.skipif(not HERE, reason="REASONLAB_DATA is not set: the public sets are not here")
each = pytest.mark.parametrize("name", sets.READERS)

COUNTS = dict(  # labels as the manifest has them, of the file it names; dev parts that it counts apart are added
    snli=dict(entailment=3325, contradiction=3275, neutral=3231), mnli=dict(entailment=3487, contradiction=3288, neutral=3047),
    fracas=dict(entailment=162, neutral=66, contradiction=24), scitail=dict(not_entailment=703, entailment=364),
    rte=dict(entailment=1249, not_entailment=1241), med=dict(entailment=1361, neutral=1328), help=dict(entailment=3257, neutral=3257),
    breaking_nli=dict(contradiction=3577, entailment=511, neutral=9), taxinli=dict(neutral=2094, entailment=2052, contradiction=1964),
    crowd_wiki=dict(contradiction=5358, neutral=5238, entailment=4507), conjnli=dict(neutral=6757 + 135, entailment=5820 + 106, contradiction=2423 + 71))
TASKS = {  # one file of a set of several
    ("cad_nli", "train"): dict(contradiction=2782, neutral=2778, entailment=2770), ("mpe", "train"): dict(contradiction=3324, entailment=2584, neutral=2092),
    ("sick", "train"): dict(neutral=2526, entailment=1276, contradiction=639), ("monli", "negated"): dict(entailment=501, neutral=501),
    ("monli", "positive"): dict(neutral=738, entailment=738), ("wice", "claim"): dict(entailment=115, not_entailment=349 - 115)}


@each
def test_the_catalogue_is_complete(name):
    d = data.catalog()[name]
    assert d.reader == name and d.split in ("upstream", "half") and d.licence and d.why and d.repo.count("/") == 1
    assert len(d.commit) >= 12 and int(d.commit, 16) and len({f.task for f in d.files}) == len(d.files)
    assert all(len(f.sha256) == 64 and int(f.sha256, 16) and f.records > 0 for f in d.files)
    assert d.serves == (("zero_shot",) if name in sets.TOPICS else ()) and d.uses == (() if name in sets.TOPICS else ("judge",))
    if d.split == "half": assert any(not f.upstream for f in d.files)  # whole files hold rows that are kept elsewhere


@pytest.mark.parametrize("name", data.catalog())
def test_the_licence_decides_what_is_trained_on(name):
    "Said twice, by a person and by the words of the licence: not stated, non-commercial and research only allow nothing"
    d = data.catalog()[name]
    forbids = any(w in d.licence.lower() for w in ("not stated", "non-commercial", "-nc-", "research use", "common crawl"))
    assert d.trainable == (not forbids) and isinstance(d.trainable, bool) and d.why


@real
@each
def test_the_manifest_agrees(name):
    "Licence and commit word for word, hashes as summed when the files were copied"
    root, d = Path(HERE), data.catalog()[name]
    if not (root / "README.md").is_file(): pytest.skip("the folder has no manifest")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in (root / "README.md").read_text().splitlines() if line.startswith("| ")]
    (row,) = [r for r in rows if r[0].split("/")[-1] == name.removesuffix("_nli" if name == "cad_nli" else "")]
    assert d.licence == row[3] and f"{d.repo} @ {d.commit}" in row[2]
    sums = dict(line.split(maxsplit=1)[::-1] for line in (root / "SHA256SUMS").read_text().splitlines())
    assert {f.path: f.sha256 for f in d.files} == {f.path: sums[f.path] for f in d.files}


@real
@each
def test_every_record_is_read(name):
    d, rows = data.catalog()[name], data.rows(name)
    assert Counter(r["task"] for r in rows) == {f.task: f.records for f in d.files}
    assert all(set(r) == set(data.FEATURES[name]) and r["set"] == name for r in rows)
    assert len({r["id"] for r in rows}) == len(rows)
    if name in COUNTS: assert Counter(r["label"] for r in rows) == COUNTS[name]
    for (of, task), count in TASKS.items():
        if of == name: assert Counter(r["label"] for r in data.rows(name, task)) == count
    with pytest.raises(ValueError, match="only the part for development"): data.rows(name, part="test")


@real
@pytest.mark.parametrize("name", [n for n, d in data.catalog().items() if n in sets.READERS and ".json" not in d.files[0].path])
def test_a_second_reader_finds_the_same_texts(name):
    "The standard library's reader, told what we found out by looking: the texts are the same, in the same order"
    for f in data.catalog()[name].files:
        path = data.locate(name, f)
        raw = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="")
        with raw: text = raw.read()
        sep = ";" if name == "emotion" else "," if ".csv" in path.name else "\t"
        lines = list(csv.reader(io.StringIO(text))) if sep == "," else [line.split(sep) for line in text.rstrip("\n").split("\n")]
        if name != "situation": lines = lines[1:]
        for r, cells in zip(data.rows(name, f.task), lines, strict=True):
            have = {c.strip() for c in cells}
            assert {r.get("text", r.get("hypothesis"))} <= have
            if "parts" in r: assert [c.split("/", 1)[1].strip() for c in cells[1:5]] == r["parts"]
            elif "premise" in r: assert r["premise"] in have


@real
def test_topics_are_those_of_the_manifest():
    marks = Counter(x for r in data.rows("situation", "dev") for x in r["labels"])
    assert (marks["out-of-domain"], marks["med"], marks["regimechange"], marks.total()) == (775, 421, 26, 3123)
    assert Counter(x for r in data.rows("emotion", "train") for x in r["labels"])["joy"] == 5360
    assert Counter(x for r in data.rows("ag_news") for x in r["labels"]) == dict(business=1540, sports=1508, world=1498, tech=1452)


@real
def test_what_the_special_sets_keep():
    assert Counter(r["direction"] for r in data.rows("med")) == dict(downward=1700, upward=866, non=123)
    assert all(set(r["categories"]) <= set(sets.CATEGORIES) for r in data.rows("taxinli"))
    many = [r for r in data.rows("ambient") if len(r["labels"]) > 1]
    assert len(many) == 36 and all(r["label"] == "" for r in many)
    claims, chunks, tokens = (data.rows("wice", t) for t in ("claim", "oracle", "tokens_dev"))
    assert Counter((r["verdict"], bool(sets.supporting(r))) for r in claims) == {("supported", True): 115, ("partially_supported", True): 191,
        ("not_supported", False): 30, ("not_supported", True): 13}  # of 13 one annotator named a sentence, another none
    assert all(bool(sets.supporting(r)) == (r["verdict"] != "not_supported") for r in chunks)
    assert all(len(r["tokens"]) == len(r["unsupported"]) > 0 for r in tokens)
    assert {r["claim"] for r in chunks} <= {r["claim"] for r in claims} and all(r["premise"] for r in (*claims, *chunks))


@real
@pytest.mark.parametrize("name", ["mpe", "ambient", "wice", "taxinli", "situation"])
def test_declared_features_hold(name):
    pytest.importorskip("datasets")
    rows = data.rows(name)
    assert data.load(name)[len(rows) - 1] == rows[-1]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0\ufeff"), min_size=1)


@given(st.lists(st.tuples(cells, cells), min_size=1).filter(lambda rs: "".join(map("".join, rs)).strip()))
def test_a_table_without_quoting_is_lines_and_tabs(rows):
    "Whatever marks stand in it"
    f = io.BytesIO("".join(f"{a}\t{b}\n" for a, b in rows).encode())
    try: got = list(read_rows(f, Layout("\t", quotes=False, names=("a", "b"))))
    except BadFile as e: return assert_plainly_something_else(e, rows)
    assert [tuple(r.values()) for r in got] == rows


def assert_plainly_something_else(e, rows):
    "A file whose first bytes are those of an archive, a page or a pickle is refused whatever follows"
    head = rows[0][0].lstrip()
    assert head[:1] in "<PBv%" or ord(head[:1]) > 127 or not head, e


@pytest.mark.parametrize("cells", [1, 3])
def test_a_row_of_another_length(cells):
    text = b"a\tb\n" + b"\t".join([b"x"] * cells) + b"\nx\ty\n"
    odd, good = read_rows(io.BytesIO(text), Layout("\t", quotes=False))
    assert isinstance(odd, BadRow) and odd.number == 1 and good == {"a": "x", "b": "y"}
    got = next(iter(read_rows(io.BytesIO(text), Layout("\t", quotes=False, ragged=True))))
    assert got == {"a": "x"} if cells == 1 else isinstance(got, BadRow)


ODD = dict(label=dict(label="perhaps"), no_label=dict(label=None), no_column=dict(premis="p", hypothesis="h", label="neutral"))


@pytest.mark.parametrize("kind", ODD)
def test_a_row_that_is_none_of_the_set_names_file_and_row(tmp_path, monkeypatch, kind):
    good = dict(premise="p", hypothesis="h", label="neutral")
    row = ODD[kind] if kind == "no_column" else good | ODD[kind]
    f = data.DataFile("toy/rows.csv", "toy", "", "0" * 64, 2)
    toy = data.DataSet("toy", "Toy", "a/b", "c" * 40, "ours", (), "snli", "half", "premise", (f,))
    monkeypatch.setattr(data, "catalog", lambda: {"toy": toy})
    monkeypatch.setenv("REASONLAB_DATA", str(tmp_path))
    (tmp_path / "toy").mkdir()
    with open(tmp_path / f.path, "w", newline="") as out:
        w = csv.DictWriter(out, list(row))
        w.writeheader()
        w.writerows([good, row] if kind != "no_column" else [row])
    with pytest.raises(BadFile, match=rf"rows.csv, row {1 if kind == 'no_column' else 2}: not a row of toy"): data.rows("toy")


def test_what_cannot_be_fetched_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONLAB_CACHE", str(tmp_path))
    with pytest.raises(data.FetchFailed, match=r"mnli_dev_half.csv.gz cannot be fetched as single files .*felipessalvatore"): data.get("mnli")
    assert not list(tmp_path.rglob("*.*"))


@given(st.sampled_from([*LABELS, "not_entailment"]), st.sampled_from([str, str.upper, str.title, lambda s: f" {s}\n"]))
def test_labels_in_any_case(label, write):
    row = dict(premise="p", hypothesis="h", label=write(label))
    assert sets.READERS["snli"](0, row, SimpleNamespace(task="snli"))["label"] == label
