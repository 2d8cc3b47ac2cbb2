"Runs as a person sees them: a live table in a terminal, lines in a pipe, Ctrl-C, resuming, the lab's own studies"
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from termios import TIOCSWINSZ

import numpy as np
import pytest
from typer.testing import CliRunner

from book import ROOT
from reasonlab.claims import Claim, Observation, Study
from reasonlab.lab import cli_book, live, reproduce
from reasonlab.runs import from_line

MAIN = "from reasonlab.lab.cli import main; main()"
STUDY = """
import sys, time
from pathlib import Path
import numpy as np
from tqdm import tqdm
from reasonlab.claims import Claim, Observation, Study
A = Claim(id='slow.heads', paper='slow', text='A coin lands heads', statistic='mean', effect=.3, expected=.5)
B = Claim(id='slow.a_rather_long_name', paper='slow', text='Few tails', statistic='mean', effect=.7, direction='less', null=1.)
def observe(scale, seed):
    time.sleep(PAUSE)
    while GATE and seed == 5 and not Path('go').exists(): time.sleep(.02)
    for _ in tqdm(range(7), disable=not sys.stderr.isatty()): pass
    x = np.random.default_rng(seed).integers(0, 2, 40)
    print('a trial print that must not reach the results')
    return {c.id: Observation(dict(pred=x, group=40*seed + np.arange(40))) for c in (A, B)}
STUDY = Study(slug='slow', claims=(A, B), observe=observe)
"""


def study(folder, pause=.05, gate=False):
    "`gate`: its sixth seed waits for a file `go` beside it"
    path = folder / "slow.py"
    path.write_text(STUDY.replace("PAUSE", str(pause)).replace("GATE", str(gate)))
    return path


def lab(*args, cwd, **kw):
    call = [sys.executable, "-c", MAIN, *map(str, args)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, **kw)


class Terminal:
    "The command with a pseudo-terminal for standard error (and input), results in a file"
    def __init__(self, args, cwd, columns=80, rows=24):
        mine, theirs = pty.openpty()
        ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "CI")}
        self.out, self.seen, self.fd = cwd / "stdout.txt", "", mine
        with open(self.out, "w") as out:
            self.p = subprocess.Popen([sys.executable, "-c", MAIN, *map(str, args)], cwd=cwd, stdin=theirs, stdout=out, stderr=theirs,
                                      env={**env, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}, start_new_session=True)
        os.close(theirs)

    def read(self, until=None, seconds=60):
        "What the terminal received, until a text appears or the command is over"
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (until and re.search(until, self.plain)):
            if not select.select([self.fd], [], [], .2)[0]: continue
            try: data = os.read(self.fd, 65536)
            except OSError: break  # the other side is closed
            if not data: break
            self.seen += data.decode(errors="replace")
        assert until is None or re.search(until, self.plain), self.plain
        return self.plain

    @property
    def plain(self): return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen)

    def close(self):
        try: return self.p.wait(60)
        finally: os.close(self.fd)


def test_live_table_in_a_terminal_of_80_columns(tmp_path):
    t = Terminal(["reproduce", study(tmp_path, .4), "--seeds", 6, "--json"], tmp_path)
    said = t.read(until=r"[3-5]/6 seeds[\s\S]*\((~|✓|✗) \w+\)")
    assert "so far" in said and "provisional" in said and "A verdict is given once" in said and "elapsed" in said
    assert "a_rather_long_name" in said  # the name of a claim is never cut
    said = t.read()
    assert t.close() == 0
    assert "7/7" not in said, "a bar of the study tears the table"
    assert "left" in said and max(len(line) for line in re.split(r"[\r\n]+", said)) <= 80
    rows = [json.loads(line) for line in t.out.read_text().splitlines()]  # results only
    assert [r["claim"] for r in rows] == ["slow.heads", "slow.a_rather_long_name"]


def test_a_pipe_gets_one_plain_line_for_each_seed(tmp_path):
    done = lab("reproduce", study(tmp_path), "--seeds", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^slow: seed \d done, \d of 3", done.stderr, re.M)) == 3
    assert "\x1b" not in done.stderr + done.stdout and "trial print" not in done.stdout and "provisional" not in done.stderr
    assert "├" in done.stdout and "nothing stored" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_numbers_and_seeds_beyond_and_below(tmp_path):
    path = study(tmp_path, 0)
    first = [json.loads(x) for x in lab("reproduce", path, "--seeds", 3, "--json", cwd=tmp_path).stdout.splitlines()]
    assert first[0]["stored"] is None and first[0]["meets"] == "nothing stored" and first[0]["outcome"] == "inconclusive"
    assert set(first[0]["fresh"]) >= {"estimate", "low", "high", "n", "seeds"} and first[0]["fresh"]["seeds"] == 3
    more = lab("reproduce", path, "--seeds", 6, "--json", cwd=tmp_path)
    row = json.loads(more.stdout.splitlines()[0])
    assert more.stderr.count("was there") == 3 and row["fresh"]["seeds"] == 6 and row["stored"] == first[0]["fresh"]
    assert row["meets"] == "meets"
    less = json.loads(lab("reproduce", path, "--seeds", 3, "--json", cwd=tmp_path).stdout.splitlines()[0])
    assert less["fresh"] == first[0]["fresh"]
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_ctrl_c_says_how_to_go_on_and_loses_nothing(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for d in (a, b): d.mkdir()
    path = study(a, .05, gate=True)
    t = Terminal(["reproduce", path.name, "--seeds", 8], a)
    t.read(until=r"5/8 seeds")
    os.killpg(t.p.pid, signal.SIGINT)
    said = t.read()
    assert t.close() == 130, said
    assert "Traceback" not in said and re.search(r"stopped after \d of 8 seeds", said)
    folder = next((a / "runs").iterdir())
    left = (folder / "results.jsonl").read_bytes()
    again = re.sub(r"[\r\n]", "", said)  # a terminal wraps, and the file says what the command is
    assert f"--seeds 8 --resume runs/{folder.name}" in again
    rows = [from_line(line) for line in left.splitlines()]
    assert 2 <= len(rows) < 16
    looked = [from_line(line) for line in (a / "slow.claims.jsonl").read_bytes().splitlines()]
    assert looked[-1]["kind"] == "look" and looked[-1]["seeds"] == len(rows) // 2  # a stopped look is a look
    for d in (a, b): (d / "go").touch()
    done = lab("reproduce", "slow.py", "--seeds", 8, "--resume", f"runs/{folder.name}", cwd=a)
    assert done.returncode == 0 and "was there" in done.stderr, done.stderr
    whole = lab("reproduce", study(b, .05, gate=True), "--seeds", 8, cwd=b)
    assert whole.returncode == 0
    assert (folder / "results.jsonl").read_bytes() == next((b / "runs").iterdir()).joinpath("results.jsonl").read_bytes()
    assert (folder / "results.jsonl").read_bytes().startswith(left)
    assert done.stdout.split("\n\n")[0] == whole.stdout.split("\n\n")[0]


def test_another_configuration_is_refused(tmp_path):
    path = study(tmp_path, 0)
    assert lab("reproduce", path, "--seeds", 1, "--scale", "smoke", cwd=tmp_path).returncode == 0
    folder = next((tmp_path / "runs").iterdir())
    before = (folder / "results.jsonl").read_bytes()
    other = lab("reproduce", path, "--scale", "home", "--resume", folder, cwd=tmp_path)
    assert other.returncode == 2 and "configuration changed" in other.stderr and '"scale":"smoke"' in other.stderr
    same = lab("reproduce", path, "--seeds", 2, "--resume", folder, cwd=tmp_path)  # the folder knows its scale
    assert same.returncode == 0 and "seed 0 was there" in same.stderr, same.stderr
    path.write_text(path.read_text().replace("integers(0, 2, 40)", "integers(0, 3, 40)"))
    code = lab("reproduce", path, "--resume", folder, cwd=tmp_path)
    assert code.returncode == 2 and "sources changed" in code.stderr and "Traceback" not in code.stderr
    assert (folder / "results.jsonl").read_bytes().startswith(before)
    none = lab("reproduce", path, "--resume", tmp_path / "none", cwd=tmp_path)
    assert none.returncode == 2 and "holds no run" in none.stderr and not (tmp_path / "none").exists()
    two = lab("reproduce", path, "natural_program", "--resume", folder, cwd=tmp_path)
    assert two.returncode == 2 and "name one" in two.stderr


def test_several_in_a_row_and_an_error_keeps_what_was_done(tmp_path):
    path = study(tmp_path, 0)
    other = tmp_path / "quick.py"
    other.write_text(path.read_text().replace("slow", "quick"))
    page = tmp_path / "deep" / "page.html"
    done = lab("reproduce", path, other, "--seeds", 2, "--report", page, cwd=tmp_path)
    assert done.returncode == 0 and "quick" in done.stdout and "slow" in done.stdout, done.stderr
    assert page.read_text().count('class="pair"') == 4
    broken = lab("reproduce", path, "nonsense", "--seeds", 2, "--json", cwd=tmp_path)
    assert broken.returncode == 2 and "nonsense" in broken.stderr and len(broken.stdout.splitlines()) == 2


# the lab's own studies, with a toy in the registry

COUNTING = """
from pathlib import Path
def calibrate(scale, folder, progress=None):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.glob('*.done')))
    for i in range(start, 20):
        (folder/f'{i}.done').touch()
        if progress: progress(i + 1, 20, f'arm {i}')
        if i == STOP: raise KeyboardInterrupt
    return {'schema': 1, 'name': 'counting', 'scale': scale, 'started_at': start, 'rows': [{'arm': 'sham', 'rate': [.01, 0., .03]}]}
def rows_of(table): return table['rows']
"""


@pytest.fixture
def counting(tmp_path, monkeypatch):
    "A function that installs the toy, stopping after step `stop`"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(reproduce.LAB, "counting", "toy_counting")
    monkeypatch.setattr(reproduce, "asset_root", lambda: tmp_path / "data")

    def install(stop=-1):
        (tmp_path / "toy_counting.py").write_text(COUNTING)
        sys.modules.pop("toy_counting", None)
        reproduce.lab_study("counting").STOP = stop
    yield install
    sys.modules.pop("toy_counting", None)


def run(*args): return CliRunner().invoke(cli_book.app, list(args))


def test_a_study_of_the_lab(counting, tmp_path):
    counting()
    got = run("reproduce", "counting", "--scale", "smoke", "--store")
    assert got.exit_code == 0 and "sham" in got.output and "0.010" in got.output, got.output
    lines = re.findall(r"^counting: \d+ of 20 arm \d+$", got.stderr, re.M)
    assert 3 <= len(lines) <= 11  # about one for each tenth, not twenty
    text = (tmp_path / "data" / "calibration" / "counting.json").read_text()
    table = json.loads(text)
    assert text == json.dumps(table, indent=1, sort_keys=True) + "\n" and table["scale"] == "smoke"
    assert json.loads(run("reproduce", "counting", "--scale", "home", "--json").stdout)["scale"] == "home"


def test_a_study_of_the_lab_is_stopped_and_resumed(counting, tmp_path):
    counting(stop=6)
    got = run("reproduce", "counting", "--scale", "smoke")
    assert got.exit_code == 130
    folder = re.search(r"--resume (\S+)", got.stderr)[1]
    assert (tmp_path / folder / "key.json").is_file()
    counting()
    other = run("reproduce", "counting", "--scale", "home", "--resume", folder)
    assert other.exit_code == 2 and "configuration changed" in other.stderr
    got = run("reproduce", "counting", "--resume", folder, "--json")
    assert got.exit_code == 0 and json.loads(got.stdout)["started_at"] == 7


def test_a_study_of_the_lab_that_is_not_there(monkeypatch):
    monkeypatch.setitem(reproduce.LAB, "counting", "reasonlab.lab.not_written")
    got = run("reproduce", "counting")
    assert got.exit_code == 2 and "not in this version" in got.stderr
    assert run("reproduce", "placebo", "--seeds", "3").exit_code == 2


# the view itself

COIN = Claim(id="toy.coin", paper="toy", text="Heads", statistic="mean", effect=.2)
TOY = Study(slug="toy", claims=(COIN,), observe=lambda scale, seed: {
    "toy.coin": Observation(dict(pred=np.random.default_rng(seed).integers(0, 2, 30), group=np.arange(30)))})


class Clock:
    now = 0.
    def monotonic(self): return self.now


def test_glances_cost_at_most_a_tenth(monkeypatch, tmp_path):
    clock, glanced = Clock(), []
    monkeypatch.setattr(live, "time", clock)

    def slow(study, rows, seeds):
        glanced.append(list(seeds)[-1])
        clock.now += 3
        return []
    monkeypatch.setattr(live, "running", slow)
    watch = live.Watch(TOY, 30, cli_book._tty(), live=True)

    def seed_done(seed, store):
        if seed is not None: clock.now += 1
        watch(seed, store)
    reproduce.run_study(TOY, seeds=30, folder=tmp_path, progress=seed_done)
    assert glanced[0] == 0 and glanced[-1] == 29 and len(glanced) <= 3
    assert sum(watch.spent) == 30  # the time of the glances is no time of the seeds


def test_stored_seeds_say_nothing_about_the_time_left(tmp_path):
    reproduce.run_study(TOY, seeds=3, folder=tmp_path)
    watch = live.Watch(TOY, 5, cli_book._tty(), live=False)
    reproduce.run_study(TOY, seeds=3, folder=tmp_path, progress=watch)
    assert watch.done == [0, 1, 2] and not watch.spent and "left" not in watch.times()


def test_a_provisional_finding_never_breaks_a_run(tmp_path):
    "One seed in which the statistic is not defined: said in the note, the run goes on"
    claim = Claim(id="toy.odd", paper="toy", text="x", statistic="mean", effect=.2, floors=("none",))
    odd = Study(slug="toy", claims=(claim,), observe=None)
    rows = {("toy.odd", 0): dict(seen=dict(rows=dict(pred=[1, 0], group=[0, 1]), preconditions={}))}
    (f,) = reproduce.running(odd, rows, [0])
    assert f.estimate is None and "floor_none" in f.note


@pytest.mark.parametrize("fresh,stored,effect", [((.1, .2, .3), (.1, .2, .3), .2), ((0, 0, 0), None, 0), ((-5, 1, 9), (8, 8, 8), 100), (None, None, 1)])
def test_interval_lines_keep_their_width(fresh, stored, effect):
    def numbers(x): return x and dict(zip(("low", "estimate", "high"), x))
    for width in (8, 24):
        both = reproduce.interval_lines(dict(fresh=numbers(fresh), stored=numbers(stored), effect=effect), width)
        assert [len(line) for line in both] == [width, width]
        assert ["●" in line for line in both] == [fresh is not None, stored is not None]
