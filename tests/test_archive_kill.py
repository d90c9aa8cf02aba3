"""Many files, and what happens to them on the way: kills, crashes, resumed runs; the same bytes whatever happened"""
import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny import save_tiny, tone

from audiotag.batch import CHUNK, local_rows, tag_files
from audiotag.batch import ArchiveError
from audiotag.core import AudiotagError

HERE = Path(__file__).parent
RUN = """
import sys, time
from audiotag.batch import tag_files
def tell(*counts):
    print(*counts, flush=True)
    time.sleep(.01)
tag_files(sys.argv[1], sys.argv[2], sys.argv[3], workers=2, progress=tell)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory): return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    "Two dozen chunks of files, nested, and a few that are none"
    folder, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(0)
    for i in range(24 * CHUNK):
        path = folder / f"{i % 7}" / ("día" if i % 2 else "day") / f"{i:03}.{('wav', 'WAV', 'flac')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, tone(rng.choice([200, 1500, 6000]), rng.uniform(0.1, 1.5), 16000), 16000)
    (folder / "3/notes.wav").write_text("not a sound")
    (folder / "3/empty.flac").touch()
    sf.write(folder / "3/no_ending.wav", tone(200), 32000)
    (folder / "3/no_ending.wav").rename(folder / "3/no_ending")
    return folder


@pytest.fixture(scope="module")
def whole(sounds, model, tmp_path_factory):
    "What a run that nobody disturbs writes"
    out = tmp_path_factory.mktemp("whole") / "tags.csv"
    report = tag_files(sounds, out, model, workers=1)
    assert (report.files, len(report.failed), report.reused) == (24 * CHUNK + 3, 2, 0)
    return out.read_bytes()


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try: return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError: return False


def test_killed_five_times_no_row_is_lost_or_doubled(sounds, model, whole, tmp_path):
    out, rng, reused = tmp_path / "tags.csv", random.Random(0), 0
    for _ in range(5):
        run = subprocess.Popen(
            [sys.executable, "-c", RUN, str(sounds), str(out), str(model)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        first = int(run.stdout.readline().split()[0])
        assert first > reused  # goes on where the last one was
        for _ in range(rng.randrange(2)): run.stdout.readline()
        time.sleep(rng.uniform(0, 0.04))
        workers = children(run.pid)
        run.send_signal(signal.SIGKILL)
        told = run.communicate()[0].splitlines()
        reused = int(told[-1].split()[0]) if told else first
        assert not out.exists() and out.with_name("tags.csv.part").exists()
        assert len(workers) == 2
        deadline = time.monotonic() + 60
        while any(map(alive, workers)) and time.monotonic() < deadline: time.sleep(0.05)
        assert not any(map(alive, workers))  # no orphans
    report = tag_files(sounds, out, model, workers=2)
    assert 5 * CHUNK <= report.reused < report.files
    assert out.read_bytes() == whole and os.listdir(tmp_path) == ["tags.csv"]
    paths = [row["path"] for row in csv.DictReader(out.open(encoding="utf-8"))]
    assert len(paths) == len(set(paths)) == 24 * CHUNK + 3 and paths == sorted(paths, key=os.fsencode)


def test_a_file_that_kills_its_worker_is_named_and_the_others_are_tagged(sounds, model, whole, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("""
import os, sys
if "serve_paths" in " ".join(sys.orig_argv):
    import audiotag.batch as archive
    tag = archive.tag_row
    archive.tag_row = lambda tagger, path, top: os.abort() if path.endswith("007.WAV") else tag(tagger, path, top)
""")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(HERE.parent)]))
    report = tag_files(sounds, tmp_path / "tags.csv", model, workers=2)
    crashed = [why for path, why in report.failed if path.endswith("007.WAV")]
    assert crashed == ["007.WAV crashes the program that reads it: leave it out, or convert it"]
    assert len(report.failed) == 3
    same = [line for line in (tmp_path / "tags.csv").read_bytes().splitlines() if b"007.WAV" not in line]
    assert same == [line for line in whole.splitlines() if b"007.WAV" not in line]


def test_a_worker_that_dies_in_the_middle_of_a_line(sounds, model, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("""
import os, sys
if "serve_paths" in " ".join(sys.orig_argv):
    import audiotag.batch as archive
    tag = archive.tag_row
    def tag_row(tagger, path, top):
        if not path.endswith("0.wav"): return tag(tagger, path, top)
        for handle in range(3, 64):
            try: os.write(handle, b'[{"path": "')
            except OSError: pass
        os.abort()
    archive.tag_row = tag_row
""")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(HERE.parent)]))
    for name in "0.wav", "1.wav": sf.write(tmp_path / name, tone(200), 32000)
    report = tag_files([tmp_path / "0.wav", tmp_path / "1.wav"], tmp_path / "t.csv", model, workers=1)
    crashed = "0.wav crashes the program that reads it: leave it out, or convert it"
    assert report.failed == [(str(tmp_path / "0.wav"), crashed)]


def test_a_table_that_cannot_be_written_is_refused_before_the_work(sounds, model, tmp_path, monkeypatch):
    def never(*args): raise AssertionError("the work began")
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(ArchiveError, match="t.csv is a folder"):
        tag_files(sounds, tmp_path / "t.csv", model, engine=never)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArchiveError, match="Parquet needs pyarrow"):
        tag_files(sounds, tmp_path / "t.parquet", model, engine=never)


@pytest.mark.parametrize("wrong", [
    {"files": 3}, {"files": [3]}, {"out": None}, {"model": 3}, {"top": "3"}, {"workers": 1.5},
])
def test_wrong_types_are_named(sounds, model, tmp_path, wrong):
    right = {"files": sounds, "out": tmp_path / "t.csv", "model": model}
    with pytest.raises(AudiotagError, match=f"^{next(iter(wrong))} must be "): tag_files(**right | wrong)


def test_standard_input_is_no_list(model, tmp_path):
    with pytest.raises(ArchiveError, match="without --out"): tag_files(["-"], tmp_path / "t.csv", model)


def test_files_that_came_and_went_between_two_runs(sounds, model, tmp_path):
    paths = sorted(str(p) for p in sounds.rglob("*.flac"))[:3 * CHUNK]
    def one_chunk(chunks, *args):
        yield from local_rows(chunks[:1], *args)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): tag_files(paths[:2 * CHUNK], tmp_path / "t.jsonl", model, engine=one_chunk)
    report = tag_files(paths[5:], tmp_path / "t.jsonl", model, workers=1)
    assert (report.files, report.reused) == (3 * CHUNK - 5, CHUNK - 5)
    assert [json.loads(line)["path"] for line in (tmp_path / "t.jsonl").open()] == paths[5:]


def test_a_name_that_is_no_text(model, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    sf.write(tmp_path / "a.wav", tone(200), 32000)
    (tmp_path / "a.wav").rename(tmp_path / name)
    for out in "t.csv", "t.jsonl", "t.parquet":
        assert tag_files(tmp_path, tmp_path / out, model, workers=1).failed == []
    assert "caf\\xe9.wav," in (tmp_path / "t.csv").read_text()


def test_two_runs_into_one_file(sounds, model, tmp_path):
    def meanwhile(chunks, *args):
        with pytest.raises(ArchiveError, match="is another run writing it"):
            tag_files(sounds, tmp_path / "t.csv", model)
        return local_rows(chunks, *args)
    paths = [str(p) for p in sounds.rglob("*.wav")][:4]
    assert tag_files(paths, tmp_path / "t.csv", model, workers=1, engine=meanwhile).files == 4


def test_another_model_doesnt_finish_the_first_ones_table(sounds, model, tmp_path):
    def stops(chunks, *args):
        raise KeyboardInterrupt
        yield
    with pytest.raises(KeyboardInterrupt): tag_files(sounds, tmp_path / "t.csv", model, engine=stops)
    with pytest.raises(ArchiveError, match="another model or other settings"):
        tag_files(sounds, tmp_path / "t.csv", model, top=1)


def test_a_full_disk_keeps_what_is_done(sounds, model, tmp_path):
    code = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (40_000, -1))\n"
        "from audiotag.audio import AudiotagError\ntry:"
        + RUN.replace("\n", "\n ")
        + "\nexcept AudiotagError as e: print('told:', e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sounds), str(tmp_path / "t.csv"), str(model)],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines()[-1].startswith("told: ") and "what is done is kept" in done.stdout
    report = tag_files(sounds, tmp_path / "t.csv", model, workers=1)
    assert report.files == 24 * CHUNK + 3 and report.reused >= CHUNK


def stopped_after_a_chunk(chunks, *args):
    yield from local_rows(chunks[:1], *args)
    raise KeyboardInterrupt


def test_a_file_replaced_between_two_runs_is_tagged_again(model, tmp_path):
    for name in "abc": sf.write(tmp_path / f"{name}.wav", tone(200), 32000)
    with pytest.raises(KeyboardInterrupt): tag_files(tmp_path, tmp_path / "t.csv", model, engine=stopped_after_a_chunk)
    sf.write(tmp_path / "b.wav", tone(6000, 0.9), 32000)
    report = tag_files(tmp_path, tmp_path / "t.csv", model, workers=1)
    assert (report.files, report.reused) == (3, 2)
    assert [row["label_1"] for row in csv.DictReader((tmp_path / "t.csv").open())] == ["low", "high", "low"]


def test_class_means_and_network_belong_to_the_job_and_old_journals_resume(model, tmp_path):
    sf.write(tmp_path / "a.wav", tone(200), 32000)
    with pytest.raises(KeyboardInterrupt): tag_files(tmp_path, tmp_path / "t.csv", model, engine=stopped_after_a_chunk)
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    del config["files"]
    (copy / "config.json").write_text(json.dumps({**config, "class_means": [[1.0] * 8] * 3}))
    with pytest.raises(ArchiveError, match="another model or other settings"):
        tag_files(tmp_path, tmp_path / "t.csv", copy)
    db = sqlite3.connect(tmp_path / "t.csv.part")
    job = json.loads(db.execute("select job from job").fetchone()[0])
    assert job.pop("class_means") and job["model"]
    db.execute("update job set job = ?", [json.dumps(job)])
    db.execute("alter table rows drop column state")
    db.commit()
    db.close()
    assert tag_files(tmp_path, tmp_path / "t.csv", model, workers=1).reused == 1
