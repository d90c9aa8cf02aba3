"""`make run` as a whole: what it promises, and that the promise could be broken"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

AUDIOTAG = Path(sys.executable).with_name("audiotag")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ran(home):
    done = subprocess.run(
        [AUDIOTAG, "run", "--json"], cwd=home, check=False, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_held_out_synthetic_clips_are_tagged(ran):
    rows = {row["dataset"]: row for row in ran[0]["rows"]}
    assert rows["FSDKaggle2018"]["MAP@3"] >= 0.90
    assert rows["UrbanSound8K"]["accuracy"] > 0.3  # ten classes: three times chance, on a held-out fold


def test_both_bundles_are_there_and_the_next_command_works(ran, home):
    command = ran[0]["next"].split()
    done = subprocess.run(
        [AUDIOTAG, *command[1:], "--json"], cwd=home, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and len(json.loads(done.stdout)["tags"]) == 3
    for name in ("synthetic-fsdkaggle2018", "synthetic-urbansound8k"):
        files = {p.name for p in (home / "models" / name).iterdir()}
        assert files == {"config.json", "model.onnx", "model.safetensors", "learner.pkl", "README.md"}


def test_a_second_run_says_what_it_reused(ran, home):
    again = subprocess.run(
        [AUDIOTAG, "run", "--json"], cwd=home, check=False, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0
    assert again.stderr.count("reused") >= 4 and "epoch" not in again.stderr
    assert [row["MAP@3"] for row in json.loads(again.stdout)["rows"]] == [row["MAP@3"] for row in ran[0]["rows"]]


def test_shuffled_labels_teach_nothing(ran, home):
    from audiotag.cli import SYNTHETIC
    from audiotag.datasets import assign_splits, read_dataset
    from audiotag.learner import RunConfig
    from audiotag.mel import SpectrogramConfig
    from audiotag.recipe import recipe_for
    from audiotag.training import train
    table = assign_splits(read_dataset(home / "data" / "synthetic" / "FSDKaggle2018"))
    learned = table.split != "test"
    rng = np.random.default_rng(0)
    table.loc[learned, "label"] = rng.permutation(table.label[learned].to_numpy())
    recipe = recipe_for({"crop_seconds": "2", "bs": "16", "epochs": "10"}, len(table))
    images = home / "data" / "synthetic-images" / "fsdkaggle2018"
    run = RunConfig(images=images, config=SpectrogramConfig(**SYNTHETIC), device="cpu")
    figures = train(table, recipe, run=run)["metrics"]
    # 12 classes: chance is 0.083, and 0.25 is six standard deviations above
    assert figures["split"] == "test" and figures["accuracy"] < 0.25
