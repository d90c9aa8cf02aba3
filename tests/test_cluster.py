"""The Ray engine on a local cluster, one of its workers killed during the run"""
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny import save_tiny, tone

from audiotag.batch import CHUNK, tag_files
from audiotag.batch import ray_rows, tag_files_ray
from audiotag.batch import ArchiveError

pytestmark = pytest.mark.slow


def ray_workers() -> list[int]:
    "Process ids of the actors that tag, by the children that they run"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try: command, status = path.read_bytes(), (path.parent / "status").read_text()
        except OSError: continue
        if b"serve_paths" in command: found.append(int(status.split("PPid:")[1].split()[0]))
    return [pid for pid in found if b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    "Files, a model, and what the local engine makes of them"
    tmp, rng = tmp_path_factory.mktemp("ray"), np.random.default_rng(0)
    model = save_tiny(tmp / "tiny")
    for i in range(12 * CHUNK):
        sf.write(tmp / f"{i:03}.wav", tone(rng.choice([200, 1500, 6000]), rng.uniform(0.1, 1.5), 16000), 16000)
    (tmp / "notes.wav").write_text("not a sound")
    tag_files(tmp, tmp / "here.csv", model, workers=1)
    return tmp, model, (tmp / "here.csv").read_bytes()


def test_a_killed_worker_changes_no_byte(job):
    tmp, model, expected = job
    killed = []
    def kill(done, total, failed):
        if not killed and done < total - 3 * CHUNK:
            killed.extend(ray_workers()[:1])
            for pid in killed: os.kill(pid, signal.SIGKILL)
    report = tag_files_ray(tmp, tmp / "there.csv", model, workers=3, progress=kill)
    assert len(killed) == 1
    assert (tmp / "there.csv").read_bytes() == expected and len(report.failed) == 1


def test_a_run_can_change_engines_half_way(job):
    tmp, model, expected = job
    def stops(chunks, *args):
        yield from (rows for rows, _ in zip(ray_rows(chunks, *args), range(3)))
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): tag_files(tmp, tmp / "mixed.csv", model, workers=2, engine=stops)
    assert tag_files(tmp, tmp / "mixed.csv", model, workers=1).reused == 3 * CHUNK
    assert (tmp / "mixed.csv").read_bytes() == expected


def test_reads_and_writes_what_fsspec_reads(job):
    tmp, model, expected = job
    tag_files_ray([f"file://{p}" for p in sorted(tmp.glob("*.wav"))], f"file://{tmp}/far.csv", model, workers=2)
    assert (tmp / "far.csv").read_bytes().replace(b"file://", b"") == expected


def test_no_such_cluster(job):
    tmp, model, _ = job
    with pytest.raises(ArchiveError, match="no cluster answers"):
        tag_files_ray(tmp, tmp / "none.csv", model, address="127.0.0.1:9")
