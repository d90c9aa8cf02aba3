"""The tagger in fresh processes: memory, cold starts, what is wrong with a bundle; recordings of hours"""
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny import save_tiny, tone

from audiotag.audio import AudioError, AudioWarning
from audiotag.batch import tag_row
from audiotag.core import AudiotagError
from audiotag.bundle import BundleError
from audiotag.tagger import LONG, Tagger
from audiotag.tagger import timeline_audacity, timeline_csv

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tagger(folder): return Tagger.load(folder, threads=1)


def python(code: str, *args, **kw) -> subprocess.CompletedProcess:
    "Run code in a fresh process"
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], env=env, capture_output=True, check=False, text=True, **kw
    )


def test_a_fresh_process_gives_the_same(folder, tagger, tmp_path):
    sf.write(tmp_path / "a.flac", tone(1500, 2.7, 44100) + tone(300, 2.7, 44100, 0.05), 44100)
    code = (
        "import sys, json; from audiotag import Tagger; p = Tagger.load(sys.argv[1]).predict(sys.argv[2]); "
        "print(json.dumps([p.probabilities.tolist(), p.score, p.known]))"
    )
    probabilities, score, known = json.loads(python(code, folder, tmp_path / "a.flac").stdout)
    here = tagger.predict(tmp_path / "a.flac")
    assert probabilities == pytest.approx(here.probabilities, abs=1e-5)
    assert score == pytest.approx(here.score, abs=1e-5) and known is here.known


@pytest.mark.parametrize("rate, channels", [(8000, 1), (22050, 2), (48000, 8), (96000, 1)])
def test_any_rate_and_channels(tagger, rate, channels, tmp_path):
    samples = np.stack([tone(1500, 1.5, rate)] * channels, 1)
    sf.write(tmp_path / "a.wav", samples, rate, subtype="PCM_24")
    assert tagger.tag(tmp_path / "a.wav")[0].label == "middle"
    from_file, from_array = tagger.predict(tmp_path / "a.wav"), tagger.predict((samples, rate))
    assert from_array.probabilities == pytest.approx(from_file.probabilities, abs=1e-3)


def test_a_file_object_can_be_used_twice(tagger, tmp_path):
    sf.write(tmp_path / "a.wav", tone(8000), 32000)
    held = io.BytesIO((tmp_path / "a.wav").read_bytes())
    assert tagger.tag(held) == tagger.tag(held) == tagger.tag(held.getvalue())


@pytest.mark.parametrize("samples, why", [(np.zeros(0), "holds no samples"), (np.full(100, np.nan), "no sound")])
def test_what_is_no_sound_is_refused(tagger, samples, why):
    for answer in tagger.tag, tagger.timeline, tagger.spectrogram:
        with pytest.raises(AudioError, match=why): answer((samples, 32000))


def test_a_limit_is_kept(tagger):
    with pytest.raises(AudioError, match="longer than 2 s"): tagger.predict((tone(200, 3), 32000), max_seconds=2)
    with pytest.raises(AudioError, match="longer than 2 s"):
        tagger.predict((np.zeros(LONG * 8000 + 8000), 8000), max_seconds=2)


def test_very_short_and_quiet_and_silent(tagger):
    assert tagger.tag((tone(1500, 0.05), 32000))[0].label == "middle"
    for samples, known in (tone(200), True), (np.zeros(32000), False), (tone(200, level=2e-5), False):
        assert tagger.tag((samples.astype("float32"), 32000)).known is known


@pytest.mark.parametrize("place", ["alone", "in silence"])
def test_less_than_25_ms_of_sound_is_never_known(tagger, place):
    for ms, known in (1, False), (10, False), (20, False), (50, True):
        sound = tone(1500, ms / 1000)
        if place == "in silence": sound = np.concatenate([np.zeros(16000, "float32"), sound, np.zeros(9000, "float32")])
        tags = tagger.tag((sound, 32000))
        if place == "alone": assert tags.known is known, ms
        assert (f"only {ms} ms of sound" in tags.reason) is not known
        if not known: assert not tagger.timeline((sound, 32000))


class NaNs:
    "A session whose network returns NaN for loud sounds"

    def __init__(self, session): self.session, self.get_outputs = session, session.get_outputs

    def run(self, names, inputs, *rest):
        outputs = self.session.run(names, inputs, *rest)
        loud = np.abs(inputs["waveform"]).max() > 0.5
        return [np.full_like(output, np.nan) if loud else output for output in outputs]


def test_nan_from_a_network_is_an_error_of_that_file(folder, tmp_path):
    tagger = Tagger.load(folder, threads=1)
    tagger.session = NaNs(tagger.session)
    for name, level in ("loud.wav", 0.9), ("soft.wav", 0.3): sf.write(tmp_path / name, tone(1500, level=level), 32000)
    loud = tmp_path / "loud.wav"
    for call in tagger.tag, tagger.timeline, tagger.spectrogram, lambda path: tagger.analyze(path, "low"):
        with pytest.raises(AudiotagError, match="^loud.wav: the network of tiny returns NaN or infinity"): call(loud)
    bad, good = (tag_row(tagger, str(tmp_path / name)) for name in ("loud.wav", "soft.wav"))
    assert bad["error"].startswith("loud.wav: ") and bad["tags"] == [] and good["known"] and not good["error"]


@pytest.mark.skipif(os.name != "posix", reason="/dev/fd is POSIX")
def test_a_pipe_is_read_once(tagger, tmp_path):
    sf.write(tmp_path / "a.wav", tone(200), 32000)
    for answer in tagger.tag, tagger.timeline:
        with subprocess.Popen(["cat", tmp_path / "a.wav"], stdout=subprocess.PIPE) as cat:
            assert answer(f"/dev/fd/{cat.stdout.fileno()}")[0].label == "low"


def test_of_a_very_long_sound_only_the_crops_are_read(tagger, tmp_path, monkeypatch):
    sound = np.concatenate([tone(1500, LONG / 2 + 1, 8000), tone(200, LONG / 2 + 1, 8000)])
    sf.write(tmp_path / "long.wav", sound, 8000)
    expected = sum(tagger.predict((tone(hz, 1, 8000), 8000)).logits for hz in (1500, 200)) / 2
    read = []
    from audiotag import tagger as module
    load = module.load_audio
    monkeypatch.setattr(module, "load_audio", lambda *args, **kwargs: read.append(load(*args, **kwargs)) or read[-1])
    logits = tagger.predict(tmp_path / "long.wav").logits
    assert [len(r) for r in read] == [32000] * 4
    assert logits == pytest.approx(expected, abs=0.2)


def test_a_very_long_sound_that_broke_off(tagger, tmp_path):
    "The header says more than ten minutes: crops after the end are skipped, and a file without samples is rejected"
    sf.write(tmp_path / "long.flac", np.random.default_rng(0).normal(0, 0.1, (LONG + 100) * 8000), 8000)
    data = (tmp_path / "long.flac").read_bytes()
    (tmp_path / "long.flac").write_bytes(data[:len(data) // 2])
    with pytest.warns(AudioWarning, match="long.flac ends before .* s but announces 700 s"):
        truncated = tagger.predict(tmp_path / "long.flac")
    complete = tagger.predict(io.BytesIO(data))
    assert truncated.logits == pytest.approx(complete.logits, abs=0.2)
    (tmp_path / "long.flac").write_bytes(data[:200])
    with pytest.raises(AudioError, match="long.flac holds no samples"): tagger.tag(tmp_path / "long.flac")


def test_tag_many_keeps_order_and_faults(tagger, tmp_path):
    (tmp_path / "b.wav").write_text("x")
    answers = tagger.tag_many([(tone(hz), 32000) for hz in (200, 1500, 8000)] + [tmp_path / "b.wav"], workers=3)
    assert [a[0].label for a in answers[:3]] == ["low", "middle", "high"] and isinstance(answers[3], AudioError)


@pytest.mark.parametrize("name", ["nope", "models/nope", "/nowhere/nope"])
def test_no_such_bundle(name, tmp_path, monkeypatch):
    (tmp_path / "models/urbansound8k").mkdir(parents=True)
    (tmp_path / "models/urbansound8k/config.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="there is urbansound8k") as told: Tagger.load(name)
    assert "\n" not in str(told.value)


def test_windows_of_another_length_than_the_crop(tagger):
    sound = (np.concatenate([tone(200, 3), tone(8000, 3)]), 32000)
    for window, hop in (0.5, 0.25), (1.0, 1.0), (2.0, 0.5), (10.0, None):
        line = tagger.timeline(sound, window=window, hop=hop)
        assert line.seconds == 6 and line.edges()[0] == 0 and line.edges()[-1] == 6
        if window <= 2: assert [s.label for s in line] == ["low", "high"]
    assert len(line.known) == 1
    with pytest.raises(AudiotagError, match="no longer than the window"): tagger.timeline(sound, window=1, hop=1.5)


def test_silence_and_the_unknown_make_no_segments(tagger):
    noise = 0.1 * np.random.default_rng(0).standard_normal(96000).astype("float32")
    assert list(tagger.timeline((np.zeros(96000, "float32"), 32000))) == []
    assert list(tagger.timeline((noise, 32000))) == []


def test_a_timeline_doesnt_depend_on_batches_or_blocks(tagger, monkeypatch):
    sound = (np.concatenate([tone(hz, 1.7) for hz in (200, 8000, 1500) * 9]), 32000)
    whole = tagger.timeline(sound, hop=0.3)
    monkeypatch.setattr("audiotag.tagger.BATCH", 3)
    again = tagger.timeline(sound, hop=0.3)
    assert again.probabilities == pytest.approx(whole.probabilities, abs=1e-5)
    assert [s[:3] for s in again] == [s[:3] for s in whole]


def test_the_outputs_of_a_timeline(tagger):
    line = tagger.timeline((np.concatenate([tone(200, 3), tone(8000, 3)]), 32000))
    rows = timeline_csv(line).splitlines()
    assert rows[0] == "start,end,label,probability" and len(rows) == 3
    assert [row.split("\t")[2] for row in timeline_audacity(line).splitlines()] == ["low", "high"]


MEMORY = """
import sys
from audiotag import Tagger
tagger = Tagger.load(sys.argv[1], threads=2)
line = tagger.timeline(sys.argv[2])
tagger.spectrogram(sys.argv[2], columns=2)
peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]  # ru_maxrss would include pytest's
print(round(line.seconds), len(line.known), int(peak) // 1024)
"""


def recording(path: Path, minutes: int) -> Path:
    "48 kHz stereo, in the making as small as in the reading"
    with sf.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        for i in range(minutes): file.write(np.stack([tone((200, 1500, 8000)[i % 3], 60, 48000)] * 2, 1))
    return path


def test_memory_doesnt_grow_with_the_recording(folder, tmp_path):
    used = []
    for minutes in 1, 9:
        done = python(MEMORY, folder, recording(tmp_path / "long.flac", minutes))
        assert done.returncode == 0, done.stderr
        seconds, windows, megabytes = map(int, done.stdout.split())
        assert (seconds, windows) == (60 * minutes, 120 * minutes - 1)
        used.append(megabytes)
    assert used[1] < used[0] + 40 and used[1] < 300  # 8 minutes are 180 MB as stereo floats


@pytest.mark.slow
def test_an_hour_of_stereo_stays_below_300_megabytes(folder, tmp_path):
    done = python(MEMORY, folder, recording(tmp_path / "hour.flac", 60))
    assert done.returncode == 0, done.stderr
    seconds, windows, megabytes = map(int, done.stdout.split())
    assert seconds == 3600 and windows == 7199 and megabytes < 300
