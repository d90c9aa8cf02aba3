"A long recording, windows of 4 s every 2 s: speed, memory, and learn.predict on a sample of the windows"
import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
from common import QUICK, ROOT, afresh, clips, row, spread, take

RATE, WINDOW, HOP = 48000, 4.0, 2.0


def write_recording(path: Path, minutes: float) -> None:
    "Write a stereo recording at 48 kHz that concatenates clips"
    from audiotag.audio import load_audio
    table, _ = clips("urbansound8k")
    sounds = [load_audio(p, RATE) for p in take(table, 60, seed=3).path]
    left, i = round(minutes * 60 * RATE), 0
    with sf.SoundFile(path, "w", RATE, 2) as out:
        while left > 0:
            sound = sounds[i % len(sounds)][:left]
            out.write(np.stack([sound, 0.5 * sound], 1))
            left, i = left - len(sound), i + 1


def hear(path: str) -> dict:
    "Tag the recording, in a new process"
    from audiotag.tagger import Tagger
    tagger = Tagger.load(ROOT / "models/urbansound8k")
    idle, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
    found = tagger.timeline(path, WINDOW, HOP)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "windows": len(found.probabilities),
        "times_real_time": round(sf.info(path).duration / seconds, 1),
        "idle_mb": round(idle),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def predict_windows(path: str, n: int) -> list[float]:
    "Seconds of learn.predict for each of `n` windows; it requires one file per window"
    import torch
    from fastai.learner import load_learner

    import audiotag.data  # noqa: F401
    torch.set_num_threads(1)  # as in row_latency.py
    learn, seconds = load_learner(ROOT / "models/urbansound8k/learner.pkl"), []
    with sf.SoundFile(path) as sound, tempfile.TemporaryDirectory() as folder, learn.no_bar(), learn.no_logging():
        for i in range(n + 1):
            sound.seek(int(i * (sound.frames - WINDOW * RATE) / n))
            sf.write(Path(folder) / "w.wav", sound.read(int(WINDOW * RATE)), RATE)
            start = time.perf_counter()
            learn.predict(Path(folder) / "w.wav")
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 1] if QUICK else [10, 60])
    parser.add_argument("--hear", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hear: return print(json.dumps(hear(args.hear)))
    with tempfile.TemporaryDirectory() as folder:
        heard = []
        for minutes in args.minutes:
            write_recording(Path(folder) / "long.wav", minutes)
            heard.append({"minutes": minutes, **afresh("row_day.py", "--hear", f"{folder}/long.wav", timeout=3000)})
        windows = predict_windows(f"{folder}/long.wav", 5 if QUICK else 40)
    each = [h["seconds"] / h["windows"] for h in heard]
    times = {"audiotag timeline": spread(each), "learn.predict": spread(windows)}
    day = round(24 * 60 / args.minutes[-1] * heard[-1]["seconds"] / 60, 1)
    print(
        json.dumps(
            [
                row(
                    "a window of a long recording",
                    f"{args.minutes[-1]:g} minutes of 48 kHz stereo, windows of {WINDOW:g} s every {HOP:g} s",
                    times,
                    "audiotag timeline",
                    {"learn.predict": 5},
                    recordings=heard,
                    minutes_for_a_day=day,
                )
            ]
        )
    )


if __name__ == "__main__": main()
