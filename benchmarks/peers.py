"""Baselines on the same clips and folds: python benchmarks/peers.py embeddings|students fsdkaggle2018|urbansound8k

embeddings  logistic regression on the mean embedding of a frozen AudioSet mn04 (scikit-learn's defaults on
            standardized features)
students    color PNGs by librosa and matplotlib, Resize(128), and torchvision's resnet18 by fastai's vision_learner;
            from scratch, because its ImageNet weights could not be downloaded

Writes benchmarks/results/SET-peer-NAME.json: one row per fold, mean, standard deviation and seconds.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from audiotag.audio import load_audio
from audiotag.datasets import assign_folds, drop_rare_labels, read_dataset
from audiotag.metrics import classification_metrics


def embeddings(table: pd.DataFrame, weights: Path) -> np.ndarray:
    "Embeddings (clips, 512) of the frozen network, averaged over crops"
    from audiotag.tagger import Tagger
    from audiotag.training import wrap_pretrained
    with tempfile.TemporaryDirectory() as folder:
        tagger = Tagger.load(wrap_pretrained("mn04", Path(folder) / "audioset", weights))
        return np.stack(
            [
                tagger.predict((load_audio(c.path, tagger.sample_rate, c.start, c.end), tagger.sample_rate)).embedding
                for c in table.itertuples()
            ]
        )


def logistic(features: np.ndarray, targets: np.ndarray, held: np.ndarray) -> np.ndarray:
    "Probabilities of the held-out clips"
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        .fit(features[~held], targets[~held])
        .predict_proba(features[held])
    )


def paint(clip, file: Path) -> None:
    "Write a color spectrogram: librosa's mel spectrogram in dB relative to the peak, with viridis"
    import librosa
    import matplotlib.pyplot as plt
    samples, rate = librosa.load(clip.path, sr=22050)
    plt.imsave(
        file,
        librosa.power_to_db(librosa.feature.melspectrogram(y=samples, sr=rate), ref=np.max),
        cmap="viridis",
        origin="lower",
    )


def resnet(table: pd.DataFrame, held: np.ndarray, labels: list[str], epochs: int) -> np.ndarray:
    "Probabilities of the held-out clips by resnet18, trained on the PNGs of the other clips"
    from fastai.vision.all import (
        CategoryBlock,
        ColReader,
        CrossEntropyLossFlat,
        DataBlock,
        ImageBlock,
        Resize,
        resnet18,
        vision_learner,
    )

    block = DataBlock(
        (ImageBlock, CategoryBlock(vocab=labels)),
        get_x=ColReader("image"),
        get_y=ColReader("label"),
        splitter=lambda t: (list(np.where(~held)[0]), list(np.where(held)[0])),
        item_tfms=Resize(128),
    )
    learn = vision_learner(
        block.dataloaders(table, bs=32, num_workers=0), resnet18, pretrained=False, loss_func=CrossEntropyLossFlat()
    )
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 3e-3)
    return learn.get_preds()[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["embeddings", "students"])
    parser.add_argument("dataset", choices=["fsdkaggle2018", "urbansound8k"])
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", type=Path, default=Path("data/mn04_as_mAP_432.pt"))
    parser.add_argument("--epochs", type=int, default=0, help="for students; 0: enough to sample 6,000 clips")
    given = parser.parse_args()
    table = assign_folds(drop_rare_labels(read_dataset(given.dataset, given.data), 5), 5)
    labels = sorted(table.label.unique())
    targets, rows, began = pd.Categorical(table.label, categories=labels).codes.astype(int), [], time.perf_counter()
    if given.peer == "embeddings": features = embeddings(table, given.weights)
    else:
        pictures = Path(tempfile.mkdtemp(prefix="viridis-"))
        table["image"] = [pictures / f"{clip}.png" for clip in table.clip_id]
        for clip in table.itertuples(): paint(clip, clip.image)
    for fold in sorted(table.fold.unique()):
        held = (table.fold == fold).to_numpy()
        epochs = given.epochs or round(6000 / (~held).sum())
        probs = logistic(features, targets, held) if given.peer == "embeddings" else resnet(table, held, labels, epochs)
        figures = classification_metrics(probs, targets[held], labels)
        rows.append({"fold": int(fold)} | {k: figures[k] for k in ("clips", "accuracy", "map3")})
        print(rows[-1], file=sys.stderr, flush=True)
    mean, std = (
        {k: round(float(of([r[k] for r in rows])), 4) for k in ("accuracy", "map3")} for of in (np.mean, np.std)
    )
    result = {
        "command": f"python benchmarks/peers.py {given.peer} {given.dataset}",
        "folds": rows,
        "mean": mean,
        "std": std,
        "seconds": round(time.perf_counter() - began),
    }
    Path(f"benchmarks/results/{given.dataset}-peer-{given.peer}.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result))


if __name__ == "__main__": main()
