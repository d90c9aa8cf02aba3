"""What bad, odd and hostile audio gets: a defined outcome each, never a traceback or a full memory"""
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiotag.audio import AudioError, crops, find_audio, load_audio, probe, read_clip, sniff, stream_audio

ROOT, RATE = Path(__file__).parents[1], 32000


def tone(seconds=1., rate=RATE, hz=440.):
    return (.5*np.sin(2*np.pi*hz*np.arange(round(seconds*rate))/rate)).astype("float32")


def peak_hz(samples, rate=RATE):
    return np.abs(np.fft.rfft(samples*np.hanning(len(samples)))).argmax()*rate/len(samples)


def encoded(suffix, samples, rate=RATE, **kw):
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format=suffix.upper(), **kw)
    return buffer.getvalue()


def by_ffmpeg(container, codec, rate=48000, layout="stereo"):
    "Two seconds of a 440 Hz tone as a phone or a browser would record it"
    av = pytest.importorskip("av")
    buffer, channels = io.BytesIO(), 1 if layout == "mono" else 2
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.stack([tone(2, rate)]*channels), format="fltp", layout=layout)
        frame.sample_rate = rate
        fit = av.AudioResampler(
            format=stream.codec_context.format,
            rate=rate,
            layout=layout,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for part in [*fit.resample(frame), *fit.resample(None), None]:
            for packet in stream.encode(part): out.mux(packet)
    return buffer.getvalue()


def fails(path, words):
    "The error is one line, begins with the file's name, and doesn't tell its folder"
    with pytest.raises(AudioError) as caught: load_audio(path)
    message = str(caught.value)
    assert message.startswith(path.name) and words in message
    assert "\n" not in message and str(path.parent) not in message
    with pytest.raises(AudioError, match=path.name): read_clip(path)
    with pytest.raises(AudioError): list(stream_audio(path))


# faults

def test_empty(tmp_path):
    (tmp_path/"empty.wav").touch()
    fails(tmp_path/"empty.wav", "is empty")


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_no_samples(tmp_path, suffix):
    (tmp_path/f"header.{suffix}").write_bytes(encoded(suffix, np.zeros(0)))
    fails(tmp_path/f"header.{suffix}", "no samples")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_truncated_wav_gives_what_is_there(subtype):
    data = encoded("wav", tone(), subtype=subtype)
    samples = load_audio(data[:len(data)//2])
    assert abs(len(samples)-RATE//2) < 100
    np.testing.assert_allclose(samples, tone()[:len(samples)], atol=1e-4)


def test_truncated_flac_gives_what_is_there():
    noise = np.random.default_rng(0).normal(0, .1, RATE*4)
    data = encoded("flac", noise)
    whole, half = load_audio(data), load_audio(data[:len(data)//2])
    assert RATE*1.5 < len(half) < RATE*2.1
    np.testing.assert_array_equal(half, whole[:len(half)])
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(data[:len(data)//2]))), half)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_truncated_lossy_gives_what_is_there(suffix):
    data = encoded(suffix, np.random.default_rng(0).normal(0, .1, RATE*4))
    samples = load_audio(data[:len(data)//2])
    assert RATE < len(samples) < RATE*3


@pytest.mark.parametrize("suffix, size", [("wav", 30), ("flac", 60), ("ogg", 60), ("mp3", 60)])
def test_truncated_beyond_decoding(tmp_path, suffix, size):
    (tmp_path/f"stump.{suffix}").write_bytes(encoded(suffix, tone())[:size])
    fails(tmp_path/f"stump.{suffix}", "")


def test_flac_damaged_in_the_middle_never_gives_noise():
    "Bytes that rot inside a FLAC end it there; what was decoded before them is right"
    noise = np.random.default_rng(0).normal(0, .1, RATE*4)
    data = bytearray(encoded("flac", noise))
    whole = load_audio(bytes(data))
    middle = len(data)//2
    data[middle:middle+2000] = bytes(2000)
    try: samples = load_audio(bytes(data))
    except AudioError: return
    start = samples[:RATE]
    np.testing.assert_array_equal(start, whole[:RATE])
    assert np.abs(samples).max() <= 1


def test_silent_is_valid(tmp_path):
    sf.write(tmp_path/"silent.wav", np.zeros(RATE), RATE)
    samples = read_clip(tmp_path/"silent.wav")
    assert samples.shape == (RATE,) and not samples.any()


def test_very_short_is_valid(tmp_path):
    sf.write(tmp_path/"short.wav", tone(.05), RATE)
    assert load_audio(tmp_path/"short.wav").shape == (1600,)
    assert crops(read_clip(tmp_path/"short.wav", trim_db=None), RATE, 5).shape == (1, RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_not_finite(tmp_path, value):
    samples = tone()
    samples[100:200] = value
    sf.write(tmp_path/"odd.wav", samples, RATE, subtype="FLOAT")
    fails(tmp_path/"odd.wav", "no sound")
    with pytest.raises(AudioError): load_audio((samples, RATE))


def test_text_named_wav(tmp_path):
    (tmp_path/"letter.wav").write_text("Dear reader,\nthis is no sound.\n"*100)
    fails(tmp_path/"letter.wav", "not a sound file")


def test_zip(tmp_path):
    with zipfile.ZipFile(tmp_path/"clips.wav", "w") as z: z.writestr("clip.wav", encoded("wav", tone()))
    fails(tmp_path/"clips.wav", "not a sound file")


@pytest.mark.parametrize("head", ["#EXTM3U\n#EXTINF:1,\n", "ffconcat version 1.0\nfile "])
def test_playlist_opens_nothing(tmp_path, head):
    "FFmpeg would follow what a playlist names: an upload must not read the server's files"
    sf.write(tmp_path/"secret.wav", tone(), RATE)
    (tmp_path/"list.m4a").write_text(head+str(tmp_path/"secret.wav")+"\n")
    fails(tmp_path/"list.m4a", "not a sound file")


def test_missing_folder_and_closed(tmp_path):
    fails(tmp_path/"gone.wav", "is not there")
    (tmp_path/"folder.wav").mkdir()
    fails(tmp_path/"folder.wav", "is a folder")
    with open(tmp_path/"x.wav", "wb+") as closed: pass
    with pytest.raises(AudioError, match="x.wav can't be read"): load_audio(closed)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    sf.write(tmp_path/"locked.wav", tone(), RATE)
    (tmp_path/"locked.wav").chmod(0)
    fails(tmp_path/"locked.wav", "permission")


@pytest.mark.parametrize("rate", [1, 100, 2**31-1])
def test_absurd_rate(rate):
    "At 1 Hz, a second of samples would become nine hours"
    data = bytearray(encoded("wav", tone()))
    data[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(AudioError, match="rate"): load_audio(bytes(data))


# odd, but sound

@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8", "ALAW", "IMA_ADPCM"])
def test_widths(subtype):
    samples = load_audio(encoded("wav", tone(), subtype=subtype))
    assert samples.dtype == np.float32 and abs(len(samples)-RATE) < 1100
    assert abs(peak_hz(samples[:RATE])-440) < 2 and abs(np.abs(samples).max()-.5) < .03


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_rates_and_channels(rate, channels):
    one = tone(1, rate)
    data = encoded("wav", np.stack([one]+[0*one]*(channels-1), 1), rate, subtype="PCM_24")
    samples = load_audio(data)
    assert samples.shape == (RATE,) and abs(peak_hz(samples)-440) < 2
    assert abs(np.abs(samples[1000:-1000]).max()-.5/channels) < .002 # the mean of the channels
    assert probe(data)[:3] == (rate, rate, channels)


def test_hot_floats_are_kept():
    "Float files may exceed full scale: that is loud, not damaged"
    np.testing.assert_allclose(load_audio(encoded("wav", 4*tone(), subtype="FLOAT")), 4*tone(), rtol=1e-6)


@pytest.mark.parametrize(
    "container, codec",
    [("ipod", "aac"), ("webm", "libopus"), ("adts", "aac"), ("mp4", "alac"), ("ogg", "libopus")],
)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_phones_and_browsers(tmp_path, container, codec, layout):
    data = by_ffmpeg(container, codec, layout=layout)
    path = tmp_path/"recording"
    path.write_bytes(data)
    for source in (path, str(path), data, io.BytesIO(data)):
        samples = load_audio(source)
        assert abs(len(samples)-2*RATE) < 2000 and abs(peak_hz(samples[:RATE])-440) < 2
        assert abs(np.sqrt(np.mean(samples[8000:-8000]**2))-.5/2**.5) < .01
    assert abs(len(load_audio(path, start=.5, end=1.))-RATE/2) <= 1
    np.testing.assert_allclose(load_audio(path, 48000, start=.5, end=1.), load_audio(path, 48000)[24000:48000])
    np.testing.assert_allclose(np.concatenate(list(stream_audio(path, block_seconds=.3))), load_audio(path), atol=1e-5)
    assert abs(probe(path).seconds-2) < .05
    assert find_audio(tmp_path) == [path]


def test_cut_recordings():
    "A browser's recording that broke off gives what is there; an m4a without its index can't"
    data = by_ffmpeg("webm", "libopus")
    assert RATE/2 < len(load_audio(data[:len(data)//2])) < 2*RATE
    data = by_ffmpeg("ipod", "aac")
    with pytest.raises(AudioError, match="damaged"): load_audio(data[:len(data)//2])


def test_eight_channels_by_ffmpeg(tmp_path):
    "In a process of its own: eight planes of floats crashed PyAV"
    av = pytest.importorskip("av")
    with av.open(tmp_path/"surround.mov", "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="7.1")
        samples = np.repeat((tone()*32767).astype("int16")[:, None], 8, 1)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="7.1")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]: out.mux(packet)
    code = (
        "import sys; import numpy as np; from audiotag.audio import load_audio; "
        "np.save(sys.argv[2], load_audio(sys.argv[1]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "surround.mov", tmp_path / "mono.npy"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(np.load(tmp_path/"mono.npy"), tone(), atol=1e-4)


def test_a_wav_called_raw(tmp_path):
    "libsndfile takes that ending for samples without a header; the first bytes decide, here as everywhere"
    pytest.importorskip("av")
    (tmp_path/"tone.raw").write_bytes(encoded("wav", tone()))
    np.testing.assert_allclose(load_audio(tmp_path/"tone.raw"), tone(), atol=1e-4)
    with open(tmp_path/"tone.raw", "rb") as file: assert probe(file).frames == RATE


@pytest.mark.parametrize("at, value", [(56, 127), (58, 255), (63, 127)])
def test_a_chunk_that_ends_before_the_file_begins(tmp_path, at, value):
    "Sizes that FFmpeg adds up to a place below zero, where Python's files refuse to go"
    pytest.importorskip("av")
    data = bytearray(encoded("caf", np.zeros(100)))
    data[at] = value
    (tmp_path/"sizes.caf").write_bytes(data)
    fails(tmp_path/"sizes.caf", "damaged")
    with pytest.raises(AudioError, match="damaged"): load_audio(bytes(data))


def test_without_pyav(monkeypatch):
    data = by_ffmpeg("ipod", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match="pip install"): load_audio(data)
    assert len(load_audio(encoded("wav", tone()))) == RATE


def test_arrays():
    ints = (tone()*32767).astype("int16")
    for array in (
        ints,
        np.stack([ints] * 2, 1),
        tone(),
        np.stack([tone()] * 2),
        (tone() * 127 + 128).astype("uint8"),
        tone().astype("float64"),
    ):
        samples = load_audio((array, RATE))
        assert samples.dtype == np.float32 and samples.shape == (RATE,)
        np.testing.assert_allclose(samples, tone(), atol=0.02)
    for empty in (np.zeros(0, "float32"), np.zeros((0, 2), "int16"), np.zeros((2, 0))):
        with pytest.raises(AudioError, match="no samples"): load_audio((empty, RATE))


def test_open_file_and_name(tmp_path):
    (tmp_path/"letter.wav").write_text("no sound")
    with open(tmp_path/"letter.wav", "rb") as f, pytest.raises(AudioError, match="^letter.wav "): load_audio(f)
    with pytest.raises(AudioError, match="^the recording "): load_audio(b"no sound")


def test_sniff_never_raises():
    rng = np.random.default_rng(0)
    for n in range(200): sniff(rng.bytes(n % 14))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning") # soundfile's callbacks grumble
def test_noise_bytes_are_refused_or_decoded():
    "Heads of sound files on random bodies: an array or an AudioError, nothing else"
    rng = np.random.default_rng(0)
    heads = [encoded(s, tone(.1))[:64] for s in ("wav", "flac", "ogg", "aiff")]
    heads += [b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3", b"\xff\xf1\x50\x80"]
    for i in range(300):
        head = heads[i % len(heads)]
        data = head[:rng.integers(4, len(head)+1)] + rng.bytes(rng.integers(0, 3000))
        try: assert load_audio(data, max_seconds=60).ndim == 1
        except AudioError as e: assert "\n" not in str(e)


# size

BOMB = '''
import resource, sys
from audiotag.audio import AudioError, load_audio, stream_audio
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
what, path = sys.argv[1:]
if what == "load":
    try: load_audio(path, max_seconds=30)
    except AudioError as e: print(e)
else: print(sum(map(len, stream_audio(path)))/32000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)//1024)
'''


def in_a_fresh_process(what, path):
    result = subprocess.run(
        [sys.executable, "-c", BOMB, what, path], cwd=ROOT, check=False, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    said, megabytes = result.stdout.splitlines()
    return said, int(megabytes)


def hours_of_zeros(path, hours, rate, channels=1):
    with sf.SoundFile(path, "w", rate, channels, format="FLAC") as f:
        block = np.zeros((rate*60, channels), "int16")
        for _ in range(int(hours*60)): f.write(block)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    path = tmp_path_factory.mktemp("bomb")/"bomb.flac"
    hours_of_zeros(path, 4, 8000)
    return path


def test_decompression_bomb(bomb):
    "A small FLAC that holds hours of zeros, 460 MB as floats: refused by its length, without memory"
    assert bomb.stat().st_size < 5e5
    said, megabytes = in_a_fresh_process("load", bomb)
    assert "longer than 30 s" in said and megabytes < 60


def test_decompression_bomb_that_lies(bomb):
    "The same with a header that doesn't know its length: stopped at the limit while decoding"
    data = bytearray(bomb.read_bytes())
    data[21] &= 0xf0
    data[22:26] = bytes(4) # total samples in STREAMINFO
    bomb.with_name("liar.flac").write_bytes(data)
    said, megabytes = in_a_fresh_process("load", bomb.with_name("liar.flac"))
    assert "liar.flac is longer than 30 s" in said and megabytes < 60


def test_streams_in_constant_memory(tmp_path):
    "Ten minutes of 48 kHz stereo are 230 MB as floats"
    hours_of_zeros(tmp_path/"long.flac", 1/6, 48000, 2)
    said, megabytes = in_a_fresh_process("stream", tmp_path/"long.flac")
    assert float(said) == 600 and megabytes < 60


@pytest.mark.slow
def test_hour_of_flac_streams_in_constant_memory(tmp_path):
    hours_of_zeros(tmp_path/"hour.flac", 1, 48000, 2)
    said, megabytes = in_a_fresh_process("stream", tmp_path/"hour.flac")
    assert float(said) == 3600 and megabytes < 60


@pytest.mark.slow
def test_hour_of_wav_streams_in_constant_memory(tmp_path):
    block = np.random.default_rng(0).normal(0, .1, (48000*60, 2)).astype("float32")
    with sf.SoundFile(tmp_path/"hour.wav", "w", 48000, 2) as f:
        for _ in range(60): f.write(block)
    said, megabytes = in_a_fresh_process("stream", tmp_path/"hour.wav")
    assert float(said) == 3600 and megabytes < 60


def test_serving_imports_stay_light():
    code = (
        "import sys, audiotag.audio; "
        "print(sorted({'torch', 'librosa', 'pandas', 'matplotlib', 'av', 'fastai'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_a_name_that_is_no_text(tmp_path):
    "On Linux a name is bytes; this one is Latin-1. The sound is read, and what is said of it can be printed"
    name = os.fsdecode(b"caf\xe9.wav")
    (tmp_path/name).write_bytes(encoded("wav", tone()))
    assert len(load_audio(tmp_path/name)) == RATE and probe(tmp_path/name).seconds == 1
    assert find_audio(tmp_path) == [tmp_path/name]
    (tmp_path/name).write_bytes(b"no sound at all")
    with pytest.raises(AudioError) as raised: load_audio(tmp_path/name)
    assert str(raised.value).encode().startswith(b"caf\\xe9.wav is not a sound file")
