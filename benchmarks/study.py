"""The training runs of the studies (notebooks 40 to 42)

    python benchmarks/study.py arms|ablation|noisy|representations [--data DIR] [--weights FILE]

Each row is one `audiotag train ... --json`. Its output and its command are saved in
benchmarks/results/STUDY/NAME.json; existing rows are not run again.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from audiotag.datasets import read_dataset

RESULTS = Path(__file__).parent / "results"
PRETRAINED = "--arch mn04 --weights {weights}"
# From scratch, mn04 needs a lower learning rate and more augmentation; tuned on UrbanSound8K: trained on fold 1,
# tested on fold 2
HOW = " --set lr=0.003 --set gain_db=6 --set filter_db=6"
NOTHING = "--arch mn04" + HOW
# 5 epochs for every representation are enough to rank them, but not to converge
SCRATCH = "--test-fold 3 --set epochs=5"
STUDIES = {
    "arms": {  # official folds of UrbanSound8K, grouped folds of FSDKaggle2018; shipped: the bundles in models/
        "urbansound8k-shipped": "urbansound8k --folds 3 " + PRETRAINED + " --set soup=3 --out models/urbansound8k",
        "fsdkaggle2018-shipped": "fsdkaggle2018 --folds 5 " + PRETRAINED + " --set soup=3 --out models/fsdkaggle2018",
        # Many epochs and pitch shifts (at 60 epochs) were better on the inner splits; see 40_fsdkaggle2018
        "fsdkaggle2018-scratch": "fsdkaggle2018 --folds 5 --arch xresnet_small --set epochs=120",
        "fsdkaggle2018-scratch-pitch": "fsdkaggle2018 --folds 5 --arch xresnet_small --set epochs=120 --set pitch=4",
        "fsdkaggle2018-scratch-mn04": "fsdkaggle2018 --folds 5 --out models/run-fsd-scratch " + NOTHING,
        # PCEN was chosen by training on fold 1 and testing on fold 2, and vice versa
        "urbansound8k-scratch": "urbansound8k --folds 3 --arch xresnet_small --input pcen",
        "urbansound8k-scratch-mn04": "urbansound8k --folds 3 " + NOTHING,
        "fsdkaggle2018-held-out": "fsdkaggle2018 --out models/run-fsdkaggle2018 " + PRETRAINED,
        "fold3-by-way-of-fsd": "urbansound8k --test-fold 3 --from models/run-fsdkaggle2018",
        "fold3-direct": "urbansound8k --test-fold 3 " + PRETRAINED,
        "fold3-scratch": "urbansound8k --test-fold 3 --set epochs=9 " + NOTHING,
        "fold3-from-fsd": "urbansound8k --test-fold 3 --from models/run-fsd-scratch --set epochs=9 --set lr_div=1"
        + HOW,
    },
    "ablation": {  # {pair}: folds 1 and 2 of UrbanSound8K, each tested with a network trained on the other
        "recipe": "{pair} --folds 2 " + PRETRAINED
    }
    | {
        name: "{pair} --folds 2 " + PRETRAINED + " --set " + changed
        for name, changed in {
            "no mixup": "mixup=0",
            "cutmix instead": "mixup=0 --set cutmix=0.3",
            "no roll": "roll=false",
            "label smoothing 0.1": "label_smoothing=0.1",
            "masks": "time_mask=0.1 --set freq_mask=0.125",
            "gain and filter": "gain_db=6 --set filter_db=6",
            "pitch": "pitch=2",
            "low-pass": "lowpass=0.5",
            "noise": "noise=0.5",
            "clips equally often": "balance=none",
            "all layers as fast": "lr_div=1",
            "gradual unfreezing": "unfreeze=1",
            "average of weights": "ema=0.98",
            "three networks averaged": "soup=3",
            "no made noise": "outliers=0",
            "another seed": "seed=1",
        }.items()
    },
    "noisy": {  # label noise in the training clips of each fold; twice as many clips are marked as unverified
        "true labels": "fsdkaggle2018 --folds 3 " + PRETRAINED
    }
    | {
        name: "fsdkaggle2018 --folds 3 " + PRETRAINED + " --set wrong_labels=0.3" + done
        for name, done in {
            "nothing done": "",
            "drawn less often": " --set unverified_weight=0.3",
            "least likely ignored": " --set mask_share=0.5",
            "verified clips only": " --set unverified_weight=0",
            "self-verified": " --set self_verify=1",
        }.items()
    },
    "representations": {  # from scratch on folds 1 and 2, tested on fold 3
        name: "urbansound8k " + SCRATCH + " " + how
        for name, how in {
            "log-mel": "--arch xresnet_small",
            "MFCC": "--arch xresnet_small --input mfcc",
            "PCEN": "--arch xresnet_small --input pcen",
            "log-mel with deltas": "--arch xresnet_small --input delta",
            "CNN and GRU": "--arch crnn",
            "MobileNetV3": "--arch mn04",
            "raw waveform": "--arch wave1d",
            "several labels": "--arch xresnet_small --multilabel",
        }.items()
    },
}


def pair_of_folds(data: str) -> Path:
    "Write a CSV of the clips in folds 1 and 2 of UrbanSound8K"
    table, file = read_dataset("urbansound8k", data), Path("runs/urbansound8k-folds-1-2.csv")
    file.parent.mkdir(exist_ok=True)
    table[table.fold.isin([1, 2])].to_csv(file, index=False)
    return file


def run(name: str, study: str, data: str, weights: str) -> None:
    "Run a row unless its results exist"
    kept = RESULTS / study / f"{name}.json"
    if kept.exists(): return
    how = STUDIES[study][name].format(weights=weights, pair="runs/urbansound8k-folds-1-2.csv")
    command, began = f"audiotag train {how} --data {data} --json", time.perf_counter()
    print(f"{study}, {name}: {command}", file=sys.stderr, flush=True)
    printed = subprocess.run(
        [Path(sys.executable).with_name("audiotag"), *shlex.split(command)[1:]],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(
        json.dumps({"command": command, "seconds": round(time.perf_counter() - began)} | json.loads(printed), indent=1)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="data/mn04_as_mAP_432.pt")
    parser.add_argument("--only", nargs="*", help="rows to run (default: all)")
    given = parser.parse_args()
    if given.study == "ablation": pair_of_folds(given.data)
    for name in given.only or STUDIES[given.study]: run(name, given.study, given.data, given.weights)


if __name__ == "__main__": main()
