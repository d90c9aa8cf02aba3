"""Run all benchmarks: python benchmarks/run.py [ROW ...] [--device cuda] (or make bench)

Each row is a script (row_NAME.py), run in a new process, that times audiotag and its baselines in turn. Writes
benchmarks/results/bench.json and benchmarks/RESULTS.md. If a row fails or times out, the reason is written instead and
the other rows continue. BENCH_QUICK=1 tests the scripts on a few clips and writes nothing.
"""

import argparse
import json
import os
import sys
import time

from common import CORES, HERE, QUICK, afresh, machine
from report import report

ROWS = {  # timeout in seconds
    "images": 180,
    "logmel": 120,
    "loader": 300,
    "latency": 180,
    "day": 420,
    "page": 120,
    "start": 90,
    "workers": 240,
    "growth": 300,
    "curves": 1000,
    "gpu": 900,
}


def measure(name: str) -> dict:
    "The parts of a row, or the reason why it failed"
    start = time.perf_counter()
    try:
        parts = afresh(f"row_{name}.py", timeout=ROWS[name])
    except Exception as error:  # noqa: BLE001
        parts = [{"what": name, "failed": str(error).replace(str(HERE), "benchmarks")[:300] or type(error).__name__}]
    return {"row": name, "seconds": round(time.perf_counter() - start, 1), "parts": parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="run only these; the others keep their results")
    parser.add_argument("--device", default=os.environ.get("DEVICE") or "cpu")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        sys.exit(f"no row is called {min(unknown)}: choose from {', '.join(ROWS)}")
    os.environ["DEVICE"] = args.device
    file, began = HERE / "results/bench.json", time.perf_counter()
    before = {r["row"]: r for r in json.loads(file.read_text())["rows"]} if args.rows and file.exists() else {}
    about = machine()
    for name in args.rows or ROWS:
        before[name] = measure(name)
        said = [
            part.get("failed") or part.get("skipped") or part.get("ratios") or "done" for part in before[name]["parts"]
        ]
        print(f"{name:8} {before[name]['seconds']:6.1f} s  {'; '.join(map(str, said))}", flush=True)
    result = {
        "command": "make bench" + (f" DEVICE={args.device}" if args.device != "cpu" else ""),
        "device": args.device,
        "cores": CORES,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "machine": about,
        "rows": [before[name] for name in ROWS if name in before],
    }
    text = report(result)
    if QUICK: return print(text)
    file.write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "RESULTS.md").write_text(text)
    print(f"benchmarks/RESULTS.md: written after {result['minutes']} minutes")


if __name__ == "__main__": main()
