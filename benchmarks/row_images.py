"Clips to images: audiotag convert, librosa + matplotlib, librosa + Pillow"
import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import CORES, alternate, clips, row, take

OUT = Path(tempfile.mkdtemp(prefix="bench-images-"))


def students(path: str) -> None:
    "librosa's defaults in dB relative to the peak, with matplotlib's viridis"
    import librosa
    import matplotlib.pyplot as plt
    samples, rate = librosa.load(path)
    plt.imsave(
        OUT / f"{Path(path).stem}.png",
        librosa.power_to_db(librosa.feature.melspectrogram(y=samples, sr=rate), ref=np.max),
        cmap="viridis",
        origin="lower",
    )


def grey(path: str) -> None:
    "librosa with audiotag's settings, grayscale by Pillow"
    import librosa
    from PIL import Image
    samples, rate = librosa.load(path, sr=32000)
    power = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=1024, hop_length=320, n_mels=128, fmin=20, fmax=15000
    )
    decibels = librosa.power_to_db(power, top_db=None).clip(-50, 50)
    Image.fromarray(((decibels[::-1] + 50) * 2.55).astype("uint8")).save(OUT / f"{Path(path).stem}.png")


def least(path: str) -> None:
    "The lower bound: decode, resample, FFTs, PNG compression"
    import soundfile as sf
    import soxr
    import torch

    from audiotag.images import png
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    x = torch.from_numpy(soxr.resample(samples[:, 0], rate, 32000))
    frames = torch.nn.functional.pad(x, (512, 512 + 1024)).unfold(0, 1024, 320)
    for part in frames.split(256): torch.fft.rfft(part)
    file = OUT / f"{Path(path).stem}.png"
    image = PICTURES.get(path)
    file.write_bytes(png(image) if image is not None else b"")


PICTURES: dict[str, np.ndarray] = {}


def in_turn(way, paths: list[str]) -> None:
    for path in paths: way(path)


def on_all_cores(way, paths: list[str]) -> None:
    import torch

    with ProcessPoolExecutor(CORES, get_context("fork"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(way, paths, chunksize=8))


def ours(table, workers: int) -> None:
    from audiotag.images import convert
    folder = OUT / "ours"
    shutil.rmtree(folder, ignore_errors=True)
    done = convert(table, folder, workers=workers, progress=False)
    assert done.done == len(table), done


def main() -> None:
    import torch

    from audiotag.images import clip_image
    from audiotag.mel import SpectrogramConfig
    torch.set_num_threads(1)
    table, kind = clips("fsdkaggle2018")
    table = take(table, 246)
    paths = list(table.path)
    for path in paths: PICTURES[path] = clip_image(path, SpectrogramConfig())
    every, one = f"audiotag convert, {CORES} cores", "audiotag convert, 1 core"
    ways = {
        every: partial(ours, table, CORES),
        one: partial(ours, table, 1),
        "librosa + plt.imsave": partial(in_turn, students, paths),
        "librosa + Pillow": partial(in_turn, grey, paths),
        f"decode + resample + FFT + PNG alone, {CORES} cores": partial(on_all_cores, least, paths),
        "the same, 1 core": partial(in_turn, least, paths),
    }
    limits = (f"decode + resample + FFT + PNG alone, {CORES} cores",)
    times = alternate(ways, 3, each=len(paths))
    sizes = {
        name: round(sum(p.stat().st_size for p in folder.glob("*.png")) / 1e3 / len(paths), 1)
        for name, folder in (("ours_kb_a_clip", OUT / "ours"),)
    }
    shutil.rmtree(OUT)
    print(
        json.dumps(
            [
                row(
                    "clips to images",
                    f"{len(paths)} {kind}, 44.1 kHz",
                    times,
                    every,
                    {"librosa + plt.imsave": 12, "librosa + Pillow": 4},
                    limits,
                    aim_limit=1.5,
                    **sizes,
                )
            ]
        )
    )


if __name__ == "__main__": main()
