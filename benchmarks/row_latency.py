"One 5 s clip, file to tags, warm: the tagger, the same learner by fastai's predict, and eager torch after librosa"

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
from common import CORES, QUICK, ROOT, afresh, clips, row, spread, take

MODEL = ROOT / "models/urbansound8k"


def five_seconds(folder: Path) -> tuple[list[str], str]:
    "FSDKaggle2018 clips, cropped or repeated to 5 s at their sample rate, as WAV"
    table, kind = clips("fsdkaggle2018")
    files = []
    for i, path in enumerate(take(table, 40, seed=2).path):
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
        files.append(str(folder / f"{i}.wav"))
        sf.write(files[-1], np.resize(samples[:, 0], 5 * rate), rate)
    return files, kind


def eager(model_folder: Path):
    "librosa's load and mel spectrogram, then the network in torch"
    import librosa
    import torch

    from audiotag.learner import load_model
    model = load_model(model_folder).eval()
    def tag(path: str) -> list[int]:
        samples, rate = librosa.load(path, sr=32000)
        power = librosa.feature.melspectrogram(
            y=librosa.effects.preemphasis(samples),
            sr=rate,
            n_fft=1024,
            win_length=800,
            hop_length=320,
            n_mels=128,
            fmax=15000,
        )
        x = torch.from_numpy((librosa.power_to_db(power, top_db=None).clip(-50, 50) + 50) / 100)[None, None]
        with torch.inference_mode(): return model(x)[0].softmax(0).topk(3).indices.tolist()
    return tag


def small_integers(tagger, folder: Path):
    "The same graph with 8-bit weights (dynamic quantization)"
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from audiotag.tagger import Tagger
    graph = onnx.load(tagger.bundle.folder / "model.onnx")
    del graph.graph.value_info[:]  # the exported shapes contradict those that the quantizer infers
    onnx.save(graph, folder / "float.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    quantize_dynamic(folder / "float.onnx", folder / "int8.onnx", weight_type=QuantType.QUInt8)
    return Tagger(
        tagger.bundle,
        onnxruntime.InferenceSession(str(folder / "int8.onnx"), options, providers=["CPUExecutionProvider"]),
    )


def measured(ways: dict, files: list[str], rounds: int) -> dict[str, list[float]]:
    "Seconds for each file by each method, in turn"
    seconds = {name: [] for name in ways}
    for way in ways.values(): way(files[0])
    for _ in range(1 if QUICK else rounds):
        for path in files:
            for name, way in ways.items():
                start = time.perf_counter()
                way(path)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def default_threads(files: list[str]) -> dict[str, list[float]]:
    "The tagger with its default threads, on all cores, in a process where no other threads spin"
    from audiotag.tagger import Tagger
    tagger = Tagger.load(MODEL)
    return measured({f"audiotag, all crops, {CORES} threads": tagger.tag}, files, 3)


def main() -> None:
    if len(sys.argv) > 1: return print(json.dumps(default_threads(sys.argv[1:])))
    import torch
    from fastai.learner import load_learner

    import audiotag.data  # noqa: F401
    from audiotag.audio import crops, load_audio
    from audiotag.tagger import Tagger
    torch.set_num_threads(1)  # one thread per method: threads that spin would disturb the others
    tagger, one_crop, learn = Tagger.load(MODEL, 1), Tagger.load(MODEL, 1), load_learner(MODEL / "learner.pkl")
    one_crop.max_crops, more = 1, {}
    with tempfile.TemporaryDirectory() as tmp, learn.no_bar(), learn.no_logging():
        files, kind = five_seconds(Path(tmp))
        waves = crops(load_audio(files[0], tagger.sample_rate), tagger.crop, tagger.max_crops)
        ways = {
            "audiotag, one crop": one_crop.tag,
            f"audiotag, {len(waves)} crops": tagger.tag,
            "learn.predict": learn.predict,
            "librosa, then eager torch": eager(MODEL),
            "decode, resample, network alone": lambda path: (
                load_audio(path, tagger.sample_rate),
                tagger._run(waves[:1], "logits"),
            ),
        }
        try:
            small = small_integers(tagger, Path(tmp))
            ways["8-bit weights, all crops"] = small.tag
            same = sum(small.tag(file)[0].label == tagger.tag(file)[0].label for file in files)
            more["int8"] = f"8-bit weights: same first tag on {same} of {len(files)} clips"
        except Exception as error:  # noqa: BLE001
            more["int8"] = f"8-bit weights not measured: {type(error).__name__}"
        seconds = measured(ways, files, 3) | afresh("row_latency.py", *files)
    percentiles = {
        name: {
            "p50_ms": round(1e3 * float(np.percentile(t, 50)), 2),
            "p95_ms": round(1e3 * float(np.percentile(t, 95)), 2),
        }
        for name, t in seconds.items()
    }
    print(
        json.dumps(
            [
                row(
                    "one 5 s clip, file to tags, warm",
                    f"{len(files)} {kind}, cut to 5 s; a crop of {tagger.seconds:g} s, "
                    "as learn.predict hears it; one thread each",
                    {name: spread(t) for name, t in seconds.items()},
                    "audiotag, one crop",
                    {"learn.predict": 5},
                    ("decode, resample, network alone",),
                    percentiles=percentiles,
                    **more,
                )
            ]
        )
    )


if __name__ == "__main__": main()
