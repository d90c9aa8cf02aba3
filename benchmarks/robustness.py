"""Accuracy on corrupted recordings, with and without augmentation

    python benchmarks/robustness.py [--data DIR] [--weights FILE]

Trains three networks on folds 1 and 2 of UrbanSound8K and tests them on fold 3 with each corruption of
`audiotag.robustness.CORRUPTIONS`. Writes benchmarks/results/robustness.json, and bundles to models/run-*.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from audiotag.datasets import read_dataset
from audiotag.robustness import robustness

WAYS = {
    "none": "--set mixup=0 --set roll=false --set outliers=0",
    "recipe": "",
    "noise and low-pass": "--set noise=0.5 --set lowpass=0.5",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="data/mn04_as_mAP_432.pt")
    given = parser.parse_args()
    table = read_dataset("urbansound8k", given.data)
    found = {}
    for name, changes in WAYS.items():
        out = f"models/run-robust-{name.split()[0]}"
        command = (
            f"audiotag train urbansound8k --data {given.data} --arch mn04 --weights {given.weights} "
            f"--test-fold 3 --out {out} {changes}".strip()
        )
        subprocess.run([Path(sys.executable).with_name("audiotag"), *command.split()[1:]], check=True)
        found[name] = {"command": command, "rows": robustness(out, table[table.fold == 3]).round(4).to_dict("index")}
        print(name, found[name]["rows"], flush=True)
    Path("benchmarks/results/robustness.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__": main()
