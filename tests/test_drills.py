"""The fire drills, a few of each; and that each can fail: with a virtue of the store taken away, the drill notices."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reasonlab import core, runs
from reasonlab.lab import drills, faults
from reasonlab.lab.drills import Drill, Real, calibrate, counted, damage, rows_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are planted through /proc and fork")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    pytest.importorskip("torch", reason="the extra [models] is not installed")
    return Real(tmp_path_factory.mktemp("room"))


def held(done):
    n, ok, note = done
    assert n and n == ok, note
    return note


@pytest.mark.parametrize("i", range(3))
def test_kill_9_at_a_random_byte(room, i): held(drills.kill(i, room))


@pytest.mark.parametrize("file", ["results.jsonl", "timing.jsonl", "natural_program.json"])
def test_kill_9_in_every_kind_of_file(room, file):
    assert held(drills.kill(0, room, file))["file"] == file


def test_every_byte_that_is_written_is_counted(room):
    """The trap sees what the disk has: nothing is written past it."""
    written = {}
    for name, n in room.whole["log"]: written[name] = written.get(name, 0) + n
    on_disk = {p.name: p.stat().st_size for p in room.whole["folder"].rglob("*") if p.is_file()}
    assert set(written) == {*on_disk, "checkpoint.safetensors"}
    assert all(written[name] == n for name, n in on_disk.items())


@pytest.mark.parametrize("drill", [drills.kill_again, drills.no_room, drills.limited, drills.race, drills.clock, drills.changed,
                                   drills.seeds_apart], ids=lambda d: d.__name__)
def test_drill(room, drill): held(drill(0, room))


@pytest.mark.parametrize("inside", [True, False])
def test_interrupt(room, inside): held(drills.interrupt(0, room, inside))


def test_a_full_file_system(room):
    n, ok, note = drills.full_disk(0, room)
    if not n: pytest.skip(note["why"])
    assert ok, note


@pytest.mark.parametrize("job,every", [("instructions_job", 40), ("atomic_job", 10), ("again_job", 4), ("orphan_job", None)])
def test_small_drills(room, job, every):
    held(counted(0, room, job, **({"every": every} if every else {})))


@pytest.mark.parametrize("job,options", [("flipped_job", {}), ("cut_job", {"every": 20}), ("doubled_job", {})])
def test_damage(room, job, options): held(damage(0, room, job, **options))


def test_another_hash_seed_gives_the_same_bytes(room, tmp_path):
    code = f"from reasonlab.lab import drills; drills.study_job({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "12345"},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert drills.state(tmp_path) == room.whole["state"]


def test_a_training_goes_on_inside_a_seed(tmp_path, monkeypatch):
    """Stopped after the second network of five, the seed trains three more and ends in the same rows."""
    pytest.importorskip("torch", reason="the extra [models] is not installed")
    from reasonlab.models import train
    from reasonlab.verification import local_whole as lw
    rows, steps, update, accepts = lw.world_rows.__wrapped__, [], train._update, []
    monkeypatch.setattr(train, "_update", lambda *a: (steps.append(1), update(*a))[1])
    whole = rows("smoke", 4)
    assert len(steps) == 30
    judge = lw._accepts
    def stops(*a):
        accepts.append(1)
        if len(accepts) == 3: raise KeyboardInterrupt
        return judge(*a)
    monkeypatch.setattr(lw, "_accepts", stops)
    with pytest.raises(KeyboardInterrupt): rows("smoke", 4, tmp_path)
    del steps[:]
    again = rows("smoke", 4, tmp_path)
    assert len(steps) == 12 and all((whole[k] == again[k]).all() for k in whole)


# --- a drill that cannot fail is worth nothing: the same drills on a store without one of its virtues ---

BROKEN = {
    "the torn tail stays": ("cut_job", "keep = runs._read\nruns._read = lambda p, r: (keep(p, r)[0], p.stat().st_size if p.exists() else 0, 0)"),
    "no checksum": ("flipped_job", """
def read(line):
    try: row = json.loads(line)
    except ValueError: raise runs.DamagedLine('not JSON') from None
    if not isinstance(row, dict) or row.pop('sha', None) is None: raise runs.DamagedLine('no checksum')
    return row
runs.from_line = read"""),
    "a line twice is not minded": ("doubled_job", """
def read(path, repair):
    lines = path.read_bytes().splitlines(True) if path.exists() else []
    return {(r['id'], r.get('repeat', 0)): r for r in map(runs.from_line, lines)}, sum(map(len, lines)), 0
runs._read = read"""),
    "nothing settles": ("again_job", """
def late(self):
    if self._pending: self.rows[self._pending[0]], self.size = self._pending[1:]
    self._pending = None
runs._Writer._settle = late"""),
    "written in place": ("atomic_job", """
def in_place(path, data):
    with open(path, 'wb', buffering=0) as f: runs._write(f.fileno(), data.encode())
runs.write_atomic = in_place"""),
}
SCRIPT = """
import json, sys, tempfile
from reasonlab import runs
from reasonlab.lab import drills, faults
faults.FAULTS['no_sync'](1)
BREAK
lines = [runs.to_line(dict(id=str(k), x='x' * 5 * k)).decode() for k in range(5)]
job, damage = sys.argv[1], hasattr(faults, sys.argv[1])
options = dict(lines=lines, key=runs.run_key({})) if damage else dict(every=3)
print(*getattr(faults if damage else drills, job)(tempfile.mkdtemp(dir=sys.argv[2]), **options))
"""


def drilled(job, folder, broken=""):
    r = subprocess.run([sys.executable, "-c", SCRIPT.replace("BREAK", broken), job, str(folder)], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    return tuple(map(int, r.stdout.split()))


@pytest.mark.parametrize("job,broken", BROKEN.values(), ids=BROKEN)
def test_a_store_without_a_virtue_is_found_out(tmp_path, job, broken):
    n, ok = drilled(job, tmp_path)
    assert n == ok > 10
    n, ok = drilled(job, tmp_path, broken)
    assert ok < n, f"{job} held {ok} of {n} times without noticing"


def test_seeds_that_lean_on_each_other_are_found_out(tmp_path, monkeypatch):
    """The drill `seeds_apart`, in this process: other random states before each seed stand for other processes."""
    pytest.importorskip("torch", reason="the extra [models] is not installed")
    from contextlib import nullcontext

    from reasonlab import claims
    def apart(name):
        one, many = tmp_path / f"{name}-one", tmp_path / f"{name}-many"
        drills.global_job(one, 3)
        for n in range(1, 4):
            core.seed_all(n + 50)
            drills.global_job(many, n)
        return (one / "results.jsonl").read_bytes() == (many / "results.jsonl").read_bytes()
    assert apart("whole")
    monkeypatch.setattr(claims, "_seeded", lambda seed: nullcontext())
    assert not apart("broken")


def test_a_study_that_resumes_wrongly_is_found_out(room, monkeypatch):
    """`Real.resumed` compares: one byte, one number, one file too many."""
    def spoilt(change):
        def child(self, job, folder, faults=None, **_):
            for p in room.whole["folder"].rglob("*"):
                to = folder / p.relative_to(room.whole["folder"])
                if p.is_dir(): to.mkdir(parents=True, exist_ok=True)
                else: to.write_bytes(p.read_bytes())
            change(folder)
            return {"value": 1}
        monkeypatch.setattr(Real, "child", child)
        return room.resumed(room.fresh())
    def edit(name, old, new):
        def change(folder):
            p = next(folder.rglob(name))
            p.write_text(p.read_text().replace(old, new, 1))
        return change
    assert spoilt(lambda folder: None) == ""
    assert "results.jsonl" in spoilt(edit("results.jsonl", "1", "2"))
    assert "findings" in spoilt(edit("natural_program.json", '"estimate": 0.', '"estimate": 1.'))
    assert spoilt(edit("natural_program.json", '"seconds": ', '"seconds": 9')) == ""
    assert "left.tmp" in spoilt(lambda folder: (folder / "findings" / ".left.tmp").write_text(""))


# --- the table ---

def test_calibrate_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    done, stop = [], [True]
    def do(i, room):
        done.append(i)
        return 3, 3 - (i == 1), dict(file="a", at=i, why="" if i != 1 else "planted")
    monkeypatch.setattr(drills, "DRILLS", (Drill("kill -9 at a toy", "nothing", (2, 3, 4), do, "toy"),
                                           Drill("none", "skipped", (1, 1, 1), lambda i, room: (0, 0, dict(why="no root")), "toy")))
    monkeypatch.setattr(drills, "_cost", lambda name, room: dict(share=.01, store_share=.004, files_share=.006, n=2))
    seen = []
    def progress(n, total, text):
        seen.append((n, total))
        if n == 2 and stop: stop.clear(); raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): calibrate("home", tmp_path, progress)
    table = calibrate("home", tmp_path, progress)
    assert done == [0, 1, 2] and seen[-1] == (7, 7)
    assert table["rows"] == [
        dict(drill="kill -9 at a toy", study="toy", runs=9, held=8, what="nothing", why="planted"),
        dict(drill="none", study="toy", runs=0, held=0, what="no root", why="no root")]
    assert table["overhead"]["share"] == .01 and len(table["kills"]) == 3
    assert [r["held"] for r in rows_of(table)] == [8, 0, 2, 2, 2]
    with pytest.raises(runs.WrongKey): calibrate("smoke", tmp_path)


def test_the_stored_table_is_whole():
    table = json.loads(core.asset("calibration/drills.json").read_text(encoding="utf-8"))
    assert (table["schema"], table["name"], table["scale"]) == (1, "drills", "full")
    assert [r["drill"] for r in table["rows"]] == [d.name for d in drills.DRILLS]
    kills = next(r for r in table["rows"] if r["drill"] == "kill -9 at a random byte")
    assert kills["runs"] == kills["held"] == 50
    assert all(r["held"] == r["runs"] and not (r["runs"] and r["why"]) for r in table["rows"])
    assert table["overhead"]["study"].startswith("natural_program, home") and table["overhead"]["share"] < .02
    assert sum(k["held"] for k in table["kills"]) == len(table["kills"]) >= 50


def test_the_trap_lets_through_what_it_says(tmp_path, monkeypatch):
    for after in (0, 3, 9, 10, 14):
        path = tmp_path / f"{after}"
        with open(path, "wb", buffering=0) as f:
            trap = faults.Trap(after, spring="ENOSPC")
            with pytest.raises(OSError):
                for _ in range(3): trap(f.fileno(), b"0123456789")
        assert path.stat().st_size == after


def test_the_draws_reach_every_file():
    """Uniform over all bytes: the same draw that the kills use."""
    log = [("a", 10), ("b", 30), ("a", 60)]
    at = [drills._file_at(log, int(x), None) for x in np.random.default_rng(0).integers(100, size=4000)]
    assert abs(at.count("b") / 4000 - .3) < .03 and drills._file_at(log, 69, "a") == "a" and Path(faults.__file__).exists()
