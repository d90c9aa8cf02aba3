"""Every way to train, from the command to a bundle that `tag` reads; and what can't be trained gets one line"""
import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from audiotag import cli
from audiotag.core import AudiotagError

RATE = 16000
QUICK = ["--epochs", "1", "--set", "crop_seconds=1", "--set", "bs=8", "--device", "cpu", "--json"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "Three classes of tones, six clips each"
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for label, hz in (("hum", 200), ("tone", 900), ("whistle", 4000)):
        (folder / label).mkdir()
        for i in range(6):
            t = np.arange(int(RATE * rng.uniform(0.8, 1.4))) / RATE
            samples = 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * t) + 0.01 * rng.standard_normal(len(t))
            sf.write(folder / label / f"{label}-{i}.wav", samples, RATE)
    return folder


@pytest.fixture
def audiotag(capsys):
    "The command in this process: what it prints on stdout, read as JSON"
    def command(*args):
        cli.app([str(a) for a in args], standalone_mode=False)
        return json.loads(capsys.readouterr().out)
    return command


def trained_and_tagged(audiotag, clips, tmp_path, *options):
    "The config of a bundle trained with these options, after it has tagged a clip"
    result = audiotag("train", clips, "--out", tmp_path / "bundle", *QUICK, *options)
    said = audiotag("tag", clips / "hum" / "hum-0.wav", "--model", tmp_path / "bundle", "--json")
    assert {tag["label"] for tag in said["tags"]} == {"hum", "tone", "whistle"}
    assert np.isfinite(result["metrics"]["accuracy"])
    return json.loads((tmp_path / "bundle" / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("options, kind", [
    (["--arch", "wave1d"], "wave"),
    (["--arch", "crnn"], "logmel"),
    (["--arch", "mn04", "--input", "mfcc"], "mfcc"),
    (["--input", "pcen"], "pcen"),
    (["--input", "delta"], "delta"),
])
def test_each_input_becomes_a_bundle(audiotag, clips, tmp_path, options, kind):
    settings = ["--set", "outliers=0.5", "--set", "ema=0.9", "--set", "lowpass=0.5", "--set", "noise=0.5"]
    config = trained_and_tagged(audiotag, clips, tmp_path, *options, *settings)
    assert config["spectrogram"]["kind"] == kind and config["recipe"]["outliers"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--input", "mfcc"], ["--arch", "wave1d"]])
def test_several_labels(audiotag, clips, tmp_path, options):
    config = trained_and_tagged(audiotag, clips, tmp_path, "--multilabel", *options)
    assert config["multilabel"] and len(config["thresholds"]) == 3 and all(0 < t < 1 for t in config["thresholds"])
    assert 0 < config["metrics"]["lwlrap_mixes"] <= 1


def test_folds_leave_their_answers_beside_the_bundle(audiotag, clips, tmp_path):
    folders = "--out", tmp_path / "bundle", "--runs", tmp_path / "runs"
    settings = "--folds", 2, "--multilabel", "--set", "patience=5"
    result = audiotag("train", clips, *folders, *settings, *QUICK)
    rows = list(csv.DictReader((tmp_path / "bundle" / "out_of_fold.csv").open()))
    assert list(rows[0]) == ["clip_id", "source_id", "fold", "label", "hum", "tone", "whistle"] and len(rows) == 18
    best = [max(("hum", "tone", "whistle"), key=lambda label: float(row[label])) == row["label"] for row in rows]
    assert result["metrics"]["accuracy"] == pytest.approx(np.mean(best), abs=1e-4)


def test_seeds_give_mean_and_spread_and_go_on(audiotag, clips, tmp_path):
    args = ["train", clips, "--runs", tmp_path, "--seeds", 2, *QUICK]
    first = audiotag(*args)
    assert [row["seed"] for row in first["seeds"]] == [0, 1]
    assert first["mean"]["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in first["seeds"]]), abs=1e-4)
    kept = sorted(tmp_path.glob("*/seed-*.json"))
    times = [file.stat().st_mtime_ns for file in kept]
    assert audiotag(*args) == first and len(kept) == 2 and [file.stat().st_mtime_ns for file in kept] == times


@pytest.mark.parametrize("args, said", [
    (["--arch", "wave1d", "--input", "mfcc"], "hears the waveform"),
    (["--arch", "mn04", "--weights", "none.pt", "--input", "mfcc"], "leave out --input"),
    (["--folds", "40"], "40 folds need 40 recordings"),
    (["--folds", "1"], "use 2 or more"),
    (["--seeds", "0"], "use 1 or more"),
    (["--folds", "2", "--test-fold", "1"], "leave one of them out"),
    (["--fp16"], "NVIDIA"),
    (["--set", "mask_share=3"], "mask_share"),
    (["--set", "mix_clips=3"], "multilabel"),
    (["--multilabel", "--set", "self_verify=1", "--set", "wrong_labels=0.3"], "one label a clip"),
])
def test_what_cannot_be_trained(audiotag, clips, tmp_path, args, said):
    with pytest.raises(AudiotagError, match=said) as caught: audiotag("train", clips, "--runs", tmp_path, *QUICK, *args)
    assert len(str(caught.value).splitlines()) == 1


def test_images_of_another_front_end(audiotag, clips, tmp_path):
    audiotag("convert", clips, "--out", tmp_path, "--json")
    with pytest.raises(AudiotagError, match="other settings"):
        audiotag("train", clips, "--images", tmp_path, "--input", "pcen", *QUICK)


@pytest.mark.parametrize("options", [[], ["--folds", "3"]])
def test_broken_clips_are_left_out_before_any_training(audiotag, clips, tmp_path, options):
    shutil.copytree(clips, tmp_path / "in")
    for i, label in enumerate(("hum", "tone", "whistle") * 2):
        (tmp_path / "in" / label / f"broken-{label}-{i}.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(i))
    folders = "--out", tmp_path / "bundle", "--runs", tmp_path / "runs"
    with pytest.warns(UserWarning, match="6 of 24 clips are left out: broken"):
        result = audiotag("train", tmp_path / "in", *folders, *QUICK, *options)
    seen = json.loads((tmp_path / "bundle" / "config.json").read_text())["trained_on"]
    assert 0 < result["metrics"]["clips"] <= 18 and not any("broken" in clip for ids in seen.values() for clip in ids)


def test_one_class_only(audiotag, clips, tmp_path):
    (tmp_path / "hum").symlink_to(clips / "hum")
    for options in ([], ["--folds", "2"]):
        with pytest.raises(AudiotagError, match="one label only"): audiotag("train", tmp_path, *QUICK, *options)


def test_held_out_folds_neither_stop_nor_teach(monkeypatch, tmp_path):
    "With any recipe, no clip of the held-out fold is passed to a learner"
    from audiotag import training
    from audiotag.calibration import HeldOutPredictions
    clips = range(40)
    table = {"clip_id": [f"c{i}" for i in clips], "source_id": [f"s{i // 2}" for i in clips], "label": ["a", "b"] * 20}
    table |= {"verified": True, "split": "", "path": "x", "start": np.nan, "end": np.nan}
    table = pd.DataFrame(table).assign(fold=pd.NA)
    def predict_heldout(model, table, *_):
        asked.append(table)
        return HeldOutPredictions(np.zeros((len(table), 2)), np.zeros(len(table), int))

    model = type("L", (), {"model": torch.nn.Identity()})
    monkeypatch.setattr(training, "fit", lambda *_: [])
    monkeypatch.setattr(training, "compute_class_means", lambda model, table, *_: remembered.append(table))
    monkeypatch.setattr(training, "predict_heldout", predict_heldout)
    for recipe in (training.Recipe(), training.Recipe(patience=3), training.Recipe(patience=3, wrong_labels=0.3)):
        seen, asked, remembered = [], [], []
        monkeypatch.setattr(training, "make_learner", lambda table, *_, seen=seen, **__: seen.append(table) or model)
        folded = training.assign_folds(table, 4)
        for fold in (1, 2, 3, 4): training.predict_fold(folded, recipe, fold, ["a", "b"], training.RunConfig())
        for train, held, means in zip(seen, asked, remembered, strict=True):
            assert set(means.source_id) <= set(train.source_id[train.split == "train"])
            assert not set(train.source_id) & set(held.source_id)
            assert (train.split == "valid").any() == bool(recipe.patience)
            assert set(train.source_id[train.split == "valid"]).isdisjoint(train.source_id[train.split == "train"])


def test_an_unknown_version_is_one_line(monkeypatch, capsys):
    class CompatError(ImportError): pass
    def broken(*_, **__): raise CompatError("fastai 9 is not known to work: use 2")
    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as caught: cli.main()
    assert caught.value.code == 2 and capsys.readouterr().err == "audiotag: fastai 9 is not known to work: use 2\n"
    def other(*_, **__): raise ImportError("something else")
    monkeypatch.setattr(cli, "app", other)
    with pytest.raises(ImportError, match="something else"): cli.main()


def test_a_batch_of_one_trains(audiotag, clips):
    result = audiotag("train", clips, *QUICK, "--set", "bs=1")
    assert np.isfinite(result["history"][0]["train_loss"])


def test_three_clips_in_batches_of_two_are_no_batches_of_one():
    from audiotag.data import _even_batch
    assert [_even_batch(3, 2), _even_batch(1, 2), _even_batch(3, 1), _even_batch(65, 32)] == [2, 1, 1, 21]


def test_a_crop_that_memory_cannot_hold_is_refused(audiotag, clips, monkeypatch):
    monkeypatch.setattr("audiotag.learner.available_memory", lambda: 3e8)
    with pytest.raises(AudiotagError, match=r"^crop_seconds=120 with bs=\d takes about [\d.]+ GB of memory, and "):
        audiotag("train", clips, *QUICK, "--set", "crop_seconds=120")


def test_a_crop_longer_than_a_bundle_allows_is_refused(audiotag, clips):
    with pytest.raises(AudiotagError, match=r"^crop_seconds=3600\.0 makes no sense: use 0\.1 to 120$"):
        audiotag("train", clips, *QUICK, "--set", "crop_seconds=3600")


def test_held_out_clips_are_in_the_bundle(audiotag, clips, tmp_path):
    config = trained_and_tagged(audiotag, clips, tmp_path)
    (name, held), = config["held_out"].items()
    assert list(held) == ["valid"] and set(held["valid"]) < set(config["trained_on"][name])


def test_a_table_without_splits(clips):
    from audiotag.datasets import read_dataset
    from audiotag.recipe import Recipe
    from audiotag.training import train
    table = read_dataset(clips)
    for each in table, table.drop(columns="split"), table.assign(split=None):
        with pytest.raises(AudiotagError, match="nothing is held out; split the table with hold_out"):
            train(each, Recipe())


@pytest.mark.parametrize("wrong", [{"table": "clips"}, {"recipe": {}}, {"out": 3}, {"run": "cpu"}])
def test_wrong_types_are_named(wrong):
    from audiotag.recipe import Recipe
    from audiotag.training import cross_validate, train
    for function in train, cross_validate:
        with pytest.raises(AudiotagError, match=f"^{next(iter(wrong))} must be "):
            function(**{"table": pd.DataFrame(), "recipe": Recipe()} | wrong)


@pytest.mark.parametrize("wrong", [{"table": []}, {"out": None}, {"config": {}}, {"workers": "2"}])
def test_wrong_types_of_convert_are_named(tmp_path, wrong):
    from audiotag.images import convert
    with pytest.raises(AudiotagError, match=f"^{next(iter(wrong))} must be "):
        convert(**{"table": pd.DataFrame({"path": []}), "out": tmp_path} | wrong)


def test_wrong_types_of_a_tagger_are_named():
    from audiotag.bundle import read_bundle
    from audiotag.core import repo_path
    from audiotag.tagger import Tagger
    model = repo_path("models/urbansound8k")
    for wrong, argument in (
        (lambda: Tagger(model), "bundle"),
        (lambda: Tagger.load(3), "model"),
        (lambda: Tagger.load(model, threads="2"), "threads"),
        (lambda: Tagger(read_bundle(model)).tag((np.ones(8000, "float32"), 8000), top="3"), "top"),
    ):
        with pytest.raises(AudiotagError, match=f"^{argument} must be "): wrong()


@pytest.mark.parametrize("spoil", ["weights", "loss"])
def test_a_diverged_training_exits_with_1_and_leaves_no_bundle(clips, tmp_path, monkeypatch, capsys, spoil):
    from audiotag import learner, training

    def diverge(learn, recipe, fp16):
        next(learn.model.parameters()).data.fill_(np.nan)
        return learner.fit(learn, recipe, fp16) if spoil == "loss" else []

    monkeypatch.setattr(training, "fit", diverge)
    monkeypatch.setattr("sys.argv", ["audiotag", "train", str(clips), "--out", str(tmp_path / "m"), *QUICK])
    with pytest.raises(SystemExit) as stopped: cli.main()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("audiotag: ")]
    assert stopped.value.code == 1 and not (tmp_path / "m").exists()
    assert len(errors) == 1 and "the training diverged; use a lower lr" in errors[0]


def test_few_validation_clips_give_no_rejection_threshold(audiotag, clips, tmp_path):
    config = trained_and_tagged(audiotag, clips, tmp_path)
    assert config["rejection"] is None
    assert "It has no threshold for sounds of other kinds (that takes 50" in (tmp_path / "bundle/README.md").read_text()
    said = audiotag("tag", clips, "--model", tmp_path / "bundle", "--json")
    assert len(said) == 18 and all(row["known"] for row in said)
