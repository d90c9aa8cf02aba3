"""Compare the tagger with the learner on real clips: python benchmarks/equality.py [--archs mn04 ...] [--clips 50]

Each architecture is trained for some steps, so that its weights and batch norms differ from their initial values, and
exported as a bundle. A new process then predicts with both parts of the bundle: learner.pkl (fastai, torch) and
model.onnx (ONNX Runtime). The script prints the largest difference of a logit, for the whole clip (all crops) and
through the learner's data loader (one crop), and writes benchmarks/results/equality.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ARCHS = ("xresnet_small", "xresnet18", "resnet18", "mn04", "wave1d", "crnn")  # resnet18 is timm's
LIMIT = 1e-4


def train_bundle(arch: str, table, folder: Path, weights: Path | None = None, epochs: int = 3, bs: int = 16) -> Path:
    "Train a network on `table` for a few epochs and export it as a bundle"
    import torch

    from audiotag.export import save_bundle
    from audiotag.learner import RunConfig, make_learner
    from audiotag.models import default_config
    from audiotag.recipe import Recipe
    torch.manual_seed(0)
    given = str(weights) if weights and weights.exists() and arch == "mn04" else None
    recipe = Recipe(arch=arch, crop_seconds=2.0, bs=bs, epochs=epochs, weights=given)
    learn = make_learner(table.assign(split="train"), recipe, RunConfig(device="cpu"))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-3 if given else 1e-2)
    return save_bundle(
        folder / arch,
        learn.model,
        name=arch,
        labels=list(learn.dls.vocab),
        config=default_config(arch),
        crop_seconds=2.0,
        max_crops=4,
        learner=learn,
    )


def compare(folder: Path, paths: list[str]) -> dict:
    "The largest differences between the two parts of a bundle; run in a new process"
    import numpy as np
    import pandas as pd
    import torch
    from fastai.learner import load_learner

    import audiotag.data  # noqa: F401  (load_learner needs it)
    from audiotag.learner import predict_clips
    from audiotag.mel import SpectrogramConfig
    from audiotag.tagger import Tagger
    learn, tagger = load_learner(folder / "learner.pkl"), Tagger.load(folder, threads=1)
    config = SpectrogramConfig.from_dict(tagger.bundle.spectrogram)
    table = pd.DataFrame({"path": paths, "start": np.nan, "end": np.nan})
    whole, _ = predict_clips(learn.model, table, config, tagger.seconds, tagger.max_crops, device=torch.device("cpu"))
    served = np.stack([tagger.predict(path).logits for path in paths])
    with torch.inference_mode():
        one = [learn.model(learn.dls.test_dl([path]).one_batch()[0])[0].numpy() for path in paths]
    from audiotag.audio import read_clip
    crops = [tagger._cut(read_clip(path, tagger.sample_rate, trim_db=None)) for path in paths]
    first = [tagger._run(waves[:1], "logits")[0][0] for waves in crops]
    return {
        "clips": len(paths),
        "with_several_crops": sum(len(waves) > 1 for waves in crops),
        "whole_clip": float(np.abs(whole - served).max()),
        "first_crop_by_loader": float(np.abs(np.stack(one) - np.stack(first)).max()),
        "same_top_tag": float((whole.argmax(1) == served.argmax(1)).mean()),
        "spread_of_logits": round(float(served.std(0).mean()), 3),
    }


def compare_afresh(folder: Path, paths: list[str]) -> dict:
    "Run `compare` in a new process"
    done = subprocess.run(
        [sys.executable, __file__, "--compare", str(folder)],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode: sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--data", default=str(HERE.parent / "data"))
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compare: return print(json.dumps(compare(args.compare, json.loads(sys.stdin.read()))))
    from audiotag.datasets import read_dataset
    urban, fsd = (read_dataset(name, args.data) for name in ("urbansound8k", "fsdkaggle2018"))
    few = urban[urban.fold == 1].sample(160, random_state=0)
    paths = [
        *fsd.sample(args.clips // 2, random_state=1).path,
        *urban[urban.fold == 2].sample(args.clips - args.clips // 2, random_state=1).path,
    ]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in args.archs:
            bundle = train_bundle(arch, few, Path(folder), HERE.parent / "data/mn04_as_mAP_432.pt")
            found[arch] = compare_afresh(bundle, paths)
            row = found[arch]
            print(
                f"{arch:14} whole clip {row['whole_clip']:.1e}   "
                f"first crop, by the loader {row['first_crop_by_loader']:.1e}   "
                f"({row['with_several_crops']} of {row['clips']} clips have several crops)",
                flush=True,
            )
    result = {"command": "python benchmarks/equality.py", "limit": LIMIT, "largest_difference_of_a_logit": found}
    (HERE / "results/equality.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__": main()
