"Batches where a notebook can't go: exported learners in fresh processes, worker processes, damaged clips, a GPU"
import json
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastcore.basics import noop
from torch import nn

from audiotag.core import AudiotagError
from audiotag.augment import MixClips, TensorLogMel, spec_tfms, wave_tfms
from audiotag.data import ClipCache, LoadClip, clip_dls, table_clips
from audiotag.images import convert
from audiotag.mel import SpectrogramConfig

CONFIG = SpectrogramConfig(n_mels=32)
SPEC = {
    "time_mask": 0.2,
    "freq_mask": 0.2,
    "roll": True,
    "pitch": 2.0,
    "gain_db": 3.0,
    "filter_db": 3.0,
    "noise_db": (5, 30),
    "lowpass": (4000, 12000),
}
LIBRARIES = {
    "audiotag",
    "fastai",
    "fastxtend",
    "fastcore",
    "fasttransform",
    "torch",
    "torchaudio",
    "numpy",
}  # what a learner may need to be loaded
WAVE = {
    "gain_db": (-12, 0),
    "noise_db": (5, 30),
    "lowpass": (4000, 12000),
    "shift": 0.5,
    "pitch": 2.0,
    "stretch": 1.3,
    "p": 0.05,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    "24 clips of two labels, 0.3 to 2 s, and their images"
    folder, rng, rows = tmp_path_factory.mktemp("clips"), np.random.default_rng(0), []
    for i in range(24):
        t = np.arange(int(rng.uniform(.3, 2) * 16000)) / 16000
        sf.write(
            folder / f"{i}.wav",
            0.1 * np.sin(2 * np.pi * (300, 1200)[i % 2] * t) + 0.01 * rng.standard_normal(len(t)),
            16000,
        )
        rows.append(
            {
                "clip_id": str(i),
                "path": str(folder / f"{i}.wav"),
                "label": ("low", "high")[i % 2],
                "split": "valid" if i % 4 < 2 else "train",
                "fold": pd.NA,
                "verified": True,
                "source_id": str(i // 2),
                "start": float("nan"),
                "end": float("nan"),
            }
        )
    convert(pd.DataFrame(rows), folder / "images", CONFIG, workers=1, progress=False)
    return pd.DataFrame(rows)


@pytest.fixture
def images(table): return str(table.path[0])[:-len("0.wav")] + "images"


def learner(dls, path, kind="logmel"):
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool1d(8) if kind == "wave" else nn.AdaptiveAvgPool2d((8, 1))
    learn = Learner(dls, nn.Sequential(pool, nn.Flatten(), nn.Linear(8, dls.c)), path=path)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


def foreign(file):
    """Classes and functions in an exported learner that a fresh process couldn't import from a library.

    cloudpickle writes what belongs to a notebook by value, through functions of its own. One of those is harmless: `_builtin_type` names Python's type of
    bound methods, of which every fastai learner holds some.
    """
    with zipfile.ZipFile(file) as archive:
        data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    names = {name for op, name, _ in pickletools.genops(data) if op.name == "GLOBAL"} - {
        "cloudpickle.cloudpickle _builtin_type"
    }
    importable = LIBRARIES | (sys.stdlib_module_names - {"__main__"}) | {"__builtin__"}
    return {name for name in names if name.split(" ")[0].split(".")[0] not in importable}


FRESH = """
import json, sys, warnings
warnings.simplefilter("ignore")
import audiotag.data
from fastai.learner import load_learner
said = {}
for file in sys.argv[2:]:
    learn = load_learner(file)
    label, _, probabilities = learn.predict(sys.argv[1])
    said[file] = [str(label), [float(p) for p in probabilities]]
print(json.dumps(said))
"""


def test_exported_learners_answer_in_a_fresh_process(table, images, tmp_path):
    "From samples, images and waveforms, with all augmentation in the pipeline; nothing in the pickle belongs to this test, and no clips do"
    made = {
        "samples.pkl": (CONFIG, {"wave_augment": wave_tfms(**WAVE), "spec_augment": spec_tfms(**SPEC)}),
        "images.pkl": (CONFIG, {"images": images, "spec_augment": spec_tfms(**SPEC)}),
        "several.pkl": (CONFIG, {"multilabel": True, "spec_augment": [MixClips()]}),
        "wave.pkl": (SpectrogramConfig(kind="wave"), {"wave_augment": wave_tfms(gain_db=(-6, 0))}),
    }
    here = {}
    for name, (config, kwargs) in made.items():
        learn = learner(clip_dls(table, config, .5, bs=6, device="cpu", **kwargs), tmp_path, config.kind)
        learn.fit(1)
        label, _, probabilities = learn.predict(table.path[5])
        here[str(tmp_path / name)] = [str(label), probabilities.tolist()]
        learn.export(name)
        assert (tmp_path / name).stat().st_size < 500_000
        assert not foreign(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, table.path[5], *here], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    there = json.loads(done.stdout)
    for file, (label, probabilities) in here.items():
        assert there[file][0] == label
        assert there[file][1] == pytest.approx(probabilities, abs=1e-5)


def test_what_belongs_to_no_library_is_noticed(table, tmp_path):
    "The check above can fail: a function made here is written by value"
    learn = learner(clip_dls(table, CONFIG, .5, bs=6, device="cpu"), tmp_path)
    learn.logger = lambda *args: None
    learn.export("here.pkl")
    assert any("_make_function" in name for name in foreign(tmp_path / "here.pkl"))


def sums(dl): return torch.cat([x.as_subclass(torch.Tensor).flatten(1).double().sum(1) for x, _ in dl])


@pytest.mark.parametrize("from_images", [True, False])
def test_worker_processes(table, images, from_images):
    "Two workers deliver the same types; validation equals that of none; training crops differ from epoch to epoch"
    none, two = (
        clip_dls(table, CONFIG, 0.2, bs=4, images=images if from_images else None, workers=n, device="cpu")
        for n in (0, 2)
    )
    x, y = next(iter(two.train))
    assert isinstance(x, TensorLogMel) and x.shape == (4, 1, 32, 21) and x.config == CONFIG and y.shape == (4,)
    assert torch.equal(sums(none.valid), sums(two.valid))
    first, second = sums(two.train).sort().values, sums(two.train).sort().values
    assert len(first) == 12 and not torch.allclose(first, second)


def test_without_cache(table):
    "Clips that are read in turn are the same clips, and one that can't be read says which"
    held, read = (
        clip_dls(table, CONFIG, .5, bs=4, device="cpu", seed=3, cache=cache) for cache in (ClipCache(), ClipCache(0))
    )
    for _ in range(2):
        torch.testing.assert_close(sums(held.train), sums(read.train), rtol=1e-3, atol=1e-3)
    cached, empty = (dls.train_ds.tfms[0][0].cache for dls in (held, read))
    assert len(cached.stored) == 24 and cached.bytes == sum(x.nbytes for x, _ in cached.stored.values()) > 0
    assert (len(empty.stored), empty.bytes) == (0, 0)
    broken = table.assign(path=[p if i != 6 else p.replace("6.wav", "gone.wav") for i, p in enumerate(table.path)])
    with pytest.warns(UserWarning, match="1 of 24 clips are left out: gone.wav"):
        dls = clip_dls(broken, CONFIG, 0.5, bs=4, device="cpu")
    assert len(dls.train_ds) == 11


def test_all_clips_unreadable(table, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.warns(UserWarning), pytest.raises(AudiotagError, match="no clip of split 'train' can be read"):
        clip_dls(table.assign(path=str(tmp_path / "text.wav")), CONFIG, .5, device="cpu")


def test_images_of_clips_with_odd_names(table, tmp_path):
    "A CSV may call them NA, null or nothing at all"
    odd = table[:3].assign(clip_id=["NA", "", "null"])
    assert convert(odd, tmp_path, CONFIG, workers=1, progress=False) == (3, 0, 0)
    assert [Path(clip.path).name for clip in table_clips(odd, CONFIG, tmp_path)] == ["NA.png", "clip.png", "null.png"]


def test_clips_that_convert_could_not_read(table, tmp_path):
    "They are in failed.csv, and left out; a clip that convert never saw is an error"
    (tmp_path / "text.wav").write_text("no sound")
    broken = table.assign(path=table.path.where(table.clip_id != "2", str(tmp_path / "text.wav")))
    convert(broken, tmp_path / "images", CONFIG, workers=1, progress=False)
    assert len(table_clips(broken, CONFIG, tmp_path / "images")) == 23
    assert len(clip_dls(broken, CONFIG, .5, images=tmp_path / "images", device="cpu").train_ds) == 11
    with pytest.raises(AudiotagError, match="no image of 1 of 24 clips"):
        table_clips(table.assign(clip_id=[*table.clip_id[:23], "new"]), CONFIG, tmp_path / "images")


def test_same_seed_same_batches_whatever_else_is_random(table, images):
    def epoch(noise):
        torch.manual_seed(noise), np.random.seed(noise)
        dls = clip_dls(table, CONFIG, .2, bs=4, images=images, seed=5, sampler="sources", device="cpu")
        return [(x.sum().item(), y.tolist()) for _ in range(3) for x, y in dls.train]
    assert epoch(0) == epoch(1)


def test_reader_is_exported_without_its_clips(table):
    import pickle
    reader = LoadClip(CONFIG, .5, cache=ClipCache())
    for clip in table_clips(table, CONFIG): reader.load(clip)
    assert len(reader.cache.stored) == 24
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.cache is None and copy.size == reader.size and len(pickle.dumps(reader)) < 20_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu(table, images):
    "Scaled, changed and delivered there, and equal to those of a CPU"
    waves = wave_tfms(**{**WAVE, "p": 1.})
    for kwargs in ({"wave_augment": waves}, {"images": images}, {"multilabel": True}):
        mix = [MixClips()] if "multilabel" in kwargs else spec_tfms(**SPEC)
        x, y = clip_dls(table, CONFIG, .5, bs=4, device="cuda", spec_augment=mix, **kwargs).one_batch()
        assert x.device.type == y.device.type == "cuda" and x.isfinite().all()
    cpu, gpu = (clip_dls(table, CONFIG, .5, device=device).valid.one_batch()[0].cpu() for device in ("cpu", "cuda"))
    assert (cpu - gpu).abs().max() < 1e-4
