"How time and memory grow: convert, train and tag with 1x, 4x and 16x the clips, each in a new process"
import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import CORES, DEVICE, QUICK, ROOT, afresh, clips, peak_mb

BASE = 8 if QUICK else 60


def convert(table, folder: Path) -> None:
    from audiotag.images import convert as to_images
    to_images(table, folder / "images", progress=False)


def train(table, folder: Path) -> None:
    "One epoch of the default network"
    from audiotag.learner import RunConfig, make_learner
    from audiotag.recipe import Recipe
    learn = make_learner(table.assign(split="train"), Recipe(crop_seconds=2.0, bs=8), RunConfig(device=DEVICE))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)


def tag(table, folder: Path) -> None:
    from audiotag.batch import tag_files
    tag_files(list(table.path), folder / "tags.csv", ROOT / "models/urbansound8k", workers=CORES)


STEPS = {"convert": convert, "train": train, "tag": tag}


def one(step: str, times: int) -> dict:
    "Seconds and peak memory of one step"
    import torch
    torch.set_num_threads(CORES)
    table, kind = clips("urbansound8k")
    table = (
        table.sample(times * BASE, random_state=0, replace=times * BASE > len(table))
        .reset_index(drop=True)
        .drop_duplicates("clip_id")
        .reset_index(drop=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        STEPS[step](table, Path(folder))
        return {
            "step": step,
            "clips": len(table),
            "seconds": round(time.perf_counter() - start, 3),
            "peak_mb": peak_mb(),
            "kind": kind,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one: return print(json.dumps(one(args.one[0], int(args.one[1]))))
    grown = []
    for step in STEPS:
        points = [afresh("row_growth.py", "--one", step, str(times)) for times in (1, 4, 16)]
        x, y, mb = ([p[key] for p in points] for key in ("clips", "seconds", "peak_mb"))
        slope = np.polyfit(np.log(x[1:]), np.log(y[1:]), 1)[0]
        grown.append(
            {
                "step": step,
                "clips": x,
                "seconds": y,
                "peak_mb": mb,
                "exponent": round(float(slope), 2),
                "exponent_of": f"{x[1]} to {x[2]} clips: below, the start of processes counts",
                "ms_a_clip": round(1e3 * (y[2] - y[1]) / (x[2] - x[1]), 2),
            }
        )
    print(
        json.dumps(
            [
                {
                    "what": "how cost grows",
                    "on": f"{points[0]['kind']}, one epoch of xresnet_small on crops of 2 s",
                    "growth": grown,
                }
            ]
        )
    )


if __name__ == "__main__": main()
