"Log-mel of a batch on one core: LogMel, torchaudio, fastxtend, librosa, and the FFTs and matrix products alone"
import json

import numpy as np
import torch
from common import QUICK, alternate, pinned, row

import audiotag.compat  # noqa: F401  (fastxtend needs it)
from audiotag.mel import SpectrogramConfig
from audiotag.spectrogram import LogMel

BATCH, SECONDS, RATE = 4 if QUICK else 32, 5, 32000
SAME = {"n_fft": 1024, "hop_length": 320, "n_mels": 128, "f_min": 20.0, "f_max": 15000.0}


def by_torchaudio():
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram
    mel, to_db = MelSpectrogram(RATE, **SAME, norm="slaney", mel_scale="slaney"), AmplitudeToDB("power")
    return lambda x: to_db(mel(x))


def by_fastxtend():
    from fastxtend.audio.augment import AmplitudeToDB
    from fastxtend.audio.core import TensorAudio
    from fastxtend.audio.data import MelSpectrogram
    mel, to_db = MelSpectrogram(sample_rate=RATE, **SAME, norm="slaney", mel_scale="slaney"), AmplitudeToDB()
    return lambda x: to_db(mel(TensorAudio(x[:, None], sr=RATE)))


def by_librosa(x: torch.Tensor) -> np.ndarray:
    import librosa
    options = {"n_fft": 1024, "hop_length": 320, "n_mels": 128, "fmin": 20.0, "fmax": 15000.0}
    return np.stack(
        [
            librosa.power_to_db(
                librosa.feature.melspectrogram(y=clip, sr=RATE, pad_mode="reflect", **options), top_db=None
            )
            for clip in x.numpy()
        ]
    )


def main() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((BATCH, SECONDS * RATE)).astype("float32")) * 0.1
    net, audio, fastx = LogMel(SpectrogramConfig(db_min=-100.0, db_max=100.0)).eval(), by_torchaudio(), by_fastxtend()
    frames = torch.nn.functional.pad(x[:, None], (512, 512), mode="reflect")[:, 0].unfold(1, 1024, 320)
    power = torch.rand(frames.shape[1], 513)
    def ffts():
        for clip in frames:
            for part in clip.split(256): torch.fft.rfft(part)
    def products():
        for _ in range(BATCH):
            for at, low, high in net.blocks: power[:, low:high] @ net.bank[low:high, at:at + 32]
    with pinned(), torch.inference_mode():
        ways = {
            "audiotag LogMel": lambda: net(x),
            "torchaudio": lambda: audio(x),
            "fastxtend MelSpectrogram": lambda: fastx(x),
            "librosa": lambda: by_librosa(x),
            "the FFTs alone": ffts,
            "the mel products alone": products,
        }
        times = alternate(ways, 7, each=BATCH)
        decibels = net(x)[:, 0] * 200 - 100
        apart = {
            "torchaudio": float((decibels - audio(x)).abs().max()),
            "librosa": float(np.abs(decibels.numpy() - by_librosa(x)).max()),
        }
    print(
        json.dumps(
            [
                row(
                    "log-mel of a batch, one core",
                    f"{BATCH} noises of {SECONDS} s, 32 kHz",
                    times,
                    "audiotag LogMel",
                    {"torchaudio": 2},
                    ("the FFTs alone", "the mel products alone"),
                    largest_difference_db={k: round(v, 4) for k, v in apart.items()},
                )
            ]
        )
    )


if __name__ == "__main__": main()
