"Many files: files/s by number of workers, local and Ray, and an estimate for a million clips"
import argparse
import json
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

from common import CORES, QUICK, ROOT, clips, take

MODEL = ROOT / "models/urbansound8k"


def rate(folder: Path, files: int, workers: int, engine: str) -> dict:
    "Seconds until the first rows, and files/s from then on, because the start is negligible for a million files"
    from audiotag.batch import local_rows, tag_files
    from audiotag.batch import ray_rows
    stamps, out = [], folder.parent / "tags.csv"
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    report = tag_files(
        folder,
        out,
        MODEL,
        workers=workers,
        progress=lambda done, total, failed: stamps.append((time.perf_counter() - start, done)),
        engine={"local": local_rows, "ray": partial(ray_rows, address=None)}[engine],
    )
    (first, early), (last, done) = stamps[min(workers, len(stamps) - 1) - 1], stamps[-1]
    return {
        "engine": engine,
        "workers": workers,
        "files": report.files,
        "failed": len(report.failed),
        "seconds": round(report.seconds, 2),
        "first_rows_s": round(stamps[0][0], 2),
        "files_per_s": round((done - early) / (last - first), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=80 if QUICK else 800)
    args = parser.parse_args()
    table, kind = clips("urbansound8k")
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) / "archive"
        folder.mkdir()
        paths = list(take(table, 10_000).path)
        for i in range(args.files):
            shutil.copy(paths[i % len(paths)], folder / f"{i:06}{Path(paths[i % len(paths)]).suffix}")
        bytes_a_file = sum(p.stat().st_size for p in folder.iterdir()) / args.files
        found = [rate(folder, args.files, workers, "local") for workers in sorted({1, CORES})]
        try: found += [rate(folder, args.files, workers, "ray") for workers in sorted({1, CORES})]
        except Exception as error: found.append({"engine": "ray", "skipped": str(error)})  # noqa: BLE001
    best = max(f.get("files_per_s", 0) for f in found if f["engine"] == "local")
    one = found[0]["files_per_s"]
    efficiency = best / one / max(f["workers"] for f in found if f["engine"] == "local")
    million = {
        "files_per_s": best,
        "hours_here": round(1e6 / best / 3600, 1),
        "formula": f"hours = files / (3600 x {one} files/s x cores x {efficiency:.2f})",
        "gigabytes_read": round(1e6 * bytes_a_file / 1e9),
    }
    print(
        json.dumps(
            [
                {
                    "what": "many files",
                    "on": f"{args.files} {kind} of 4 s, models/urbansound8k",
                    "workers": found,
                    "million": million,
                }
            ]
        )
    )


if __name__ == "__main__": main()
