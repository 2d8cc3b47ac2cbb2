"""Forgetting from the outside: `reasonlab forget` on files of strangers, killed and resumed, and what the loop must not do."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from reasonlab.models.lm import LM
from reasonlab.models.small import byte_tokenizer, small_llama, word_tokenizer
from reasonlab.unlearning.forget import (Choice, Chooser, ForgetConfig, chance_of, copy_of, draw_labels, forget, load_change, look_at,
                                         loss_of, save_change)

PAIRS = [(a, b) for a in range(12) for b in range(12) if a != b]


def question(a, b, how): return dict(question=f"Is {a} {how} {b}?", choices=["yes", "no"], answer=int((a > b) != (how == "above")), task=how)


ROWS = [question(a, b, how) for how in ("above", "below") for a, b in PAIRS]
ITEMS = [Choice(r["question"], (" yes", " no"), r["answer"], r["task"], r["question"]) for r in ROWS]
TOK = word_tokenizer([r["question"] + " yes no" for r in ROWS])
FAST = ["--prompt", "{question}", "--lora", "0", "--teach", "30", "--rate", "4e-3", "--epochs", "20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp("model")
    LM(small_llama(TOK, 48, 2, 4, 32), TOK).save(d)
    return d


def cli(*args):
    from reasonlab.lab import cli, cli_forget  # noqa: F401
    return CliRunner().invoke(cli.app, ["forget", *map(str, args)])


def written(path, rows): path.write_text("".join(json.dumps(r) + "\n" for r in rows)); return path


# Files of strangers -----------------------------------------------------------------------------------------------------------------------

BAD = [
    (dict(question="x", choices=["a"], answer=0), "1 option"), (dict(question="x", choices=["a", "b"], answer=2), "numbered 0 to 1"),
    (dict(question="x", choices=["a", "b"], answer=-1), "numbered 0 to 1"), (dict(question="x", choices=["a", " a"], answer=0), "same text"),
    (dict(question="", choices=["a", "b"], answer=0), "question is empty"), (dict(question="x", choices="ab", answer=0), "1 option"),
    (dict(question="x", choices=["a", 3], answer=0), "list of texts"), (dict(question="x", choices=["a", "b"]), "no field 'answer'"),
    (dict(question="x", choices=["a", "b"], answer=True), "numbered 0 to 1"), (dict(question=None, choices=["a", "b"], answer=0), "no text"),
]


@pytest.mark.parametrize("row,said", BAD, ids=[s for _, s in BAD])
def test_a_bad_row_is_named_and_the_rest_goes_on(folder, tmp_path, row, said):
    p = written(tmp_path / "mc.jsonl", [*ROWS[:60], row, *ROWS[60:132]])
    got = cli("--forget", p, "--model", folder, "--out", tmp_path / "out", "--teach", 1, "--epochs", 1, "--lora", 0, "--prompt", "{question}")
    assert got.exit_code == 1, got.stderr
    assert "mc.jsonl" in got.stderr and "row 61" in got.stderr and said in got.stderr
    assert json.loads((tmp_path / "out/finding.json").read_text())["sizes"]["above"][0] > 40


@pytest.mark.parametrize("rows,said", [
    ([], "empty"), ([r for r in ROWS[:132] if r["answer"] == 0], "a constant answer"), (ROWS[:1], "8 of each are needed"),
    ([r | dict(group="one") for r in ROWS[:60]], "8 of each are needed"),
], ids=["no row", "all answers equal", "one row", "one group"])
def test_a_useless_set_is_refused_with_what_to_do(folder, tmp_path, rows, said):
    got = cli("--forget", written(tmp_path / "mc.jsonl", rows), "--model", folder, "--out", tmp_path / "out", "--prompt", "{question}")
    assert got.exit_code == 2 and said in got.stderr and "Traceback" not in got.stderr, got.stderr


def test_a_rate_that_breaks_the_model_says_so(folder, tmp_path):
    got = cli("--forget", written(tmp_path / "mc.jsonl", ROWS), "--model", folder, "--out", tmp_path / "out", *FAST, "--rate", "1e9")
    assert got.exit_code == 2 and "lower the rate" in got.stderr, got.stderr


@pytest.mark.parametrize("args,said", [
    (["--method", "erase"], "method is one of"), (["--labels", "wrong"], "label_mode is one of"), (["--prompt", "no place"], "{question}"),
    (["--norm", "mean"], "norm is"), (["--rate", "0"], "above 0"), (["--rate", "nan"], "above 0"), (["--method", "true"], "npo"), (["--model", "encoder", "--probe"], "causal language model")])
def test_an_argument_that_cannot_be_is_one_line(folder, tmp_path, args, said):
    base = ["--forget", written(tmp_path / "mc.jsonl", ROWS), "--out", tmp_path / "out"]
    got = cli(*base, *([] if "--model" in args else ["--model", folder]), *args)
    assert got.exit_code == 2 and said in got.stderr and "Traceback" not in got.stderr, got.stderr


def test_rows_of_the_holdout_that_were_trained_on_are_left_out_and_told(folder, tmp_path):
    a, b = written(tmp_path / "a.jsonl", ROWS[:80]), written(tmp_path / "b.jsonl", ROWS[60:132])
    got = cli("--forget", a, "--holdout", b, "--model", folder, "--out", tmp_path / "out", "--teach", 1, "--epochs", 1, "--lora", 0,
              "--prompt", "{question}")
    assert got.exit_code == 0 and "20 questions of above" in got.stderr
    assert json.loads((tmp_path / "out/finding.json").read_text())["sizes"] == {"above": [80, 52]}


def test_csv_and_other_tasks(folder, tmp_path):
    a = tmp_path / "a.csv"
    a.write_text("question,choices,answer\n" + "".join(f"{r['question']},yes|no,{r['answer']}\n" for r in ROWS[:132]))
    b, c = written(tmp_path / "below.jsonl", [{k: v for k, v in r.items() if k != "task"} for r in ROWS[132:]]), written(
        tmp_path / "few.jsonl", ROWS[132:140])
    got = cli("--forget", a, "--tasks", b, "--tasks", c, "--model", folder, "--out", tmp_path / "out", "--teach", 1, "--epochs", 1, "--lora", 0,
              "--prompt", "{question}", "--json")
    assert got.exit_code == 0, got.stderr
    result = json.loads(got.stdout.splitlines()[0])
    assert result["tasks"] == ["a", "below"] and "few has" not in got.stderr  # the few are rows of below
    assert set(result["ratios"]) == {f"{x} > {y}" for x in ("a", "below") for y in ("a", "below")}


def test_the_adapter_that_is_saved_is_the_model_that_forgot(folder, tmp_path):
    p = written(tmp_path / "mc.jsonl", ROWS)
    got = cli("--forget", p, "--model", folder, "--out", tmp_path / "out", *FAST, "--lora", "8", "--json")
    assert got.exit_code == 0, got.stderr
    result = json.loads(got.stdout.splitlines()[0])
    assert (tmp_path / "out/forgotten/adapter_model.safetensors").is_file() and (tmp_path / "out/taught/adapter_config.json").is_file()
    from reasonlab.unlearning.own_tasks import _merged, halves
    base = Chooser(LM.load(str(folder), "cpu"))
    gone = load_change(_merged(load_change(base, tmp_path / "out/taught")), tmp_path / "out/forgotten")
    ask = halves([Choice(r["question"], ("yes", "no"), r["answer"], "above", r["question"]) for r in ROWS[:132]])[1]
    assert abs(look_at(gone, gone.read(ask), ask)["accuracy"] - result["ratios"]["above > above"]["after"]) < .05


def test_the_default_encoder_goes_the_whole_way(tmp_path):
    from reasonlab.lab.cli_forget import EXAMPLES
    got = cli("--forget", written(tmp_path / "mc.jsonl", EXAMPLES[:48]), "--out", tmp_path / "out", "--teach", 12, "--report", tmp_path / "p.html")
    assert got.exit_code == 0, got.stderr
    r = json.loads((tmp_path / "out/finding.json").read_text())["ratios"]["animal > animal"]
    assert r["before"] > .7 and r["after"] < r["before"]
    page = (tmp_path / "p.html").read_text()
    assert page.count("<img") == 1 and "Content-Security-Policy" in page and "http" not in page.split("<body")[1]


# What fresh eyes found ------------------------------------------------------------------------------------------------------------------

QUICK = ["--prompt", "{question}", "--lora", "0", "--teach", "2", "--epochs", "2"]


def test_the_default_run_depends_on_its_seed_alone(tmp_path):
    from reasonlab.lab.cli_forget import EXAMPLES
    p, found = written(tmp_path / "mc.jsonl", EXAMPLES[:48]), []
    for name in "ab":
        torch.randn(7)
        assert cli("--forget", p, "--out", tmp_path / name, "--teach", 3, "--epochs", 2).exit_code == 0
        found.append(json.loads((tmp_path / name / "finding.json").read_text())["rows"])
    assert found[0] == found[1]


@pytest.mark.parametrize("change", [["--prompt", "Q: {question}"], ["--norm", "token"], ["--probe"], ["--seed", "1"], ["--model"]])
def test_another_experiment_is_refused_before_anything_is_written(folder, tmp_path, change):
    p = written(tmp_path / "mc.jsonl", ROWS[:132])
    other = tmp_path / "other"
    LM(small_llama(TOK, 48, 2, 4, 32, seed=9), TOK).save(other)
    call = ["--forget", p, "--model", folder, "--out", tmp_path / "out", *QUICK]
    assert cli(*call).exit_code == 0
    before = {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file() and f.name != "lock"}
    got = cli(*call, *(change if change != ["--model"] else ["--model", other]))
    assert got.exit_code == 2 and "another experiment" in got.stderr, got.stderr
    assert {f: f.read_bytes() for f in before} == before
    assert cli(*call).exit_code == 0


def test_the_order_of_tasks_is_part_of_the_experiment(folder, tmp_path):
    a, b = written(tmp_path / "ab.jsonl", ROWS), written(tmp_path / "ba.jsonl", ROWS[132:] + ROWS[:132])
    assert cli("--forget", a, "--model", folder, "--out", tmp_path / "out", *QUICK).exit_code == 0
    assert "another experiment" in cli("--forget", b, "--model", folder, "--out", tmp_path / "out", *QUICK).stderr


def test_a_damaged_adapter_is_made_again(folder, tmp_path):
    p = written(tmp_path / "mc.jsonl", ROWS[:132])
    call = ["--forget", p, "--model", folder, "--out", tmp_path / "out", *QUICK, "--json"]
    first = cli(*call)
    for f in ("change.safetensors", "key.json"):
        (tmp_path / "out/taught" / f).write_bytes(b"{")
        again = cli(*call)
        assert again.exit_code == 0 and json.loads(again.stdout)["ratios"] == json.loads(first.stdout)["ratios"]


def test_copies_in_other_letters_are_on_one_side():
    from reasonlab.lab.cli_forget import task_sets
    items = [i for x in ITEMS[:132] for i in (x, Choice(x.question.upper() + " ", x.choices, x.answer, x.task, x.question.upper() + " "))]
    (train, ask), = task_sets(dict(above=items))[0].values()
    assert not {i.question.lower().strip() for i in train} & {i.question.lower().strip() for i in ask}


def test_what_one_task_teaches_another_does_not_ask(folder, tmp_path):
    a, b = written(tmp_path / "a.jsonl", ROWS[:132]), written(tmp_path / "b.jsonl", [r | dict(task="copy") for r in ROWS[:132]])
    got = cli("--forget", a, "--holdout", written(tmp_path / "h.jsonl", ROWS[:132]), "--tasks", b, "--model", folder, "--out", tmp_path / "o", *QUICK)
    assert got.exit_code == 2 and "8 of each are needed" in got.stderr


def test_names_that_are_numbers_and_files_of_one_name(folder, tmp_path):
    rows = [r | dict(task=0, group=i % 12) for i, r in enumerate(ROWS[:132])]
    (tmp_path / "x").mkdir(); (tmp_path / "y").mkdir()
    bare = [{k: v for k, v in r.items() if k != "task"} for r in ROWS[132:]]
    x, y = written(tmp_path / "x/t.jsonl", bare[:66]), written(tmp_path / "y/t.jsonl", bare[66:])
    got = cli("--forget", written(tmp_path / "a.jsonl", rows), "--tasks", x, "--tasks", y, "--model", folder, "--out", tmp_path / "o", *QUICK, "--json")
    assert got.exit_code == 0, got.stderr
    result = json.loads(got.stdout)
    assert result["tasks"] == ["0", "t"] and sum(result["sizes"]["t"]) == 132


def test_rows_without_a_task_are_named_after_their_file(folder, tmp_path):
    rows = [{k: v for k, v in ROWS[0].items() if k != "task"}, *[{k: v for k, v in r.items() if k != "task"} for r in ROWS[1:90]], *ROWS[132:]]
    got = cli("--forget", written(tmp_path / "mine.jsonl", rows), "--model", folder, "--out", tmp_path / "o", *QUICK, "--json")
    assert got.exit_code == 0 and json.loads(got.stdout)["tasks"] == ["mine", "below"], got.stderr


def test_options_of_unlike_number_are_probed_and_odd_names_are_shown(tmp_path):
    texts = [f"w{i}" for i in range(40)]
    tok = byte_tokenizer([" ".join(texts)] * 3, 300)
    LM(small_llama(tok, 48, 2, 4, 128), tok).save(tmp_path / "m")
    rng = np.random.default_rng(0)
    rows = [dict(question=f"Which is {texts[i % 40]} {i}?", choices=[texts[j] for j in rng.permutation(40)[:k]], answer=int(rng.integers(k)),
                 task="[/b] <script>") for i, k in enumerate(rng.integers(2, 5, 120))]
    rows[3]["question"] = "\ud800 odd"
    got = cli("--forget", written(tmp_path / "mc.jsonl", rows), "--model", tmp_path / "m", "--out", tmp_path / "o", *QUICK, "--probe", "--report",
              tmp_path / "p.html")
    assert got.exit_code in (0, 1) and "Traceback" not in got.stderr and "[/b] <script> forgotten" in got.stdout, got.stderr
    assert "<script>" not in (tmp_path / "p.html").read_text()


def test_a_constant_answer_is_no_knowledge():
    from reasonlab.unlearning.own_tasks import ratio_of
    items = [Choice(f"q{i}", ("yes", "no"), int(i % 5 == 0), "t", f"q{i}") for i in range(100)]
    yes, no = [float(i.answer == 0) for i in items], [float(i.answer == 1) for i in items]
    assert ratio_of(yes, no, items)["ratio"] is None
    sure = ratio_of([1.] * 100, yes, items)
    assert sure["ratio"] == 1. and sure["low"] < sure["high"]


# Killed in the middle -----------------------------------------------------------------------------------------------------------------------

def test_killed_in_the_middle_of_the_matrix_nothing_is_lost_or_repeated(folder, tmp_path):
    p = written(tmp_path / "mc.jsonl", ROWS)
    call = [sys.executable, "-c", "from reasonlab.lab.cli import main; main()", "forget", "--forget", str(p), "--model", str(folder), *FAST]
    env = os.environ | dict(OMP_NUM_THREADS="1")
    whole = subprocess.run([*call, "--out", str(tmp_path / "whole")], env=env, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "out"
    run = subprocess.Popen([*call, "--out", str(out)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines, deadline = out / "rows/results.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (lines.is_file() and lines.stat().st_size) and run.poll() is None: time.sleep(.005)
    run.send_signal(signal.SIGKILL); run.wait()
    kept = lines.read_bytes()
    assert kept and not (out / "finding.json").exists(), "it was killed after its first row and before its end"
    again = subprocess.run([*call, "--out", str(out)], env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert lines.read_bytes().startswith(kept), "what was there was written again"
    a, b = (json.loads((d / "finding.json").read_text()) for d in (tmp_path / "whole", out))
    assert a["ratios"] == b["ratios"] and a["rows"] == b["rows"]
    assert lines.read_bytes() == (tmp_path / "whole/rows/results.jsonl").read_bytes()


# The loop ------------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def knows():
    c = Chooser(LM(small_llama(TOK, 48, 2, 4, 32, seed=3), TOK))
    forget(c, ITEMS[:132], ForgetConfig(method="true", steps=260, rate=4e-3, size=32, look_every=260), progress=False)
    return c


def test_what_is_asked_beside_never_steers(knows):
    a, b = copy_of(knows), copy_of(knows)
    said = []
    def look(): said.append(b.scores(b.read(ITEMS[132:150]))); return dict(other=0.)
    plan = ForgetConfig(epochs=6)
    x, y = forget(a, ITEMS[:60], plan, progress=False), forget(b, ITEMS[:60], plan, look=look, progress=False)
    assert len(said) == len(y.log) and [r["accuracy"] for r in x.log] == [r["accuracy"] for r in y.log]
    assert all(torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters()))


def test_the_base_is_never_touched(knows):
    before = [p.clone() for p in knows.net.parameters()]
    for rank in (0, 4): forget(copy_of(knows, rank), ITEMS[:40], ForgetConfig(epochs=2), progress=False)
    assert all(torch.equal(p, q) for p, q in zip(before, knows.net.parameters()))


def test_random_answers_do_not_follow_the_seed_of_a_world():
    for seed in range(20):
        gold = np.random.default_rng(seed).integers(0, 2, 64)
        items = [Choice(str(i), ("a", "b"), int(g)) for i, g in enumerate(gold)]
        drawn = forget(_Deaf(), items, ForgetConfig(seed=seed, steps=1, size=4), progress=False).drawn
        assert .25 < np.mean(drawn == gold) < .75


class _Deaf:
    "A chooser that says the same to everything"
    def __init__(self): self.net = torch.nn.Linear(1, 2)
    def read(self, items): return items
    def scores(self, ready): return [np.zeros(len(i.choices)) for i in ready]
    def logp(self, ready, pairs): return self.net(torch.zeros(1)).log_softmax(-1)[[k for _, k in pairs]]


def test_draws_are_even_and_leave_the_right_answer_out_only_on_request():
    rng = np.random.default_rng(0)
    items = [Choice(str(i), tuple("abcde"[:k]), int(rng.integers(k))) for i, k in enumerate(rng.integers(2, 6, 6000))]
    hit = np.mean([d == i.answer for d, i in zip(draw_labels(items, rng), items)])
    assert abs(hit - chance_of(items)) < .03
    wrong = draw_labels(items, rng, without_gold=True)
    assert not any(d == i.answer for d, i in zip(wrong, items)) and all(0 <= d < len(i.choices) for d, i in zip(wrong, items))


def test_the_soft_loss_is_the_mean_of_the_redrawn_ones(knows):
    ready, rows = knows.read(ITEMS[:8]), np.arange(8)
    one = lambda drawn, **kw: float(loss_of(knows, ready, ITEMS[:8], rows, ForgetConfig(**kw), np.array(drawn)).detach())
    every = [one([(m >> i) & 1 for i in range(8)]) for m in range(256)]
    assert abs(np.mean(every) - one([0] * 8, label_mode="soft")) < 1e-4


def test_options_of_unlike_number_and_length():
    tok = byte_tokenizer([r["question"] for r in ROWS] * 3, 300)
    c = Chooser(LM(small_llama(tok, 32, 1, 2, 64), tok))
    items = [Choice("Which?", ("a", "a long answer", "b"), 1), Choice("Is it?", ("yes", "no"), 0), Choice("What?", ("one", "two", "three", "four"), 3)]
    ready = c.read(items)
    assert [len(s) for s in c.scores(ready)] == [3, 2, 4]
    alone = [c.scores(c.read([i]))[0] for i in items]
    for a, b in zip(alone, c.scores(ready)): np.testing.assert_allclose(a, b, atol=1e-5)
    for norm in ("token", "character"):
        d = Chooser(c.lm, norm=norm)
        got = d.scores(ready)[0]
        sizes = [len(r.ids) if norm == "token" else len(" " + t) for r, t in zip(ready[0], items[0].choices)]
        np.testing.assert_allclose(got * sizes, c.scores(ready)[0], rtol=1e-6)


def test_a_change_of_another_base_is_refused(knows, tmp_path):
    gone = copy_of(knows); forget(gone, ITEMS[:40], ForgetConfig(epochs=1), progress=False)
    save_change(gone, knows, tmp_path)
    other = Chooser(LM(small_llama(TOK, 32, 1, 4, 32), TOK))
    with pytest.raises(ValueError, match="another base"): load_change(other, tmp_path)


# The shipped models --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(6))
def test_a_shipped_model_is_what_its_recipe_says(seed):
    from reasonlab.core import asset
    from reasonlab.unlearning.school import base_of, report_of
    made = json.loads(asset(f"adapters/forget/{seed}/school.json").read_text())
    world, chooser = base_of(seed)
    marks = report_of(chooser, world, 60)
    off = {t: (m["accuracy"], made["marks"][t]["accuracy"]) for t, m in marks.items() if abs(m["accuracy"] - made["marks"][t]["accuracy"]) > .2}
    assert made["seed"] == seed and not off
    known = [m["accuracy"] for t, m in made["marks"].items() if not t.startswith("format")]
    assert sum(.75 <= a <= .96 for a in known) >= 14, "most tasks are known, none perfectly"
    assert sum(p.stat().st_size for p in Path(asset(f"adapters/forget/{seed}")).iterdir()) < 600_000
