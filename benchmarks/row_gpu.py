"On a GPU: epochs on 9,473 clips shaped like FSDKaggle2018, from images and waveforms, by precision and memory format"

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import DEVICE, QUICK

CLIPS = 48 if QUICK else 9473
SHARED = 24 if QUICK else 400  # number of files; many clips share one, so that the disk is not measured
# FLOP/s of dense half precision, by the data sheets
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}


def synthesise(folder: Path) -> pd.DataFrame:
    "A table of the size of FSDKaggle2018: 41 labels, 0.3 to 30 s with a median of 4.8 s, 44.1 kHz"
    import soundfile as sf
    rng, rows = np.random.default_rng(0), []
    lengths = rng.lognormal(np.log(4.8), 0.9, SHARED).clip(0.3, 30)
    for i, seconds in enumerate(lengths):
        t = np.arange(round(seconds * 44100)) / 44100
        sf.write(
            folder / f"{i}.wav",
            0.3 * np.sin(2 * np.pi * rng.uniform(100, 8000) * t) * np.exp(-t) + 0.02 * rng.standard_normal(len(t)),
            44100,
        )
    for i in range(CLIPS):
        rows.append(
            {
                "clip_id": f"{i:05}",
                "path": str(folder / f"{i % SHARED}.wav"),
                "label": f"label{i % SHARED % 41:02}",
                "split": "train" if i % 5 else "valid",
                "fold": pd.NA,
                "verified": True,
                "source_id": str(i),
                "start": np.nan,
                "end": np.nan,
            }
        )
    return pd.DataFrame(rows)


def flops_of(model, batch) -> float:
    "Floating-point operations of a forward and a backward pass over one batch"
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter: model(batch).sum().backward()
    return counter.get_total_flops()


def epoch(table, images: Path | None, half: bool, compiled: bool, last: bool) -> dict:
    "The time of the second of two epochs, and its fraction of the peak FLOP/s"
    import torch

    from audiotag.learner import RunConfig, make_learner
    from audiotag.recipe import Recipe

    recipe = Recipe(arch="xresnet18", crop_seconds=4.0, bs=16 if QUICK else 128)
    learn = make_learner(table, recipe, RunConfig(images=images, device=DEVICE))
    learn.metrics = []
    if not last: learn.model.to(memory_format=torch.contiguous_format)
    flops = flops_of(learn.model, learn.dls.train.one_batch()[0]) * len(learn.dls.train)
    learn.model.zero_grad()
    if compiled: learn.model.compile()
    if half and DEVICE != "cpu": learn.to_fp16()
    seconds = []
    with learn.no_bar(), learn.no_logging():
        for _ in range(2):
            start = time.perf_counter()
            learn.fit(1, 1e-3)
            seconds.append(time.perf_counter() - start)
    name = torch.cuda.get_device_name() if DEVICE != "cpu" else ""
    peak = next((p for key, p in PEAK.items() if key in name), None)
    return {
        "first_s": round(seconds[0], 2),
        "second_s": round(seconds[1], 2),
        "clips_per_s": round(len(learn.dls.train_ds) / seconds[1]),
        "share_of_peak": round(flops / seconds[1] / peak, 4) if peak else None,
    }


def main() -> None:
    import torch

    if DEVICE == "cpu" and not os.environ.get("BENCH_GPU_ON_CPU"):
        return print(
            json.dumps(
                [{"what": "on a GPU", "skipped": "DEVICE is cpu: run make bench DEVICE=cuda on a machine with a GPU"}]
            )
        )
    if DEVICE != "cpu" and not torch.cuda.is_available():
        return print(json.dumps([{"what": "on a GPU", "skipped": "torch finds no GPU here"}]))
    from audiotag.models import default_config
    from audiotag.images import convert
    with tempfile.TemporaryDirectory() as folder:
        sounds, images, found = Path(folder) / "sounds", Path(folder) / "images", {}
        sounds.mkdir()
        table = synthesise(sounds)
        start = time.perf_counter()
        convert(table, images, default_config("xresnet18"), progress=False)
        converted = round(time.perf_counter() - start, 1)
        for name, how in {
            "waveforms, half precision, channels-last": (None, True, False, True),
            "images, half precision, channels-last": (images, True, False, True),
            "waveforms, single precision": (None, False, False, True),
            "waveforms, half precision, contiguous": (None, True, False, False),
            "waveforms, half precision, compiled": (None, True, True, True),
        }.items():
            try:
                found[name] = epoch(table, *how)
            except Exception as error:  # noqa: BLE001
                found[name] = {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"}
    print(
        json.dumps(
            [
                {
                    "what": "on a GPU",
                    "on": f"{CLIPS} synthesised clips shaped like FSDKaggle2018, xresnet18, a batch of 128, "
                    f"{torch.cuda.get_device_name() if DEVICE != 'cpu' else 'cpu'}",
                    "convert_s": converted,
                    "epochs": found,
                }
            ]
        )
    )


if __name__ == "__main__": main()
