"What `pip install` gets: every module, every shipped file, and nothing of the workshop"
import shutil
import subprocess
import sys
import zipfile

from book import ROOT

PARTS = ("reasonlab", "data", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def test_the_wheel_holds_library_and_data_only(tmp_path):
    source = tmp_path / "a folder"  # a build leaves traces, and a space in the path must not matter
    source.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    call = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel: held = set(wheel.namelist())
    files = [p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    modules = {p.relative_to(source).as_posix() for p in files if p.is_relative_to(source / "reasonlab") and p.suffix == ".py"}
    shipped = {f"reasonlab/_assets/{p.relative_to(source / 'data').as_posix()}" for p in files if p.is_relative_to(source / "data")}
    assert modules | shipped <= held, f"not in the wheel: {sorted((modules | shipped) - held)}"
    rest = {n for n in held - modules - shipped if ".dist-info/" not in n}
    assert not rest, f"in the wheel, and should not be: {sorted(rest)}"
