"""Fuzz a parser with atheris: python tests/fuzz/run.py TARGET --seconds 600   (all: every parser, one after the other)

New inputs go to runs/fuzz/TARGET, so a later run goes on where this one stopped. --keep moves the smallest inputs that reach
everything into tests/fuzz/corpus/TARGET, which tests/test_fuzz.py replays without atheris. --store writes data/calibration/fuzz.json."""
import argparse
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MOST, BYTES = 200, 300_000  # files and bytes of one kept corpus
SLOW = 20                   # seconds that one input may take before it counts as a hang


def child(name, flags):
    "The fuzzer itself; it never returns"
    import atheris
    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["reasonlab"]):
        import targets
    fn = targets.TARGETS[name]
    atheris.Setup([sys.argv[0], *flags], fn)
    atheris.Fuzz()


def fuzzer(name, *flags):
    "Run it in a process of its own and pass its log through"
    call = [sys.executable, __file__, name, "--child", "--", *map(str, flags)]
    log = []
    with subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace") as p:
        for line in p.stderr:
            log.append(line)
            if not re.match(r"#\d+\s+(NEW|REDUCE|pulse)", line): sys.stderr.write(line)
    return p.returncode, "".join(log)


def arcs(fn, blob):
    "Pairs of lines of the package that one input runs after each other"
    seen, last = set(), {}

    def trace(frame, event, arg):
        if "reasonlab" not in frame.f_code.co_filename: return None
        if event == "line":
            seen.add((frame.f_code, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return trace
    sys.settrace(trace)
    try: fn(blob)
    finally: sys.settrace(None)
    return seen


def keep(name, fn):
    "The smallest inputs that reach everything, beside the seeds and all that once broke something"
    home, seen, size = HERE / "corpus" / name, set(), 0
    found = {p.read_bytes(): p.name for d in (ROOT / "runs" / "fuzz" / name, home) for p in d.iterdir()}
    for p in home.iterdir(): p.unlink()
    for blob in sorted(found, key=lambda b: (not found[b].startswith(("crash-", "seed-")), len(b), b)):
        new = arcs(fn, blob) - seen
        if not new and not found[blob].startswith(("crash-", "seed-")): continue
        size, seen = size + len(blob), seen | new
        if size > BYTES * .9 or len([*home.iterdir()]) > MOST - 10: break
        (home / (found[blob][:22])).write_bytes(blob)


def store(row):
    "Put one row into data/calibration/fuzz.json"
    from reasonlab.runs import write_atomic
    path = ROOT / "data" / "calibration" / "fuzz.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = sorted([r for r in rows if r["target"] != row["target"]] + [row], key=lambda r: r["target"])
    write_atomic(path, json.dumps(dict(schema=1, name="fuzz", rows=rows), indent=1, sort_keys=True) + "\n")


def fuzz(name, seconds, seed):
    "One run; its row, and the inputs that broke the parser"
    home, work = HERE / "corpus" / name, ROOT / "runs" / "fuzz" / name
    bad = work.with_name(f"{name}.bad")
    for p in (work, home, bad): p.mkdir(parents=True, exist_ok=True)
    old = set(bad.iterdir())
    code, log = fuzzer(name, f"-max_total_time={seconds}", f"-timeout={SLOW}", "-max_len=2000", "-rss_limit_mb=4000", f"-seed={seed}",
                       f"-dict={HERE / 'tokens.dict'}", f"-artifact_prefix={bad}/", work, home)
    done, new = re.search(r"Done (\d+) runs in (\d+) second", log), sorted(set(bad.iterdir()) - old)
    if code: print(f"the fuzzer ended with status {code}", file=sys.stderr)
    for p in new: print(f"{p.relative_to(ROOT)}: {p.read_bytes()[:200]!r}", file=sys.stderr)
    return dict(target=name, engine=f"atheris {importlib.metadata.version('atheris')}", seconds=int(done[2]) if done else 0,
                runs=int(done[1]) if done else 0, corpus=len([*home.iterdir()]), crashes=len(new) or int(code != 0))


def main(argv):
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("target")
    ask.add_argument("--seconds", type=int, default=600)
    ask.add_argument("--seed", type=int, default=0, help="0 draws one")
    ask.add_argument("--keep", action="store_true", help="make the kept corpus anew from all that was found")
    ask.add_argument("--store", action="store_true", help="write the row of data/calibration/fuzz.json")
    said = ask.parse_args(argv)
    sys.path.insert(0, str(HERE))
    from targets import TARGETS
    names = [*TARGETS] if said.target == "all" else [said.target]
    if said.target not in (*TARGETS, "all"): ask.error(f"no target {said.target}; there are all, {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None: ask.error("atheris is missing: pip install -c constraints.txt atheris, or make fuzz")
    crashes = 0
    for name in names:
        row = fuzz(name, said.seconds, said.seed)
        if said.keep:
            keep(name, TARGETS[name])
            row["corpus"] = len([*(HERE / "corpus" / name).iterdir()])
        print(json.dumps(row), flush=True)
        crashes += row["crashes"]
        if said.store: store(row)
    return int(crashes > 0)


if __name__ == "__main__":
    if "--child" in sys.argv: child(sys.argv[1], sys.argv[sys.argv.index("--") + 1:])
    else: sys.exit(main(sys.argv[1:]))
