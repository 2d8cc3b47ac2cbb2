"""The run store: killed, torn, flipped, doubled, contended."""
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reasonlab import runs

KEY = runs.run_key({"task": "squares", "n": 40})
WORK = """
import sys, time
from reasonlab import runs
with runs.Store(sys.argv[1], runs.run_key({"task": "squares", "n": 40})) as s:
    print("open", s.dropped, flush=True)
    for i in range(40):
        if (str(i), 0) in s: continue
        time.sleep(float(sys.argv[2]))
        s.append({"id": str(i), "square": i * i, "text": "é" * i}, seconds=.1)
"""


def work(folder, pause=0., **kw):
    return subprocess.Popen([sys.executable, "-c", WORK, str(folder), str(pause)], stdout=subprocess.PIPE, text=True, **kw)


def results(folder): return (folder / "results.jsonl").read_bytes()


def keyed(folder):
    runs.Store(folder, KEY).close()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert work(folder).wait(60) == 0
    return results(folder)


def test_no_time_pid_or_host_in_the_lines(whole, tmp_path):
    assert work(tmp_path).wait(60) == 0
    assert results(tmp_path) == whole
    row = json.loads(whole.splitlines()[3])
    assert set(row) == {"id", "square", "text", "sha"}
    assert len((tmp_path / "timing.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize("after", [1, 9, 30])
def test_kill_9_then_resume_gives_the_same_bytes(whole, tmp_path, after):
    p = work(tmp_path, .005)
    end = time.monotonic() + 30
    while time.monotonic() < end and (not (tmp_path / "results.jsonl").exists() or results(tmp_path).count(b"\n") < after):
        time.sleep(.002)
    os.kill(p.pid, signal.SIGKILL)
    p.wait(30)
    assert after <= results(tmp_path).count(b"\n") < 40
    assert work(tmp_path).wait(60) == 0
    assert results(tmp_path) == whole


def test_every_truncation_is_finished_to_the_same_bytes(whole, tmp_path):
    rows = [runs.from_line(line) for line in whole.splitlines()]
    for cut in range(0, len(whole), 37):
        (tmp_path / "results.jsonl").write_bytes(whole[:cut])
        with runs.Store(tmp_path, KEY) as s:
            assert s.dropped == (cut > 0 and whole[cut - 1:cut] != b"\n")
            for r in rows: s.append({k: v for k, v in r.items()})
        assert results(tmp_path) == whole


def test_every_flipped_byte_is_detected(whole, tmp_path):
    """Never read as a result: refused with the line, or (in the last newline) recomputed."""
    part = b"".join(whole.splitlines(keepends=True)[:3])
    keyed(tmp_path)
    for i in range(len(part)):
        for bit in (0, 3, 7):
            bad = bytearray(part)
            bad[i] ^= 1 << bit
            (tmp_path / "results.jsonl").write_bytes(bad)
            if i == len(part) - 1:
                with runs.Store(tmp_path, KEY) as s: assert s.dropped == 1 and len(s) == 2
                continue
            with pytest.raises(runs.DamagedLine, match="line [123].*repair=True"): runs.Store(tmp_path, KEY)
            with runs.Store(tmp_path, KEY, repair=True) as s:
                assert part.startswith(results(tmp_path)) and s.dropped >= 1


def test_a_doubled_line_is_damage(whole, tmp_path):
    """The same result twice, or two results: both are named, neither is guessed away."""
    lines = whole.splitlines(keepends=True)
    other = runs.to_line({"id": "0", "square": 7})
    for again, said in ((lines[0], "with the same result"), (other, "with another result")):
        (keyed(tmp_path) / "results.jsonl").write_bytes(lines[0] + lines[1] + again)
        with pytest.raises(runs.DamagedLine, match=f"line 3.*already there, in line 1, {said}"): runs.Store(tmp_path, KEY)
        with runs.Store(tmp_path, KEY, repair=True) as s: assert len(s) == 2
        (tmp_path / "results.jsonl").unlink()


def test_same_key_same_result_is_ignored_another_is_refused(tmp_path):
    with runs.Store(tmp_path, KEY) as s:
        assert s.append({"id": "a", "x": 1}) and not s.append({"x": 1, "id": "a"})
        assert s.append({"id": "a", "repeat": 1, "x": 2})
        with pytest.raises(ValueError, match="another result"): s.append({"id": "a", "x": 2})
        with pytest.raises(ValueError, match="JSON"): s.append({"id": "b", "x": float("nan")})
        with pytest.raises(TypeError, match="set"): s.append({"id": "b", "x": {1}})
        with pytest.raises(KeyError): s.append({"x": 1})
        with pytest.raises(ValueError, match="checksum"): s.append({"id": "b", "sha": "mine"})
        assert len(s) == 2


@pytest.mark.parametrize("part", ["configuration", "data", "sources", "model"])
def test_another_key_is_refused_and_says_what_changed(tmp_path, part):
    runs.Store(tmp_path, KEY).close()
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(runs.WrongKey, match=f"{part} changed"): runs.Store(tmp_path, KEY | {part: "other"})
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    runs.Store(tmp_path, KEY).close()  # the lock was let go


def test_two_writers(tmp_path):
    p = work(tmp_path, 1.)
    assert p.stdout.readline() == "open 0\n"
    with pytest.raises(runs.Locked, match=f"process {p.pid}"): runs.Store(tmp_path, KEY)
    p.kill()
    p.wait(30)
    runs.Store(tmp_path, KEY).close()  # a dead process holds no lock


def test_disk_full_leaves_whole_lines(tmp_path):
    """A file-size limit cuts a write short; what was written before stays, nothing half."""
    code = f"""
import resource, signal
from reasonlab import runs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
s = runs.Store({str(tmp_path)!r}, {KEY!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for i in range(99): s.append({{"id": str(i), "text": "x" * 50}})
except OSError as e: print("stopped", len(s))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.startswith("stopped"), out.stderr
    with runs.Store(tmp_path, KEY) as s:
        assert s.dropped == 0 and len(s) == int(out.stdout.split()[1]) > 3


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = runs.write_atomic(tmp_path / "a.json", "old")
    def fail(*_): raise OSError("no")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError): runs.write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_short_writes_go_on(tmp_path, monkeypatch):
    """The system may take three bytes of a write; the rest follows."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    with runs.Store(tmp_path, KEY) as s: s.append({"id": "a", "text": "x" * 99}, seconds=1)
    assert runs.write_atomic(tmp_path / "b", b"0123456789").read_bytes() == b"0123456789"
    monkeypatch.undo()
    with runs.Store(tmp_path, KEY) as s: assert len(s) == 1 and s.dropped == 0


@pytest.mark.parametrize("part", [0, 7, 10**9])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken")])
def test_append_again_after_a_write_that_stopped(tmp_path, monkeypatch, part, stop):
    """Nothing, a part or all of the line was written: the same call again leaves it there once."""
    write = runs._write
    def stopped(fd, data):
        write(fd, data[:part])
        raise stop
    with runs.Store(tmp_path, KEY) as s:
        s.append({"id": "a"})
        monkeypatch.setattr(runs, "_write", stopped)
        with pytest.raises((KeyboardInterrupt, OSError)): s.append({"id": "b"})
        assert results(tmp_path).endswith(b"\n") and len(s) == results(tmp_path).count(b"\n")
        monkeypatch.setattr(runs, "_write", write)
        assert s.append({"id": "b"}) == (part < 99) and len(s) == 2
    assert results(tmp_path) == runs.to_line({"id": "a"}) + runs.to_line({"id": "b"})


def test_a_full_disk_says_what_is_safe(tmp_path, monkeypatch):
    """One clear error, which the command line knows (a RuntimeError), and which programs know (an OSError with a number)."""
    write = runs._write
    def full(fd, data): raise OSError(errno.ENOSPC, "no")
    with runs.Store(tmp_path, KEY) as s:
        s.append({"id": "a"})
        monkeypatch.setattr(runs, "_write", full)
        with pytest.raises(runs.NoRoom, match="1 results are whole and safe.*Make room.*results.jsonl") as e: s.append({"id": "b"})
        assert e.value.errno == errno.ENOSPC and isinstance(e.value, RuntimeError)
        with pytest.raises(runs.NoRoom, match="the file is as it was.*a.json"): runs.write_atomic(tmp_path / "a.json", "x")
        monkeypatch.setattr(runs, "_write", write)
    assert not (tmp_path / "a.json").exists() and not list(tmp_path.glob(".*"))
    monkeypatch.setattr(runs, "_write", full)
    with pytest.raises(runs.NoRoom, match="what is in this folder is safe"): runs.Store(tmp_path, KEY)


def test_a_lost_time_is_a_warning_and_no_more(tmp_path, monkeypatch):
    """The result is in before its time is written; a torn time is cut on opening, and glues to nothing."""
    write = runs._write
    def no_times(fd, data):
        if b"seconds" in data:
            write(fd, data[:9])
            raise OSError(errno.ENOSPC, "full")
        write(fd, data)
    with runs.Store(tmp_path, KEY) as s:
        monkeypatch.setattr(runs, "_write", no_times)
        with pytest.warns(UserWarning, match="timing.jsonl.*the result is safe"): assert s.append({"id": "a"}, seconds=1)
        monkeypatch.setattr(runs, "_write", write)
        s.append({"id": "b"}, seconds=-1)
    with open(tmp_path / "timing.jsonl", "a") as f: f.write('{"id":"c","rep')
    with runs.Store(tmp_path, KEY) as s: s.append({"id": "d"}, seconds=2)
    assert len(s) == 3
    times = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert [(t["id"], t["seconds"]) for t in times] == [("b", 0), ("d", 2)]


@pytest.mark.parametrize("text", ["", "[]", "3", '{"configuration": ', "\xff"])
def test_an_unreadable_key_is_refused(tmp_path, text):
    keyed(tmp_path)
    (tmp_path / "key.json").write_text(text, encoding="latin-1")
    with pytest.raises(runs.WrongKey, match="cannot be read|holds another run"): runs.Store(tmp_path, KEY)
    assert (tmp_path / "key.json").read_text(encoding="latin-1") == text


def test_results_of_nobody_knows_what_are_refused(whole, tmp_path):
    (tmp_path / "results.jsonl").write_bytes(whole)
    with pytest.raises(runs.WrongKey, match="no key.json"): runs.Store(tmp_path, KEY)
    assert results(tmp_path) == whole and not (tmp_path / "key.json").exists()


def test_what_the_dead_left_is_swept_and_the_living_are_let_be(tmp_path):
    p = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(30)
    def left(pid, host=runs._HERE): return tmp_path / f".key.json.{host}.{pid}.0.tmp"
    mine = [left(p.pid), left(os.getpid()), left(gone.pid, "0a1b2c"), tmp_path / ".key.json.tmp"]
    for path in [*mine, left(gone.pid)]: path.write_text("half")
    keyed(tmp_path)
    assert all(path.exists() for path in mine) and not left(gone.pid).exists()
    p.communicate(b"\n", timeout=30)
    keyed(tmp_path)
    assert not left(p.pid).exists()


def test_new_names_are_synced_and_only_what_is_new(tmp_path, monkeypatch):
    """The folder is synced after each new file; closing an unchanged store syncs nothing."""
    seen, sync = [], os.fsync
    def spy(fd):
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        sync(fd)
    monkeypatch.setattr(os, "fsync", spy)
    with runs.Store(tmp_path / "run", KEY) as s: s.append({"id": "a"})
    assert seen.count("run") == 3 and seen[-1] == "results.jsonl"
    seen.clear()
    keyed(tmp_path / "run")
    assert not seen


@pytest.mark.parametrize("step,most,least", [(.01, 12, 9), (2., 101, 100), (-.5, 101, 100)])
def test_syncs_follow_the_clock_not_the_rows(tmp_path, monkeypatch, step, most, least):
    """A hundred and more rows a second: one sync a second. A clock that runs backwards: never none."""
    now, seen, sync = [100.], [], os.fsync
    with runs.Store(tmp_path, KEY) as s:
        s._synced = 100.
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(fd), sync(fd)))
        for i in range(1000 if step == .01 else 100):
            now[0] += step
            s.append({"id": str(i)})
    assert least <= len(seen) <= most


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_that_cannot_lock_is_refused(tmp_path, monkeypatch, number):
    def no(*_): raise OSError(number, "no locks")
    monkeypatch.setattr(fcntl, "flock", no)
    with pytest.raises(OSError, match="cannot lock: give a folder on another one"): runs.Store(tmp_path, KEY)
    assert not (tmp_path / "key.json").exists()


def test_a_fork_neither_writes_nor_holds_the_lock(tmp_path):
    code = f"""
import os, time
from reasonlab import runs
s = runs.Store({str(tmp_path)!r}, {KEY!r})
if os.fork() == 0:
    try: s.append({{"id": "child"}})
    except ValueError as e: print(os.getpid(), e, flush=True)
    s.close()
    time.sleep(60)
time.sleep(60)
"""
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child, said = p.stdout.readline().split(" ", 1)
    assert "not open in this process" in said
    p.kill()
    p.wait(30)
    with runs.Store(tmp_path, KEY) as s: assert len(s) == 0
    os.kill(int(child), signal.SIGKILL)
    p.stdout.close()


def test_ids_come_back_as_they_went(tmp_path):
    with runs.Store(tmp_path, KEY) as s:
        s.append({"id": np.int64(3), "repeat": np.int64(1), "x": np.arange(2)})
        for bad in ((1, 2), None, {"a": 1}):
            with pytest.raises(ValueError, match="text or numbers"): s.append({"id": bad})
        before = s.rows
    with runs.Store(tmp_path, KEY) as s: assert s.rows == before and (3, 1) in s


def test_odd_text_survives(tmp_path):
    odd = {"id": "\u2028\r\n\x00\ud800 \U0001f600", "x": [1e-300, 1e300, -0., 2**70]}
    with runs.Store(tmp_path, KEY) as s: s.append(odd)
    with runs.Store(tmp_path, KEY) as s: assert list(s.rows.values()) == [odd] and s.dropped == 0


def test_source_hash_follows_imports_inside_functions(tmp_path, monkeypatch):
    pkg = tmp_path / "pkgx"
    (pkg / "sub").mkdir(parents=True)
    (pkg / "__init__.py").write_text("from .low import z\n")
    (pkg / "low.py").write_text("z = 1\n")
    (pkg / "sub" / "__init__.py").write_text("")
    (pkg / "sub" / "top.py").write_text("def f():\n    from ..low import z\n    from . import side\n    import json\n")
    (pkg / "sub" / "side.py").write_text("raise RuntimeError('must not be imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(runs.sources("pkgx.sub.top")) == {"pkgx.sub.top", "pkgx.low", "pkgx.sub.side", "pkgx.sub"}
    before = runs.source_hash("pkgx.sub.top")
    (pkg / "low.py").write_text("z = 2\n")
    assert runs.source_hash("pkgx.sub.top") != before
