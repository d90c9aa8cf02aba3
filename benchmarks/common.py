"Shared by the rows of `make bench`: clips, timing in turn, and the format of a row"
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
DATA = Path(os.environ.get("AUDIOTAG_DATA", ROOT / "data"))
WEIGHTS = DATA / "mn04_as_mAP_432.pt"
QUICK = bool(os.environ.get("BENCH_QUICK"))  # a few clips and seconds per row: to test the scripts, not for results
DEVICE = os.environ.get("DEVICE", "cpu")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PACKAGES = (
    "torch",
    "torchaudio",
    "fastai",
    "fastxtend",
    "librosa",
    "soundfile",
    "soxr",
    "onnxruntime",
    "numpy",
    "pillow",
    "scikit-learn",
    "ray",
)


@lru_cache
def made() -> Path:
    "Generate the synthetic datasets, which replace missing real ones"
    from audiotag.synthetic import make_synthetic
    folder = Path(tempfile.gettempdir()) / "audiotag-bench-synthetic"
    return make_synthetic(folder, fsd_clips=300, urban_clips=600, progress=False)


def clips(name: str) -> tuple["pandas.DataFrame", str]:  # noqa: F821  name: fsdkaggle2018 or urbansound8k
    "The table of a dataset and a description: real clips if they are in `DATA`, otherwise synthetic ones"
    from audiotag.datasets import DatasetError, read_dataset
    try: table, kind = read_dataset(name, DATA), "real"
    except DatasetError: table, kind = read_dataset(name, made()), "synthetic"
    table = table.reset_index(drop=True)
    title = {"fsdkaggle2018": "FSDKaggle2018", "urbansound8k": "UrbanSound8K"}[name]
    return table, f"{kind} {title} clips"


def take(table, n: int, seed: int = 0):
    "Sample `n` clips of a table, or all if it has fewer; a tenth in a quick run"
    n = max(8, n // 10) if QUICK else n
    return table.sample(min(n, len(table)), random_state=seed).reset_index(drop=True)


@contextmanager
def pinned(threads: int = 1):
    "Limit BLAS, OpenMP and torch to this number of threads"
    import torch
    from threadpoolctl import threadpool_limits
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads): yield
    finally: torch.set_num_threads(before)


def alternate(
    ways: dict[str, Callable[[], object]], rounds: int, each: float = 1.0
) -> dict[str, dict]:  # each: what one call is divided by
    "Time each function once per round, in turn, after a warm-up call; median, minimum and maximum in milliseconds"
    for way in ways.values(): way()
    seconds = {name: [] for name in ways}
    for _ in range(2 if QUICK else rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append((time.perf_counter() - start) / each)
    return {name: spread(times) for name, times in seconds.items()}


def spread(seconds: list[float]) -> dict[str, float]:
    "Median and range in milliseconds"
    return {
        "median_ms": round(1e3 * statistics.median(seconds), 4),
        "low_ms": round(1e3 * min(seconds), 4),
        "high_ms": round(1e3 * max(seconds), 4),
        "runs": len(seconds),
    }


def row(
    what: str,
    on: str,
    times: dict[str, dict],
    ours: str,
    aims: dict[str, float] | None = None,
    limits: tuple[str, ...] = (),
    **more,
) -> dict:  # aims: peer -> factor; limits: names in `times`
    "One row of the report, from the times that `alternate` returns"
    base = times[ours]["median_ms"]
    peers = [name for name in times if name != ours and name not in limits]
    return {
        "what": what,
        "on": on,
        "ours": ours,
        "times": times,
        "ratios": {name: round(times[name]["median_ms"] / base, 2) for name in peers},
        "aims": aims or {},
        "limits": {name: round(base / times[name]["median_ms"], 2) for name in limits},
        **more,
    }


def afresh(script: str, *args: str, timeout: float = 600) -> dict | list:
    "Run a script of this folder in a new process and parse the last line of its output as JSON"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / script), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if done.returncode: raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    "Peak memory of this process or of its children, whichever is larger, in MB"
    import resource

    return round(
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    )


def machine() -> dict:
    "The hardware and software that the results were measured on"
    def found(path: str, key: str) -> str:
        try:
            return next(
                line.split(":", 1)[1].strip() for line in Path(path).read_text().splitlines() if line.startswith(key)
            )
        except (OSError, StopIteration):
            return "unknown"
    installed = {}
    for name in PACKAGES:
        try: installed[name] = version(name)
        except Exception: installed[name] = "-"  # noqa: BLE001
    return {
        "processor": found("/proc/cpuinfo", "model name"),
        "cores": CORES,
        "memory": f"{int(found('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.0f} GB"
        if Path("/proc/meminfo").exists()
        else "unknown",
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "packages": installed,
    }
