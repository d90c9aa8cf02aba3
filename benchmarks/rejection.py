"""Compare scores for rejecting unknown sounds

    python benchmarks/rejection.py urbansound8k|fsdkaggle2018 [--set outliers=0] [--apart 3]

Two classes of the dataset are excluded from training, five times, a different pair each time.

known    clips of the other classes in a held-out fold
unknown  clips of the two classes in the held-out fold (all folds of FSDKaggle2018, because its folds are small)
noise    50 synthetic clips of silence and of white, pink and brown noise

UrbanSound8K is trained on fold 1 and tested on fold 2, so fold 3 is not used. --apart 3 selects other pairs, to
check a score that was chosen on the first ones. Writes benchmarks/results/rejection-SET.json (with an option:
rejection-SET-OPTION.json), one row per pair and score.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from audiotag.calibration import fit_temperature, encode_targets
from audiotag.datasets import assign_folds, drop_rare_labels, read_dataset
from audiotag.learner import RunConfig, predict_clips
from audiotag.recipe import recipe_for
from audiotag.robustness import threshold_at_tpr, auroc, fpr_at_tpr, ood_scores, noise_clips
from audiotag.spectrogram import front_end
from audiotag.training import train_learner


def hear(model, table: pd.DataFrame, recipe) -> np.ndarray:
    "Mean embeddings over crops (clips, features); the head is linear, so it maps them to mean logits"
    return predict_clips(model, table, RunConfig().front_end(recipe), recipe.crop_seconds, recipe.max_crops)[1]


def hear_noise(model, recipe) -> np.ndarray:
    "Embeddings of 50 synthetic noise clips"
    config = RunConfig().front_end(recipe)
    with torch.inference_mode():
        return np.concatenate(
            [
                model.embed(front_end(config)(torch.from_numpy(wave[None]))).numpy()
                for _, wave in noise_clips(50, recipe.crop_seconds, config.sample_rate)
            ]
        )


def rotation(table: pd.DataFrame, left_out: list[str], fold: int, recipe) -> list[dict]:
    "Train without two classes; one row per score"
    known = table[~table.label.isin(left_out)]
    labels, held = sorted(known.label.unique()), (known.fold == fold).to_numpy(bool)
    learned = known[~held].assign(split="train")
    model = train_learner(learned, recipe, labels, RunConfig(device="cpu"))[0].model.eval()
    strange = table[table.label.isin(left_out)]
    if len(table) > 500: strange = strange[strange.fold == fold]
    parts = {
        "learned": hear(model, learned, recipe),
        "known": hear(model, known[held], recipe),
        "unknown": hear(model, strange, recipe),
        "noise": hear_noise(model, recipe),
    }
    with torch.inference_mode():
        logits = {name: model.head(torch.from_numpy(part)).numpy() for name, part in parts.items()}
    temperature = fit_temperature(logits["known"], encode_targets(known[held], labels))
    scores = {
        name: ood_scores(logits[name], temperature, parts[name], parts["learned"], encode_targets(learned, labels))
        for name in ("known", "unknown", "noise")
    }
    right = float((logits["known"].argmax(1) == encode_targets(known[held], labels)).mean())
    return [
        {
            "left_out": left_out,
            "score": score,
            "auroc": auroc(values, scores["unknown"][score]),
            "false_accepts": fpr_at_tpr(values, scores["unknown"][score]),
            "noise_accepted": int((scores["noise"][score] >= threshold_at_tpr(values)).sum()),
            "known": int(held.sum()),
            "unknown": len(strange),
            "accuracy": right,
        }
        for score, values in scores["known"].items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=["urbansound8k", "fsdkaggle2018"])
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="data/mn04_as_mAP_432.pt")
    parser.add_argument("--set", default="", help="a field of the recipe, such as outliers=0")
    parser.add_argument("--apart", type=int, default=5, help="distance of a pair in the list of classes")
    given = parser.parse_args()
    table = assign_folds(drop_rare_labels(read_dataset(given.dataset, given.data), 5), 5)
    if given.dataset == "urbansound8k": table = table[table.fold.isin([1, 2])].reset_index(drop=True)
    labels, rows, began = sorted(table.label.unique()), [], time.perf_counter()
    fold = 2 if given.dataset == "urbansound8k" else int(table.fold.min())
    settings = {"arch": "mn04", "weights": given.weights} | (
        {given.set.split("=")[0]: given.set.split("=")[1]} if given.set else {}
    )
    for i in range(5):
        recipe = recipe_for(settings, int((table.fold != fold).sum() * .8))
        rows += rotation(table, [labels[i], labels[(i + given.apart) % len(labels)]], fold, replace(recipe, seed=i))
        print(json.dumps(rows[-6:]), file=sys.stderr, flush=True)
    means = pd.DataFrame(rows).groupby("score")[["auroc", "false_accepts", "noise_accepted"]].mean().round(4)
    options = ([f"--set {given.set}"] if given.set else []) + ([f"--apart {given.apart}"] if given.apart != 5 else [])
    name = "-".join(
        ["rejection", given.dataset, *(option[2:].replace(" ", "-").replace("=", "-") for option in options)]
    )
    command = " ".join([f"python benchmarks/rejection.py {given.dataset}", *options])
    Path(f"benchmarks/results/{name}.json").write_text(
        json.dumps(
            {
                "command": command,
                "means": means.T.to_dict(),
                "rows": rows,
                "seconds": round(time.perf_counter() - began),
            },
            indent=1,
        )
    )
    print(means.sort_values("auroc", ascending=False))


if __name__ == "__main__": main()
