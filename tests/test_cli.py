"""The command line: train on a folder of clips, evaluate, tag, and messages for invalid arguments"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

AUDIOTAG = Path(sys.executable).with_name("audiotag")
RATE = 16000


def audiotag(*args, **kwargs):
    return subprocess.run(
        [AUDIOTAG, *map(str, args)], check=False, capture_output=True, text=True, timeout=300, **kwargs
    )


def one_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    return lines[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    "Two classes that a glance tells apart: low tones and high ones, twelve clips each"
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for label, hz in (("hum", 200), ("whistle", 3000)):
        (folder / label).mkdir()
        for i in range(12):
            t = np.arange(int(RATE * rng.uniform(0.5, 1.5))) / RATE
            tone = 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.8, 1.25) * t) + 0.01 * rng.standard_normal(len(t))
            sf.write(folder / label / f"{label}-{i}.wav", tone, RATE)
    return folder


@pytest.fixture(scope="module")
def bundle(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tones"
    done = audiotag("train", clips, "--out", out, "--epochs", 15, "--set", "crop_seconds=1", "--set", "bs=8", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["split"] == "valid"
    return out


def test_train_then_evaluate(bundle, clips):
    done = audiotag("evaluate", bundle, clips, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["clips"] == 24 and set(figures["per_class"]) == {"hum", "whistle"}
    assert figures["accuracy"] >= 0.9 and figures["map3"] >= figures["accuracy"]


def test_tag_reads_standard_input(bundle, clips):
    with open(clips / "whistle" / "whistle-0.wav", "rb") as file:
        done = audiotag("tag", "-", "--model", bundle, "--json", stdin=file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == "-"
    done = audiotag("tag", "-", "--model", bundle, "--out", "t.csv", stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "--out cannot be combined" in one_line(done.stderr)


def test_tag_warns_of_lost_audio(bundle, clips, tmp_path):
    "One line on stderr, with the file and the seconds; from worker processes too"
    sf.write(tmp_path / "cut.wav", np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-RATE])
    warning = "audiotag: cut.wav is damaged or cut off: 0.50 s can't be decoded; get it again"
    done = audiotag("tag", tmp_path / "cut.wav", "--model", bundle)
    assert done.returncode == 0 and one_line(done.stderr) == warning
    done = audiotag("tag", tmp_path / "cut.wav", "--model", bundle, "--out", tmp_path / "t.csv")
    assert done.returncode == 0 and one_line(done.stderr) == warning


def test_tag_prints_one_json_object(bundle, clips):
    file = clips / "whistle" / "whistle-0.wav"
    done = audiotag("tag", file, "--model", bundle, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["file"] == str(file) and answer["tags"][0]["label"] == "whistle"
    assert sum(tag["probability"] for tag in answer["tags"]) == pytest.approx(1, abs=1e-4)


def test_tag_for_a_person(bundle, clips):
    files = clips / "hum" / "hum-0.wav", clips / "whistle" / "whistle-0.wav"
    done = audiotag("tag", *files, "--model", bundle, "--top", 1)
    assert [line.split()[-2] for line in done.stdout.splitlines()] == ["hum", "whistle"]


def test_text_named_wav(bundle, tmp_path):
    fake = tmp_path / "fake.wav"
    fake.write_text("I am no sound")
    done = audiotag("tag", fake, "--model", bundle, "--json")
    assert done.returncode == 2 and done.stdout == ""
    assert "fake.wav" in one_line(done.stderr)


def test_some_files_fail(bundle, clips, tmp_path):
    fake = tmp_path / "fake.wav"
    fake.write_text("I am no sound")
    done = audiotag("tag", clips / "hum" / "hum-0.wav", fake, "--model", bundle, "--json")
    good, bad = json.loads(done.stdout)
    assert done.returncode == 1 and "error" not in good
    assert bad["file"] == str(fake) and bad["tags"] == [] and bad["error"] == one_line(done.stderr)
    (tmp_path / "bad").mkdir()
    fake.rename(tmp_path / "bad/fake.wav")
    done = audiotag("tag", tmp_path / "bad", "--model", bundle, "--json")
    assert done.returncode == 2 and [row["error"] for row in json.loads(done.stdout)] == [bad["error"]]
    assert one_line(done.stderr) == f"audiotag: {bad['error']}"


def test_a_folder_of_one_file_gives_a_list(bundle, clips, tmp_path):
    (tmp_path / "a.wav").write_bytes((clips / "hum" / "hum-0.wav").read_bytes())
    for named, kind in (tmp_path, list), (tmp_path / "a.wav", dict):
        assert type(json.loads(audiotag("tag", named, "--model", bundle, "--json").stdout)) is kind


@pytest.mark.parametrize("module", ["audiotag", "audiotag.cli"])
def test_python_dash_m(module):
    def run(*args):
        return subprocess.run([sys.executable, "-m", module, *args], check=False, capture_output=True, text=True)

    assert run("--version").stdout == f"audiotag {version('audiotag')}\n"
    assert run("tag", "/nothing.wav").returncode == 2


@pytest.mark.parametrize("args, said", [
    (("tag", "x.wav", "--model", "models/none"), "none"),
    (("train", "nowhere"), "nowhere"),
    (("train", "{clips}", "--arch", "resnet81"), "resnet81"),
    (("train", "{clips}", "--set", "mixupp=1"), "mixupp"),
    (("train", "{clips}", "--test-fold", "3"), "no fold 3"),
    (("evaluate", "{bundle}", "{clips}", "--fold", "7"), "7"),
])
def test_wrong_arguments_get_one_line(bundle, clips, args, said):
    done = audiotag(*(a.format(clips=clips, bundle=bundle) for a in args))
    assert done.returncode == 2 and said in one_line(done.stderr)


def test_out_of_fold_report(clips, tmp_path):
    args = ("train", clips, "--folds", 2, "--epochs", 1, "--set", "crop_seconds=1", "--runs", tmp_path / "runs")
    assert audiotag(*args, "--out", tmp_path / "tones").returncode == 0
    args = ("evaluate", tmp_path / "tones", "--out-of-fold", "--out", tmp_path / "report", "--json")
    for more, players in ((), 0), (("--data", clips), 24):
        done = audiotag(*args, *more)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "report/metrics.json").read_text()) == json.loads(done.stdout)
        assert (tmp_path / "report/report.html").read_text().count("<audio") == players
    (tmp_path / "few").mkdir()
    (tmp_path / "few/hum").symlink_to(clips / "hum")
    done = audiotag(*args, "--data", tmp_path / "few")
    assert done.returncode == 2 and "lacks 12 of the model's 24 clips" in done.stderr


def test_stopped_cross_validation_goes_on(clips, tmp_path):
    args = ("train", clips, "--folds", 2, "--epochs", 1, "--set", "crop_seconds=1", "--runs", tmp_path, "--json")
    first = json.loads(audiotag(*args).stdout)
    kept = sorted(tmp_path.glob("*/fold-*.npz"))
    assert len(kept) == 2 and len(first["folds"]) == 2
    kept[1].unlink()  # as if stopped before the second fold was done
    untouched = kept[0].stat().st_mtime_ns
    second = json.loads(audiotag(*args).stdout)
    assert second["mean"] == first["mean"] and kept[0].stat().st_mtime_ns == untouched and kept[1].exists()


def test_shared_recordings_are_left_out(clips, tmp_path):
    for name, rows in (
        ("a", ["hum-0,hum,1", "hum-1,hum,2", "hum-2,hum,4", "whistle-0,whistle,5", "whistle-1,whistle,6"]),
        ("b", ["hum-3,hum,1", "whistle-3,whistle,9"]),
    ):
        lines = [
            f"{clips}/{file.split('-')[0]}/{file}.wav,{label},{source}"
            for file, label, source in (row.split(",") for row in rows)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["fname,label,source_id", *lines]))
    done = audiotag(
        "train", tmp_path / "a.csv", "--without", tmp_path / "b.csv", "--epochs", 1, "--set", "crop_seconds=1"
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 5 clips left out" in done.stderr


def test_a_folder_becomes_a_table(bundle, clips, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "in" / "deep" / f"{i}.WAV").write_bytes((clips / "hum" / f"hum-{i}.wav").read_bytes())
    done = audiotag("tag", tmp_path / "in", "--model", bundle, "--out", tmp_path / "tags.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == 3
    assert len((tmp_path / "tags.csv").read_text().splitlines()) == 4  # and the header
    done = audiotag("tag", tmp_path / "in", "--model", bundle, "--out", tmp_path / "kaggle.csv", "--format", "kaggle")
    assert (tmp_path / "kaggle.csv").read_text().splitlines()[0] == "fname,label"
    assert audiotag("tag", tmp_path / "in", "--model", bundle, "--format", "kaggle").returncode == 2


@pytest.mark.parametrize("args, said", [
    (("train", "{clips}", "--out", "{file}/bundle"), "choose another --out"),
    (("evaluate", "{bundle}", "{clips}", "--out", "{file}/report"), "check the path"),
    (("pretrained", "mn04", "--out", "{file}/bundle", "--weights", "{file}"), "choose another --out"),
    (("train", "{clips}", "--arch", "mn04", "--weights", "{file}"), "no whole PyTorch state dict"),
    (("tag", "{file}", "--model", "{bundle}", "--out", "{file}/tags.csv"), "can't be made a folder for the table"),
    (("tag", "{file}", "--model", "{bundle}", "--out", "n" * 300 + ".csv"), "choose another place for the table"),
    (("tag", "{file}", "n" * 300 + ".wav", "--model", "{bundle}"), "File name too long"),
    (("convert", "{clips}", "--out", "{file}"), "check the path"),
    (("pretrained", "resnet18", "--weights", "{file}"), "choose one of mn04"),
])
def test_what_the_system_refuses_is_one_line(bundle, clips, args, said):
    done = audiotag(*(a.format(clips=clips, bundle=bundle, file=clips / "hum" / "hum-0.wav") for a in args))
    assert done.returncode == 2 and said in one_line(done.stderr)


@pytest.mark.parametrize("args", [
    ("app", "--port", "99999"),
    ("convert", "x", "--out", "y", "--workers", "0"),
    ("data", "synthetic", "--seed", "-1"),
    ("train", "x", "--seed", "-1"),
])
def test_numbers_out_of_range(args):
    done = audiotag(*args)
    assert done.returncode == 2 and "Invalid value" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("package, args", [
    ("torch", ("pretrained", "mn04")), ("pandas", ("train", "nowhere")), ("gradio", ("app",)),
])
def test_a_package_that_is_not_installed(package, args):
    "As after `pip install .`, which brings what serving needs"
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv = {['audiotag', *args]!r}; "
        "from audiotag.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300)
    message = f"audiotag: this needs {package}: pip install 'audiotag[all]'"
    assert (done.returncode, one_line(done.stderr)) == (2, message)


def test_a_name_that_is_no_text(bundle, clips, tmp_path):
    "On Linux a name is bytes; this one is Latin-1, and stdout takes UTF-8 only"
    name = os.fsdecode(b"caf\xe9.wav")
    (tmp_path / name).write_bytes((clips / "hum" / "hum-0.wav").read_bytes())
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = audiotag("tag", tmp_path, "--model", bundle, "--json", env=strict)
    assert done.returncode == 0 and [row["file"] for row in json.loads(done.stdout)] == [str(tmp_path / name)]
    done = audiotag("tag", tmp_path, "--model", bundle, env=strict)
    assert done.returncode == 0 and "caf\\udce9.wav  " in done.stdout


def test_an_odd_file_does_not_cost_the_others_their_answers(bundle, clips, monkeypatch, capsys):
    from audiotag import cli
    from audiotag.tagger import Tagger
    right = Tagger.tag
    monkeypatch.setattr(
        Tagger, "tag", lambda self, file, top: 1 / 0 if "hum-1" in str(file) else right(self, file, top)
    )
    with pytest.raises(cli.typer.Exit) as ended:
        cli.tag([clips / "hum" / f"hum-{i}.wav" for i in range(3)], model=str(bundle))
    told = capsys.readouterr()
    assert ended.value.exit_code == 1 and len(told.out.splitlines()) == 2
    assert one_line(told.err) == "hum-1.wav can't be tagged (ZeroDivisionError): convert it"
