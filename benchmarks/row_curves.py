"Accuracy on fold 2 of UrbanSound8K by seconds of training on fold 1: audiotag, resnet18 on PNGs, logistic regression"

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import CORES, DEVICE, QUICK, WEIGHTS, afresh, clips, take
from row_loader import paint

EPOCHS = {"ours": 2 if QUICK else 6, "students": 2 if QUICK else 6}  # not tuned on fold 2
N = 400 if QUICK else 10_000


def split() -> tuple["pandas.DataFrame", "pandas.DataFrame", str]:  # noqa: F821
    "Training clips (fold 1), test clips (fold 2) and a description"
    table, kind = clips("urbansound8k")
    return take(table[table.fold == 1], N), take(table[table.fold == 2], N), kind


def watched(learn, epochs: int, lr: float, score, started: float) -> list[list[float]]:
    "Fit; [seconds, accuracy] after each epoch, without the time of scoring"
    from fastai.callback.core import Callback

    class Watch(Callback):
        "Score after each epoch, with the clock stopped"
        points, off = [], 0.0
        def before_validate(self): self.learn.dl = []
        def after_epoch(self):
            now = time.perf_counter()
            self.points.append([round(now - started - self.off, 1), round(score(), 4)])
            self.off += time.perf_counter() - now
            self.learn.model.train()

    watch = Watch()
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(watch): learn.fit_one_cycle(epochs, lr)
    return watch.points


def ours() -> dict:
    "The recipe of `audiotag train --arch mn04 --weights ...` (xresnet_small if the weights are missing)"
    from audiotag.calibration import encode_targets
    from audiotag.learner import RunConfig, make_learner, predict_clips
    from audiotag.models import default_config
    from audiotag.recipe import recipe_for
    train, test, kind = split()
    labels = sorted(train.label.unique())
    settings = {"arch": "mn04", "weights": str(WEIGHTS)} if WEIGHTS.exists() else {"arch": "xresnet_small"}
    started = time.perf_counter()
    recipe = recipe_for(settings | {"epochs": str(EPOCHS["ours"])}, len(train))
    learn = make_learner(train.assign(split="train"), recipe, RunConfig(device=DEVICE), labels=labels)
    learn.metrics = []

    def score() -> float:
        logits = predict_clips(learn.model, test, default_config(recipe.arch), recipe.crop_seconds, 3)[0]
        return float((logits.argmax(1) == encode_targets(test, labels)).mean())

    return {
        "arm": f"audiotag, {recipe.arch}",
        "points": watched(learn, recipe.epochs, recipe.lr, score, started),
        "on": f"{len(train)} {kind} of fold 1, tested on {len(test)} of fold 2",
    }


def students() -> dict:
    "Color PNGs, Resize(128), torchvision's resnet18 by fastai; from scratch (no ImageNet weights available)"
    import pandas as pd
    import torch
    from fastai.vision.all import (
        CategoryBlock,
        ColReader,
        ColSplitter,
        CrossEntropyLossFlat,
        DataBlock,
        ImageBlock,
        Resize,
        resnet18,
        vision_learner,
    )
    train, test, _ = split()
    with tempfile.TemporaryDirectory() as folder:
        tested = Path(folder) / "test"
        tested.mkdir()
        test = test.assign(image=paint(test, tested), is_valid=True)
        started = time.perf_counter()
        train = train.assign(image=paint(train, Path(folder)), is_valid=False)
        block = DataBlock(
            (ImageBlock, CategoryBlock),
            get_x=ColReader("image"),
            get_y=ColReader("label"),
            splitter=ColSplitter(),
            item_tfms=Resize(128),
        )
        dls = block.dataloaders(pd.concat([train, test]), bs=32, num_workers=0, device=DEVICE)
        learn = vision_learner(dls, resnet18, pretrained=False, loss_func=CrossEntropyLossFlat())
        def score() -> float:
            hits = 0
            with torch.inference_mode():
                for x, y in dls.valid: hits += int((learn.model.eval()(x).argmax(1) == y).sum())
            return hits / len(test)

        return {
            "arm": "students: coloured PNGs, resnet18",
            "points": watched(learn, EPOCHS["students"], 3e-3, score, started),
        }


def embeddings() -> dict:
    "Logistic regression on embeddings of the frozen AudioSet network, for a quarter, half and all of the clips"
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from audiotag.audio import read_clip
    from audiotag.tagger import Tagger
    from audiotag.training import wrap_pretrained

    if not WEIGHTS.exists():
        return {"arm": "logistic regression on embeddings", "skipped": f"{WEIGHTS.name} is not in data/"}
    train, test, _ = split()
    train, points, spent, seen = train.sample(frac=1, random_state=0), [], 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        tagger = Tagger.load(wrap_pretrained("mn04", Path(folder) / "audioset", WEIGHTS))

        def embed(table) -> list:
            return [
                tagger.predict((read_clip(c.path, tagger.sample_rate, c.start, c.end), tagger.sample_rate)).embedding
                for c in table.itertuples()
            ]

        tested = np.stack(embed(test))
        for share in (0.25, 0.5, 1.0):
            start = time.perf_counter()
            seen += embed(train.iloc[len(seen):round(share * len(train))])
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
                np.stack(seen), train.label.iloc[: len(seen)]
            )
            spent += time.perf_counter() - start
            points.append([round(spent, 1), round(float((model.predict(tested) == test.label).mean()), 4)])
    return {"arm": "logistic regression on embeddings", "points": points}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--arm",
        choices=["ours", "students", "embeddings"],
        help="run one in this process (default: all, one after the other)",
    )
    arm = parser.parse_args().arm
    import torch
    torch.set_num_threads(CORES)
    if arm: return print(json.dumps({"ours": ours, "students": students, "embeddings": embeddings}[arm]()))
    arms = [afresh("row_curves.py", "--arm", arm, timeout=900) for arm in ("ours", "students", "embeddings")]
    print(json.dumps([{"what": "accuracy against seconds of training", "on": arms[0]["on"], "curves": arms}]))


if __name__ == "__main__": main()
