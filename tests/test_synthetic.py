"""The embedded set: the same bytes, whole or not there, in the official layouts, without a shortcut"""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile as sf

from audiotag.datasets import (
    DatasetError,
    assign_splits,
    read_dataset,
    read_fsdkaggle2018,
    read_urbansound8k,
)
from audiotag.synthetic import FSD_SOUNDS, URBAN_SOUNDS
from audiotag.synthetic import SAMPLE_RATE, example_clips, is_complete, make_synthetic

MAKE = (
    "import sys; from audiotag.synthetic import make_synthetic; "
    "make_synthetic(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)


def tree(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory): return make_synthetic(tmp_path_factory.mktemp("synthetic"), progress=False)


def three_numbers(path):
    "Duration in s, level in dB, spectral centroid in Hz"
    samples, rate = sf.read(path)
    power = np.abs(np.fft.rfft(samples, 1 << 16))**2
    centroid = (np.fft.rfftfreq(1 << 16, 1/rate)*power).sum()/power.sum()
    return len(samples)/rate, 10*np.log10(np.mean(samples**2)+1e-12), centroid


def shortcut(train, test):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    x, held_out = (np.array([three_numbers(p) for p in part.path]) for part in (train, test))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, train.label)
    return model.score(held_out, test.label)


def test_fsd_layout_and_numbers(whole):
    table = read_fsdkaggle2018(whole/"FSDKaggle2018")
    assert table.attrs["report"].ok and table.attrs["report"].name == "synthetic-fsdkaggle2018"
    train, test = table[table.split == "train"], table[table.split == "test"]
    assert (len(train), len(test), set(table.label)) == (480, 120, set(FSD_SOUNDS))
    assert .35 < train.verified.mean() < .45 and test.verified.all()
    assert set(test.usage) == {"Public", "Private"} and test.label.value_counts().tolist() == [10]*12
    assert table.source_id.is_unique and table.source_id.astype(int).min() >= 900_000_000 # nobody's recording


def test_urban_layout_and_numbers(whole):
    table = read_dataset(whole/"UrbanSound8K")
    assert table.attrs["report"].ok and len(table) == 300
    assert sorted(table.fold.unique()) == list(range(1, 11)) and set(table.label) == set(URBAN_SOUNDS)
    assert table.groupby("source_id").fold.nunique().max() == 1 and table.groupby("source_id").size().max() > 2
    assert assign_splits(table).query("split == 'valid'").fold.nunique() == 2 # official folds


def test_every_file_is_short_and_16_bit(whole):
    infos = [sf.info(p) for p in whole.rglob("*.wav")]
    assert len(infos) == 900
    assert {(i.samplerate, i.channels, i.subtype) for i in infos} == {(SAMPLE_RATE, 1, "PCM_16")}
    assert .7 <= min(i.duration for i in infos) and max(i.duration for i in infos) <= 3.1


def test_duration_level_and_centroid_are_no_shortcut(whole):
    fsd, urban = read_fsdkaggle2018(whole/"FSDKaggle2018"), read_urbansound8k(whole/"UrbanSound8K")
    verified = fsd[(fsd.split == "train") & fsd.verified]
    assert .1 < shortcut(fsd[fsd.split == "train"], fsd[fsd.split == "test"]) < .6
    assert shortcut(verified, fsd[fsd.split == "test"]) < .6
    assert shortcut(urban[urban.fold < 8], urban[urban.fold >= 8]) < .6


def test_there_is_something_to_learn(whole):
    "The mean spectrum in 24 bands already beats three numbers, so the labels mean something"
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    table = read_fsdkaggle2018(whole/"FSDKaggle2018")
    def bands(path):
        samples, _ = sf.read(path)
        frames = samples[:len(samples)//512*512].reshape(-1, 512)*np.hanning(512)
        levels = np.log(np.abs(np.fft.rfft(frames))[:, 1:241].reshape(len(frames), 24, 10).mean(2)+1e-5)
        return np.concatenate([levels.mean(0), levels.std(0)])
    x, test = np.array([bands(p) for p in table.path]), (table.split == "test").to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=.1))
    assert model.fit(x[~test], table.label[~test]).score(x[test], table.label[test]) > .45
    shuffled = np.random.default_rng(0).permutation(table.label[~test])
    assert model.fit(x[~test], shuffled).score(x[test], table.label[test]) < .25


def test_same_seed_same_bytes_in_a_fresh_process(tmp_path):
    make_synthetic(tmp_path/"here", 60, 20, progress=False)
    command = [sys.executable, "-W", "error", "-c", MAKE, str(tmp_path/"there"), "60", "20"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "") # and no bar where there is no terminal
    assert tree(tmp_path/"here") == tree(tmp_path/"there")
    make_synthetic(tmp_path/"other", 60, 20, seed=1, progress=False)
    other = {h for f, h in tree(tmp_path/"other").items() if f.endswith(".wav")}
    assert not set(tree(tmp_path/"here").values()) & other


def test_second_call_touches_nothing(whole):
    assert is_complete(whole)
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    make_synthetic(whole, progress=False)
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*")} == before


@pytest.mark.parametrize("set_name,fsd,urban", [("FSDKaggle2018", 900, 10), ("UrbanSound8K", 60, 900)])
def test_killed_half_way_is_redone(tmp_path, set_name, fsd, urban):
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path/"out"), str(fsd), str(urban)])
    deadline = time.time()+60
    while len(list((tmp_path / "out").glob(f".{set_name}.*.part/**/*.wav"))) < 5 and time.time() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list((tmp_path/"out").glob(f".{set_name}.*.part"))
    assert not (tmp_path/"out"/set_name).exists(), "an incomplete dataset has a temporary name"
    assert not is_complete(tmp_path/"out", fsd, urban)
    make_synthetic(tmp_path/"out", 60, 20, progress=False)
    make_synthetic(tmp_path/"clean", 60, 20, progress=False)
    assert tree(tmp_path/"out") == tree(tmp_path/"clean")


def test_lost_and_damaged_pieces_are_noticed(tmp_path):
    make_synthetic(tmp_path/"a", 60, 20, progress=False)
    good = tree(tmp_path/"a")
    next((tmp_path/"a/UrbanSound8K").rglob("*.wav")).unlink()
    (tmp_path/"a/FSDKaggle2018/synthetic.json").write_text("{")
    assert not is_complete(tmp_path/"a", 60, 20)
    make_synthetic(tmp_path/"a", 60, 20, progress=False)
    assert tree(tmp_path/"a") == good


def test_real_archives_are_left_alone(tmp_path):
    real = tmp_path/"UrbanSound8K/audio/fold1/1-1-1-1.wav"
    real.parent.mkdir(parents=True)
    real.write_bytes(b"precious")
    with pytest.raises(DatasetError, match="audiotag didn't make") as e:
        make_synthetic(tmp_path, 60, 20, progress=False)
    assert real.read_bytes() == b"precious" and "\n" not in str(e.value)


def test_card_can_tell_synthetic_from_real(tmp_path):
    make_synthetic(tmp_path/"data/synthetic", 60, 20, progress=False)
    assert json.loads((tmp_path/"data/synthetic/UrbanSound8K/synthetic.json").read_text())["licence"] == "CC0 1.0"
    assert read_dataset("synthetic-urbansound8k", data=tmp_path/"data").attrs["report"].name == "synthetic-urbansound8k"
    table = read_dataset("fsdkaggle2018", data=tmp_path/"data/synthetic")
    assert table.attrs["report"].name == "synthetic-fsdkaggle2018"


def test_examples_are_in_no_set(tmp_path, whole):
    paths = example_clips(tmp_path, ["Gong", "siren"], suffix=".wav")
    assert [sf.info(p).duration for p in paths] == [3., 3.]
    assert not {hashlib.sha256(p.read_bytes()).hexdigest() for p in paths} & set(tree(whole).values())
    again = example_clips(tmp_path/"again", ["Gong", "siren"], suffix=".wav")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]
