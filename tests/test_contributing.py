"The lists of CONTRIBUTING.md: the places that they name exist, and an edit there does what they promise"
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from audiotag import augment, datasets, models, recipe
from audiotag.learner import batch_tfms
from audiotag.mel import SpectrogramConfig

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_places_to_edit_exist():
    lists = TEXT[TEXT.index("## Add a dataset"):TEXT.index("## Dependencies")]
    items = re.findall(r"^\d\. (.*)$", lists, re.MULTILINE)
    assert len(items) == 6
    notebook = ""
    for item in items:
        for part in re.split(r"(?=`nbs/)", item):
            if name := re.match(r"`(nbs/\w+\.ipynb)`", part): notebook = (ROOT / name[1]).read_text(encoding="utf-8")
            names = [n.removesuffix("(...)") for n in re.findall(r"`([A-Za-z_]\w+(?:\(\.\.\.\))?)`", part)]
            assert [n for n in names if not re.search(rf"\b{n}\b", notebook)] == []


@pytest.fixture
def clips(tmp_path):
    "A dataset with a layout of its own: meta.txt, with one line per clip"
    for name in ("a", "b"): sf.write(tmp_path / f"{name}.wav", np.zeros(8000), 16000)
    (tmp_path / "meta.txt").write_text("a.wav hum room1\nb.wav ring room2\n")
    return tmp_path


def test_add_a_dataset(clips, monkeypatch):
    def read_rooms(folder):
        rows = [line.split() for line in Path(folder, "meta.txt").read_text().splitlines()]
        table = pd.DataFrame(rows, columns=["fname", "label", "room"]).rename(columns={"room": "source_id"})
        return datasets.clips_table(table, "rooms", Path(folder), [str(folder)])

    fields = {"name": "rooms", "folders": (clips.name,), "markers": ("meta.txt",), "read": read_rooms}
    monkeypatch.setitem(datasets.DATASETS, "rooms", datasets.DATASETS["esc50"]._replace(**fields))
    table = datasets.read_dataset("rooms", clips.parent)
    assert table[["label", "source_id"]].values.tolist() == [["hum", "room1"], ["ring", "room2"]]
    assert datasets.read_dataset(clips).label.tolist() == ["hum", "ring"]  # recognized by its marker


def test_add_an_architecture(monkeypatch):
    def tiny(arch, n_out, config, dropout=0.0):
        body = torch.nn.Sequential(torch.nn.Conv2d(config.channels, 8, 3, 4, 1), torch.nn.ReLU())
        return models._mean_pooled(arch, body, 8, n_out, dropout)

    monkeypatch.setitem(models.ARCHITECTURES, "tiny", tiny)
    config = SpectrogramConfig(n_mels=64)
    model = models.create_model("tiny", 3, config)
    assert model(torch.rand(2, 1, 64, 100)).shape == (2, 3) and model.arch == "tiny"
    assert models.default_config("tiny") == SpectrogramConfig()


def test_add_an_augmentation():
    fields = {f.name for f in recipe.fields(recipe.Recipe) if f.metadata.get("augment")}
    assert fields <= set(augment.spec_tfms.__annotations__)  # each field is an argument
    assert {"pitch", "gain_db"} <= fields
    names = [type(tfm).__name__ for tfm in batch_tfms(recipe.Recipe(pitch=2.0))]
    assert "RandomPitch" in names and "RandomPitch" not in [type(tfm).__name__ for tfm in batch_tfms(recipe.Recipe())]
