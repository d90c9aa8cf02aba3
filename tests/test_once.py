"Work is done once: clips are decoded, bundles read, uploads scored and folds trained a single time"
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny import save_tiny, tone

AUDIOTAG = Path(sys.executable).with_name("audiotag")
TRAIN = ["train", "clips", "--arch", "xresnet_small", "--epochs", "1", "--set", "crop_seconds=0.5", "--device", "cpu"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "Sixteen clips of two kinds, as class folders"
    folder, rng = tmp_path_factory.mktemp("once") / "clips", np.random.default_rng(0)
    for label, hz in (("low", 200), ("high", 3000)):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            noise = 0.01 * rng.standard_normal(16000)
            sf.write(folder / label / f"{label}{i}.wav", tone(hz * (1 + 0.02 * i), rate=16000) + noise, 16000)
    return folder


@pytest.fixture
def here(clips, tmp_path, monkeypatch):
    "A working folder of its own"
    shutil.copytree(clips, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def audiotag(*args) -> subprocess.CompletedProcess:
    done = subprocess.run([AUDIOTAG, *args], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done


def command(monkeypatch, *args) -> None:
    "The command in this process"
    from audiotag import cli
    monkeypatch.setattr(sys, "argv", ["audiotag", *args])
    with pytest.raises(SystemExit) as ended: cli.main()
    assert ended.value.code == 0


def test_each_clip_is_decoded_once_per_run(here, monkeypatch, capsys):
    from audiotag import audio
    decoded, decode = Counter(), audio._decode_soundfile
    def count(sound, file, first, rec):
        decoded.update([rec.name])
        return decode(sound, file, first, rec)

    monkeypatch.setattr(audio, "_decode_soundfile", count)
    command(monkeypatch, *TRAIN, "--folds", "2", "--out", "models/mine")
    assert len(decoded) == 16 and set(decoded.values()) == {1}


def test_the_bundle_to_fine_tune_is_read_once_per_run(here, monkeypatch, capsys):
    from audiotag import bundle, learner
    save = ["--out", "models/first", "--test-fold", "1"]
    Path("clips.csv").write_text(
        "fname,label,fold\n" + "".join(f"clips/{k}/{k}{i}.wav,{k},{i % 4}\n" for k in ("low", "high") for i in range(8))
    )
    csv = [TRAIN[0], "clips.csv", *TRAIN[2:]]
    command(monkeypatch, *csv, *save)
    read, original = [], bundle.read_bundle
    def record(folder):
        read.append(str(folder))
        return original(folder)

    for module in (bundle, learner): monkeypatch.setattr(module, "read_bundle", record)
    fine_tune = [arg for arg in csv if arg not in ("--arch", "xresnet_small")]
    command(monkeypatch, *fine_tune, "--from", "models/first", "--folds", "2", "--out", "models/second")
    assert read == ["models/first"]


@pytest.mark.parametrize("option", [["--folds", "2"], ["--seeds", "2"]], ids=lambda o: o[0])
def test_the_second_run_finds_the_first(here, option):
    first = audiotag(*TRAIN, *option, "--json")
    (here / "note.txt").write_text("an unrelated file changes the folder's modification time")
    second = audiotag(*TRAIN, *option, "--json")
    assert "epoch" in first.stderr and "epoch" not in second.stderr
    assert json.loads(first.stdout)["mean"] == json.loads(second.stdout)["mean"]
    assert len(list((here / "runs").iterdir())) == 1


@pytest.mark.parametrize("option,name", [(["--folds", "2"], "fold-0.npz"), (["--seeds", "2"], "seed-1.json")])
@pytest.mark.parametrize("damage", [b"", b"half", b"[]"])
def test_damaged_results_are_trained_again(here, option, name, damage, monkeypatch, capsys):
    command(monkeypatch, *TRAIN, *option)
    folder = next((here / "runs").iterdir())
    file = next(folder.glob(name.replace("-0", "-*")))
    before = capsys.readouterr().out
    file.write_bytes(damage)
    command(monkeypatch, *TRAIN, *option)
    after = capsys.readouterr()
    assert f"{file.relative_to(here)} is damaged: training it again" in after.err and after.err.count("epoch 1") == 1
    assert after.out == before


def test_an_upload_is_scored_once(tmp_path, monkeypatch):
    from audiotag import webapp
    folder = save_tiny(tmp_path / "tiny")
    tagger = webapp.load_tagger(folder)
    runs, run = [], tagger._run
    monkeypatch.setattr(tagger, "_run", lambda waves, *names, **kw: runs.append(len(waves)) or run(waves, *names, **kw))
    sf.write(tmp_path / "minute.wav", tone(200, 60.0), 32000)
    assert "low" in webapp.clip_report(tmp_path / "minute.wav", folder)
    windows = len(tagger.timeline(tmp_path / "minute.wav").known)
    crops = tagger.max_crops
    assert sum(runs) - windows == windows + crops  # the last `windows` are this test's own
