"""Time and size of an installation in a new environment: python benchmarks/install.py [core] [space] [all]

Installs the serving core, the requirements.txt of the Space, and all extras ([all]), and writes
benchmarks/results/install.json. The time includes downloads, so report your connection with it. Not part of
`make bench`.
"""

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
    "Install into a new environment; its time and size"
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
