"Clips/s of the data loaders without a network, and the fraction of an epoch in which the network waits for them"

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import CORES, DEVICE, QUICK, alternate, clips, row, take

CROP, BS = 4.0, 32


def paint(table, folder: Path) -> list[str]:
    "Write color spectrograms by librosa and matplotlib"
    import librosa
    import matplotlib.pyplot as plt
    files = []
    for i, path in enumerate(table.path):
        samples, rate = librosa.load(path)
        plt.imsave(
            folder / f"{i}.png",
            librosa.power_to_db(librosa.feature.melspectrogram(y=samples, sr=rate), ref=np.max),
            cmap="viridis",
            origin="lower",
        )
        files.append(str(folder / f"{i}.png"))
    return files


def by_fastai(table, files: list[str]):
    "fastai's data loader for color PNGs, with its augmentation"
    from fastai.vision.all import (
        CategoryBlock,
        ColReader,
        DataBlock,
        ImageBlock,
        RandomSplitter,
        Resize,
        aug_transforms,
    )

    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=ColReader("image"),
        get_y=ColReader("label"),
        splitter=RandomSplitter(0.01, seed=0),
        item_tfms=Resize(128),
        batch_tfms=aug_transforms(do_flip=False),
    )
    return block.dataloaders(table.assign(image=files), bs=BS, num_workers=0, device=DEVICE)


def by_fastxtend(table):
    "Waveforms in memory, then fastxtend's transforms, as in its tutorial"
    from fastxtend.audio.augment import (
        AmplitudeToDB,
        FrequencyMasking,
        TimeMasking,
        VolumeBatch,
    )
    from fastxtend.audio.data import MelSpectrogram

    import audiotag.compat  # noqa: F401
    from audiotag.data import clip_dls
    from audiotag.mel import SpectrogramConfig
    dls = clip_dls(table, SpectrogramConfig(kind="wave"), CROP, BS, device=DEVICE)
    dls.add_tfms(
        [
            VolumeBatch(p=1.0),
            MelSpectrogram(32000, n_fft=1024, hop_length=320, n_mels=128),
            AmplitudeToDB(),
            TimeMasking(p=1.0),
            FrequencyMasking(p=1.0),
        ],
        "after_batch",
        0,
    )
    return dls


def ours(table, images: Path | None, arch: str = "xresnet_small"):
    from audiotag.augment import spec_tfms
    from audiotag.data import clip_dls
    from audiotag.models import default_config

    return clip_dls(
        table,
        default_config(arch),
        CROP,
        BS,
        images=images,
        device=DEVICE,
        spec_augment=spec_tfms(roll=True, time_mask=0.1, freq_mask=0.125, gain_db=6.0),
    )


def pull(dl) -> int: return sum(len(batch[0]) for batch in dl)


def waiting(table, arch: str, images: Path | None = None) -> dict:
    "The time of an epoch, and the percentage spent waiting for the loader"
    from fastai.callback.core import Callback

    from audiotag.learner import RunConfig, make_learner
    from audiotag.recipe import Recipe

    class Clock(Callback):
        "Measure the time between the end of a batch and the start of the next"
        waited = worked = 0.0
        def before_train(self): self.mark = time.perf_counter()
        def before_batch(self):
            if not self.training: return
            now = time.perf_counter()
            self.waited, self.mark = self.waited + now - self.mark, now
        def after_batch(self):
            if not self.training: return
            now = time.perf_counter()
            self.worked, self.mark = self.worked + now - self.mark, now

    clock = Clock()
    learn = make_learner(table, Recipe(arch=arch, crop_seconds=CROP, bs=BS), RunConfig(images=images, device=DEVICE))
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(clock): learn.fit(1, 1e-3)
    return {
        "arch": arch,
        "source": "images" if images else "waveforms",
        "epoch_s": round(clock.waited + clock.worked, 2),
        "waited_percent": round(100 * clock.waited / (clock.waited + clock.worked), 2),
    }


def main() -> None:
    import torch
    torch.set_num_threads(CORES)
    table, kind = clips("urbansound8k")
    table = take(table[table.fold <= 2], 640).assign(split="train")
    from audiotag.images import convert
    from audiotag.mel import SpectrogramConfig
    with tempfile.TemporaryDirectory() as folder:
        files = paint(table, Path(folder))
        convert(table, Path(folder) / "images", SpectrogramConfig(), progress=False)
        loaders = {
            "audiotag, from waveforms": ours(table, None),
            "audiotag, from images": ours(table, Path(folder) / "images"),
            "fastai, from coloured PNGs": by_fastai(table, files),
            "waveforms by fastxtend": by_fastxtend(table),
        }
        counts = {name: pull(dls.train) for name, dls in loaders.items()}
        times = alternate({name: (lambda dl=dls.train: pull(dl)) for name, dls in loaders.items()}, 3)
        few = table.iloc[:64] if QUICK else table.iloc[:320]
        epochs = [
            waiting(few, "xresnet_small", Path(folder) / "images"),
            waiting(few, "xresnet_small"),
            waiting(few, "mn04"),
        ]
    for name in times:
        for key in ("median_ms", "low_ms", "high_ms"): times[name][key] = round(times[name][key] / counts[name], 4)
    on = f"{len(table)} {kind} of folds 1-2, crops of {CROP:g} s"
    speeds = {name: round(1e3 / t["median_ms"]) for name, t in times.items()}

    def pair(what: str, ours: str, peer: str, **more) -> dict:
        return row(
            what,
            on,
            {name: times[name] for name in (ours, peer)},
            ours,
            {peer: 2},
            clips_per_s={name: speeds[name] for name in (ours, peer)},
            **more,
        )

    print(
        json.dumps(
            [
                pair("loader, images: an augmented clip", "audiotag, from images", "fastai, from coloured PNGs"),
                pair(
                    "loader, waveforms: an augmented clip",
                    "audiotag, from waveforms",
                    "waveforms by fastxtend",
                    epochs=epochs,
                ),
            ]
        )
    )


if __name__ == "__main__": main()
