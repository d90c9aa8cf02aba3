"""Load test of the web app: clients on this machine upload clips and wait for their tags

    python benchmarks/page.py [--models models] [--clients 8] [--seconds 60] [--out page.json]

Starts the web app in a new process, prints a table, and writes benchmarks/page.json (or --out).
"""
import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile as sf

HERE = Path(__file__).parent


def start_page(models: Path) -> tuple[subprocess.Popen, str, float]:
    "Start the web app; its process, its URL, and the seconds until its first response"
    import httpx
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/"
    start = time.perf_counter()
    env = os.environ | {"GRADIO_SERVER_PORT": url.split(":")[2].strip("/"), "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", f"from audiotag.webapp import launch; launch({str(models)!r})"],
        env=env,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        try:
            httpx.get(url).raise_for_status()
            return process, url, time.perf_counter() - start
        except httpx.HTTPError: time.sleep(0.05)
    sys.exit("the page didn't start")


def memory_mb(process: subprocess.Popen, field: str) -> float:
    return int(re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024


def make_clip(path: Path, seed: int, seconds: float = 4.0, rate: int = 44100) -> Path:
    "Write a siren with noise that is different in each call, so that nothing can be cached"
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    sweep = 700 + 300 * np.sin(2 * np.pi * rng.uniform(0.3, 2) * t)
    sf.write(path, 0.3 * np.sin(2 * np.pi * np.cumsum(sweep) / rate) + 0.02 * rng.standard_normal(len(t)), rate)
    return path


def ask_on(url: str, number: int, end: float, latencies: list, errors: list) -> None:
    "One client: upload a new clip and wait for its tags, until `end`"
    from gradio_client import Client, handle_file
    client, folder, call = Client(url, verbose=False, httpx_kwargs={"timeout": 120}), Path(tempfile.mkdtemp()), 0
    while time.time() < end:
        clip, call = make_clip(folder / "clip.wav", 10_000 * number + call), call + 1
        start = time.perf_counter()
        try:
            client.predict(file=handle_file(str(clip)), api_name="/tag")
            latencies.append(time.perf_counter() - start)
        except Exception as error: errors.append(repr(error))  # noqa: BLE001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=HERE.parent / "models")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=HERE / "page.json")
    args = parser.parse_args()
    process, url, first_page = start_page(args.models)
    try:
        idle, latencies, errors, end = memory_mb(process, "VmRSS"), [], [], time.time() + args.seconds
        threads = [threading.Thread(target=ask_on, args=(url, i, end, latencies, errors)) for i in range(args.clients)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        peak = memory_mb(process, "VmHWM")
    finally:
        process.terminate()
        process.wait()
    if not latencies: sys.exit(f"no call succeeded: {errors[:1]}")
    p50, p95 = np.percentile(latencies, (50, 95))
    result = {
        "models": args.models.name,
        "clients": args.clients,
        "seconds": args.seconds,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[2], 1),
        "first_page_s": round(first_page, 2),
        "calls": len(latencies),
        "errors": len(errors),
        "calls_per_s": round(len(latencies) / args.seconds, 2),
        "p50_s": round(p50, 3),
        "p95_s": round(p95, 3),
        "max_s": round(max(latencies), 3),
        "memory_idle_mb": round(idle),
        "memory_peak_mb": round(peak),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{args.clients} clients for {args.seconds:g} s on {result['cores']} cores "
        f"(15-minute load before: {result['load_before']}), a new clip of 4 s at 44.1 kHz a call"
    )
    for key in (
        "first_page_s",
        "calls",
        "errors",
        "calls_per_s",
        "p50_s",
        "p95_s",
        "max_s",
        "memory_idle_mb",
        "memory_peak_mb",
    ):
        print(f"  {key:16} {result[key]}")
    if errors: print("  first error:", errors[0])


if __name__ == "__main__": main()
