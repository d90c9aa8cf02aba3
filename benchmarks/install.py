"""Seconds and megabytes of an installation, each in a fresh environment: python benchmarks/install.py

The Space's requirements.txt, the serving core, and the whole ([all]); writes benchmarks/results/install.json. Downloads count: say what line you are on. Not part of `make bench`."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
WHAT = {"core": ["."], "space": ["-r", "requirements.txt"], "all": ["-e", ".[all]"]}


def install(what: list[str]) -> dict:
    "A new environment, pip install, and what it weighs"
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "env/bin/python"
        subprocess.run([sys.executable, "-m", "venv", Path(folder) / "env"], check=True)
        empty, start = weight(python.parent.parent), time.perf_counter()
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt", *what],
            check=True,
            cwd=ROOT,
        )
        return {"seconds": round(time.perf_counter() - start, 1), "megabytes": weight(python.parent.parent) - empty}


def weight(folder: Path) -> int:
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(WHAT), help="core, space, all")
    file = HERE / "results/install.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for name in parser.parse_args().what:
        found[name] = install(WHAT[name])
        print(name, found[name], flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
