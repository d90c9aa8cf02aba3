"""Clips to images: in parallel, resumed, killed in the middle, with bad clips and changed settings"""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from PIL import Image

from audiotag.audio import read_clip
from audiotag.images import clip_image, convert, from_image
from audiotag.mel import SpectrogramConfig, SpectrogramError

ROOT, CONFIG = Path(__file__).parents[1], SpectrogramConfig()


def make_clips(folder, n, seconds=.3, rate=32000):
    "A table of `n` noises, each with its own seed"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder/f"clip{i:03}.wav" for i in range(n)]
    for i, path in enumerate(paths): sf.write(path, np.random.default_rng(i).normal(0, .1, round(seconds*rate)), rate)
    return pd.DataFrame({"path": [str(p) for p in paths], "label": ["noise"]*n})


def images(out):
    "Each image's bytes and when it was written"
    return {p.relative_to(out).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(out.rglob("*.png"))}


def test_workers_agree_and_images_are_the_spectrograms(tmp_path):
    table = make_clips(tmp_path/"clips", 40)
    assert convert(table, tmp_path/"one", CONFIG, workers=1) == (40, 0, 0)
    assert convert(table, tmp_path/"two", CONFIG, workers=2, progress=False) == (40, 0, 0)
    one, two = images(tmp_path/"one"), images(tmp_path/"two")
    assert {k: v[0] for k, v in one.items()} == {k: v[0] for k, v in two.items()} and len(one) == 40
    listed = pd.read_csv(tmp_path/"two/clips.csv")
    assert listed.image.tolist() == sorted(two) and listed.path.tolist() == table.path.tolist()
    for row in listed[::13].itertuples():
        image = Image.open(tmp_path/"two"/row.image)
        image.verify()
        pixels = np.asarray(Image.open(tmp_path/"two"/row.image))
        assert image.mode == "L" and pixels.shape == (128, CONFIG.frames(len(read_clip(row.path))))
        np.testing.assert_array_equal(pixels, clip_image(row.path, CONFIG))
    assert SpectrogramConfig.from_dict(json.loads((tmp_path/"two/config.json").read_text())) == CONFIG
    assert pd.read_csv(tmp_path/"two/failed.csv").empty


def test_low_frequencies_at_the_bottom(tmp_path):
    t = np.arange(32000)/32000
    for hz in (200, 5000):
        sf.write(tmp_path/f"{hz}.wav", .5*np.sin(2*np.pi*hz*t), 32000)
        brightest = 127-clip_image(tmp_path/f"{hz}.wav", CONFIG)[:, 50].argmax()
        assert abs(CONFIG.frequencies()[brightest]-hz) < .05*hz+30
        assert from_image(clip_image(tmp_path/f"{hz}.wav", CONFIG))[0, :, 50].argmax() == brightest


def test_second_run_writes_nothing(tmp_path):
    table = make_clips(tmp_path/"clips", 5)
    convert(table, tmp_path/"out", CONFIG)
    before = images(tmp_path/"out")
    assert convert(table, tmp_path/"out", CONFIG) == (0, 5, 0)
    assert images(tmp_path/"out") == before
    assert len(pd.read_csv(tmp_path/"out/clips.csv")) == 5


def test_missing_image_alone_is_made_again(tmp_path):
    table = make_clips(tmp_path/"clips", 5)
    convert(table, tmp_path/"out", CONFIG)
    before = images(tmp_path/"out")
    (tmp_path/"out/clip002.png").unlink()
    assert convert(table, tmp_path/"out", CONFIG) == (1, 4, 0)
    assert {k: v[0] for k, v in images(tmp_path/"out").items()} == {k: v[0] for k, v in before.items()}


def test_config_changed(tmp_path):
    table = make_clips(tmp_path/"clips", 5)
    convert(table, tmp_path/"out", CONFIG)
    for changed in (
        replace(CONFIG, n_mels=64),
        replace(CONFIG, n_mels=64, db_min=-60.0),
        replace(CONFIG, n_mels=64, trim_db=None),
    ):
        assert convert(table, tmp_path / "out", changed) == (5, 0, 0)
        assert Image.open(tmp_path / "out/clip000.png").height == 64
        assert json.loads((tmp_path / "out/config.json").read_text()) == changed.to_dict()


def test_file_changed(tmp_path):
    table = make_clips(tmp_path/"clips", 5)
    convert(table, tmp_path/"out", CONFIG)
    before = images(tmp_path/"out")
    sf.write(table.path[1], np.zeros(9600), 32000) # same size, other samples
    os.utime(table.path[3], ns=(0, 0)) # older, as after unpacking another archive
    assert convert(table, tmp_path/"out", CONFIG) == (2, 3, 0)
    after = images(tmp_path/"out")
    assert after["clip001.png"][0] != before["clip001.png"][0]
    assert not np.asarray(Image.open(tmp_path/"out/clip001.png")).any()
    assert after["clip000.png"] == before["clip000.png"]


def test_part_changed(tmp_path):
    table = make_clips(tmp_path/"clips", 1, seconds=2).assign(start=0., end=1.)
    assert convert(table, tmp_path/"out", CONFIG) == (1, 0, 0)
    assert convert(table.assign(end=.5), tmp_path/"out", CONFIG) == (1, 0, 0)
    assert Image.open(tmp_path/"out/clip000.png").width == 51
    assert convert(table.assign(end=.5), tmp_path/"out", CONFIG) == (0, 1, 0)


def test_bad_clips_are_listed_and_never_fatal(tmp_path):
    table = make_clips(tmp_path/"clips", 40)
    Path(table.path[3]).write_bytes(b"")
    Path(table.path[20]).write_text("a letter")
    Path(table.path[30]).unlink()
    sf.write(table.path[33], np.full(100, np.nan), 32000, subtype="FLOAT")
    for expected in ((36, 0, 4), (0, 36, 4)):
        assert convert(table, tmp_path/"out", CONFIG, workers=2) == expected
        failed = pd.read_csv(tmp_path/"out/failed.csv")
        assert failed.path.tolist() == table.path[[3, 20, 30, 33]].tolist()
        for reason, words in zip(failed.reason, ("is empty", "not a sound file", "is not there", "NaN")):
            assert words in reason
        listed = pd.read_csv(tmp_path/"out/clips.csv")
        assert len(listed) == 36 and not set(listed.path) & set(failed.path)
    make_clips(tmp_path/"clips", 40)
    assert convert(table, tmp_path/"out", CONFIG)[2] == 0 and pd.read_csv(tmp_path/"out/failed.csv").empty


def test_odd_clips(tmp_path):
    "Silent, 5 ms, 48 kHz with eight channels: images all the same"
    sounds = {
        "silent": (np.zeros(9600), 32000),
        "short": (np.random.default_rng(0).normal(0, 0.1, 160), 32000),
        "many": (np.random.default_rng(0).normal(0, 0.1, (4800, 8)), 48000),
    }
    for name, (x, rate) in sounds.items(): sf.write(tmp_path/f"{name}.wav", x, rate)
    table = pd.DataFrame({"path": [str(tmp_path/f"{name}.wav") for name in sounds]})
    assert convert(table, tmp_path/"out", CONFIG) == (3, 0, 0)
    assert Image.open(tmp_path/"out/many.png").width == 11


def test_names_stay_apart(tmp_path):
    "The same stem in two folders and two formats, the same file twice, and ids that point out of the folder"
    table = pd.concat([make_clips(tmp_path/folder, 1) for folder in ("a", "b")], ignore_index=True)
    table = pd.concat([table, table[:1].assign(start=.1, end=.2)], ignore_index=True)
    assert convert(table, tmp_path/"out", CONFIG) == (3, 0, 0)
    listed = pd.read_csv(tmp_path/"out/clips.csv")
    assert listed.image.nunique() == 3 and sorted(images(tmp_path/"out")) == sorted(listed.image)
    table["clip_id"] = ["dog/1", "../../escape", "/etc/passwd"]
    convert(table, tmp_path/"deep/out", CONFIG)
    deep = pd.read_csv(tmp_path/"deep/out/clips.csv")
    expected = [f"deep/out/{p}" for p in deep.image] + [f"out/{p}" for p in listed.image]
    assert sorted(images(tmp_path)) == sorted(expected)


def test_rows_in_another_order_keep_their_images_right(tmp_path):
    "Two files of one name, size and time: the image of each must not pass for the other's"
    tables = [make_clips(tmp_path/"a", 1), make_clips(tmp_path/"b", 1)]
    sf.write(tables[1].path[0], np.zeros(9600), 32000)
    for t in tables: os.utime(t.path[0], ns=(10**18, 10**18))
    convert(pd.concat(tables), tmp_path/"out", CONFIG)
    convert(pd.concat(tables[::-1]), tmp_path/"out", CONFIG)
    for row in pd.read_csv(tmp_path/"out/clips.csv").itertuples():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path/"out"/row.image)), clip_image(row.path, CONFIG))


@pytest.mark.parametrize("kind", ["wave", "delta"])
def test_kinds_without_grey_images(tmp_path, kind):
    with pytest.raises(SpectrogramError, match=kind):
        convert(make_clips(tmp_path, 1), tmp_path / "out", replace(CONFIG, kind=kind))


def test_empty_table(tmp_path):
    assert convert(make_clips(tmp_path/"clips", 0), tmp_path/"out", CONFIG) == (0, 0, 0)
    assert pd.read_csv(tmp_path/"out/clips.csv").columns.tolist() == ["path", "label", "image"]


RUN = """
import sys, pandas as pd
from audiotag.images import convert
from audiotag.mel import SpectrogramConfig
print(convert(pd.read_csv(sys.argv[1]), sys.argv[2], SpectrogramConfig(), workers=2))
"""


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_killed_in_the_middle(tmp_path):
    "SIGKILL of the process group: all images are intact, the folder is incomplete, and the next run resumes"
    table, out = make_clips(tmp_path/"clips", 200, seconds=3), tmp_path/"out"
    table.to_csv(tmp_path/"table.csv", index=False)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "table.csv"), str(out)], cwd=ROOT, start_new_session=True
    )
    end = time.monotonic()+240
    while len(list(out.glob("*.png"))) < 5 and time.monotonic() < end: time.sleep(.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = images(out)
    assert 5 <= len(there) < 200
    assert not (out/"clips.csv").exists() and not (out/"config.json").exists()
    for name in there: np.asarray(Image.open(out/name))
    (out/".clip000.png.99999.part").write_bytes(b"half an image")
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "table.csv"), str(out)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout.strip() == f"Converted(done={200-len(there)}, skipped={len(there)}, failed=0)", result.stderr
    assert result.stderr == "" # no progress bar outside a terminal
    after = images(out)
    assert len(after) == 200 and all(after[name] == there[name] for name in there)
    assert not list(out.rglob("*.part")) and len(pd.read_csv(out/"clips.csv")) == 200


def test_full_disk_is_no_bad_clip(tmp_path, monkeypatch):
    "An image that can't be written stops the run, and leaves no half file"
    table = make_clips(tmp_path/"clips", 2)
    def full(*a): raise OSError(28, "No space left on device")
    monkeypatch.setattr("audiotag.core.os.replace", full)
    with pytest.raises(OSError, match="No space"): convert(table, tmp_path/"out", CONFIG, workers=1)
    assert not [p for p in (tmp_path/"out").rglob("*") if p.is_file()]


def test_a_name_too_long_for_an_image_is_listed(tmp_path):
    "A file system takes 255 bytes: the clip's name fits, the image's in the making doesn't"
    table = make_clips(tmp_path/"clips", 2)
    long = Path(table.path[0]).rename(tmp_path/"clips"/f"{'l'*241}.wav")
    table.loc[0, "path"] = str(long)
    assert convert(table, tmp_path/"out", CONFIG, workers=1) == (1, 0, 1)
    reasons = pd.read_csv(tmp_path/"out/failed.csv").reason.tolist()
    assert len(reasons) == 1 and reasons[0].endswith("l.wav has too long a name for an image: shorten it")
