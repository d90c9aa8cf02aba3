"""Read and check 2,000, 20,000 and 200,000 clips: python benchmarks/scale.py [--sizes 2000 20000 200000]

Runs each size in a new process, on synthetic metadata and short files (0.25 s, 8 kHz). One clip in 500 is a quieter,
noisier copy of another one. Prints a table (seconds, peak memory, copies found) and writes benchmarks/scale.json.
200,000 clips need 0.9 GB of disk space during the run.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RATE, SAMPLES, LABELS, COPIES = 8000, 2000, 200, 500
HERE = Path(__file__).parent
HEADER = struct.pack(
    "<4sI4s4sIHHIIHH4sI",
    b"RIFF",
    36 + 2 * SAMPLES,
    b"WAVE",
    b"fmt ",
    16,
    1,
    1,
    RATE,
    2 * RATE,
    2,
    16,
    b"data",
    2 * SAMPLES,
)


def make(folder: Path, clips: int) -> int:
    "Write `clips` audio files and clips.csv into `folder`; returns the number of copies"
    rng, t, batch = np.random.default_rng(0), np.arange(SAMPLES)/RATE, 1000
    rows, copies = ["fname,label,manually_verified,freesound_id"], 0
    for first in range(0, clips, batch):
        n = min(batch, clips-first)
        sounds = .02*rng.standard_normal((n, SAMPLES))
        for _ in range(4):
            pitch = rng.uniform(150, 3800, (n, 1))
            decay = rng.uniform(2, 40, (n, 1))
            start = rng.uniform(0, 0.2, (n, 1))
            level = rng.uniform(0.05, 1, (n, 1))
            sounds += level*np.sin(2*np.pi*pitch*t)*np.exp(-decay*np.maximum(t-start, 0))*(t > start)
        sounds *= .7/np.abs(sounds).max(1, keepdims=True)
        again = np.arange(COPIES-1, n, COPIES)
        sounds[again] = .5*sounds[again-1]+.0005*rng.standard_normal((len(again), SAMPLES))
        copies += len(again)
        out = folder/f"{first//batch:03}"
        out.mkdir()
        for i, sound in enumerate((32767 * sounds).astype("<i2")):
            (out / f"{first + i}.wav").write_bytes(HEADER + sound.tobytes())
        rows += [
            f"{out.name}/{first + i}.wav,label{rng.integers(LABELS):03},"
            f"{int(rng.random() < 0.4)},{rng.integers(clips * 3 // 4)}"
            for i in range(n)
        ]
    (folder/"clips.csv").write_text("\n".join(rows))
    return copies


def peak_mb() -> float: return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, 1)


def worker_peak_mb() -> float:
    "Peak memory of any child process in MB (Linux)"
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    status = [Path(f"/proc/{pid}/status").read_text() for pid in children]
    return max((round(int(re.search(r"VmHWM:\s+(\d+)", s)[1])/1024, 1) for s in status if "VmHWM" in s), default=0.)


def measure_size(clips: int, workers: int) -> dict:
    "Time each step once, in this process"
    from joblib.externals.loky import get_reusable_executor

    from audiotag import checks
    from audiotag.datasets import assign_folds, assign_splits, read_csv
    folder, seconds = Path(tempfile.mkdtemp(prefix="scale-")), {}

    def timed(name, function, *args, **kw):
        start = time.perf_counter()
        result = function(*args, **kw)
        seconds[name] = seconds.get(name, 0)+time.perf_counter()-start
        return result
    try:
        copies, before = timed("make", make, folder, clips), peak_mb()
        table = timed("read", read_csv, folder/"clips.csv")
        table = timed("split", lambda: assign_folds(assign_splits(table, .1, .1)))
        table_peak, near_duplicates = peak_mb(), checks.near_duplicates
        checks.near_duplicates = lambda fingerprints: timed("search", near_duplicates, fingerprints)
        cpu = sum(os.times()[:4])
        found = timed("check", checks.check, table, workers=workers)
        worker_peak = worker_peak_mb() # joblib reuses its processes
        get_reusable_executor().shutdown(wait=True)
        seconds["check_cpu"] = sum(os.times()[:4])-cpu
        pairs = {frozenset(group) for group in found.issues["near_duplicates"]}
        hits = sum(
            frozenset((f"{i // 1000:03}/{i - 1}", f"{i // 1000:03}/{i}")) <= group
            for i in range(COPIES - 1, clips, COPIES)
            for group in pairs
            if f"{i // 1000:03}/{i}" in group
        )
        return {
            "clips": clips,
            **{f"{k}_s": round(v, 2) for k, v in seconds.items() if k != "make"},
            "imported_mb": before,
            "table_peak_mb": table_peak,
            "peak_mb": peak_mb(),
            "worker_peak_mb": worker_peak,
            "copies": copies,
            "copies_found": hits,
            "groups_found": len(pairs),
        }
    finally: shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 20000, 200000])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one: return print(json.dumps(measure_size(args.sizes[0], args.workers)))
    rows = []
    heads = ("clips", "read s", "split s", "check s", "of CPU", "search s", "clips/s", "peak MB")
    print(*(f"{head:>8}" for head in heads), f"{'a worker':>9} {'copies found':>13}")
    for size in args.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(size), "--workers", str(args.workers)]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(HERE.parent)}, stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(row := json.loads(done.stdout.splitlines()[-1]))
        print(
            f"{row['clips']:8} {row['read_s']:8.2f} {row['split_s']:8.2f} {row['check_s']:8.1f} "
            f"{row['check_cpu_s']:8.1f} {row['search_s']:8.1f} {size / row['check_s']:8.0f} {row['peak_mb']:8.0f} "
            f"{row['worker_peak_mb']:9.0f} {row['copies_found']:6} of {row['copies']:3}"
        )
    machine = {"cores": args.workers, "python": platform.python_version(), "system": platform.system()}
    (HERE/"scale.json").write_text(json.dumps({"machine": machine, "sizes": rows}, indent=1)+"\n")


if __name__ == "__main__": main()
