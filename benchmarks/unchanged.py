"""Check that a change of the code doesn't change the outputs of the package: record before and after, then compare

    python benchmarks/unchanged.py record OUT_DIR [--tree DIR] [--bundles DIR] [--no-run]
    python benchmarks/unchanged.py compare OLD_DIR NEW_DIR

`record` runs the package in DIR (default: the repository of this script) and writes OUT_DIR/results.json: the options
of every command, tables of clips, tags, images, out-of-fold predictions of short trainings, metrics of `audiotag run`.
It uses the command line and a few stable names of the library, in a temporary folder, and takes three to four minutes.
To test that new code reads old bundles, record with --bundles OLD_TREE/models. `compare` prints one line per check and
exits with 1 if something differs. Record both on the same machine, because rounding depends on the processor.
"""
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf

RESULTS = "results.json"
MADE_AT = 1_700_000_000  # seconds since 1970, the time of every clip: images carry it
VARYING = ("seconds", "runs")  # fields of printed JSON that differ from run to run
DATASETS = ("synthetic-urbansound8k", "synthetic-fsdkaggle2018")
BUNDLES = ("urbansound8k", "fsdkaggle2018")
CLASSES = {"dog_bark": 3, "jackhammer": 7, "siren": 8, "street_music": 9}  # of the small set: UrbanSound8K's numbers
TRAINING = ["--folds", "2", "--epochs", "1", "--device", "cpu", "--set", "bs=8", "--set", "crop_seconds=1"]
ODD = {  # name: rate, seconds, channels
    "eight_khz.wav": (8000, 2, 1), "flac.flac": (44100, 2, 1), "int16.wav": (44100, 5, 1), "long.wav": (16000, 70, 1),
    "ogg.ogg": (44100, 2, 1), "short.wav": (32000, 0.05, 1), "silence.wav": (32000, 2, 1), "stereo.wav": (48000, 3, 2),
    "very_long.flac": (8000, 610, 1),
}

CLI = "from audiotag.cli import main; main()"
RECIPE = "import json; from audiotag.recipe import Recipe; print(json.dumps(vars(Recipe())))"
TABLE = "import sys; from audiotag.datasets import read_dataset as read; print(read(sys.argv[1]).to_csv(index=False))"
TAGS = """
import json, sys
from audiotag import Tagger
tagger = Tagger.load(sys.argv[1], threads=1)
print(json.dumps({path: [(t.label, float(t.probability)) for t in tagger.tag(path, top=3)] for path in sys.argv[2:]}))
"""
OPTIONS = """
import json, typer
from audiotag.cli import main

def facts(param):
    names, default = sorted(param.opts + param.secondary_opts), getattr(param.default, "value", param.default)
    return [param.param_type_name, *names, str(default), param.envvar, param.required]

def walk(command, name):
    yield name, sorted(map(facts, command.params))
    for child, below in getattr(command, "commands", {}).items(): yield from walk(below, f"{name} {child}")

typer.Typer.__call__ = lambda app, **_: print(json.dumps(dict(walk(typer.main.get_command(app), "audiotag"))))
main()
"""


class Recorder:
    "Runs the package of a tree in a working folder, with one thread for torch"

    def __init__(self, tree: Path, work: Path):
        self.tree, self.work = tree, work
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIOTAG_", "GRADIO_"))}
        ones = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
        self.env = {**kept, **dict.fromkeys(ones, "1"), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tree)}
        if self.python("import audiotag; print(audiotag.__file__)").strip() != "TREE/audiotag/__init__.py":
            sys.exit(f"{tree}: another package than the one there was imported; does the folder hold audiotag?")

    def plain(self, data: bytes) -> bytes:
        "Replace the paths of this recording"
        return data.replace(str(self.work).encode(), b"WORK").replace(str(self.tree).encode(), b"TREE")

    def python(self, code: str, *args: object, expect: int = 0) -> str:
        "The output of code; ends the recording if the exit code is not the expected one"
        command = [sys.executable, "-c", code, *map(str, args)]
        done = subprocess.run(command, cwd=self.work, env=self.env, capture_output=True, check=False)
        if done.returncode != expect:
            said = (done.stdout + done.stderr).decode(errors="replace")
            sys.exit(f"exit code {done.returncode} in place of {expect}: {' '.join(command)}\n{said}")
        return self.plain(done.stdout).decode()

    def audiotag(self, *args: object, expect: int = 0) -> str:
        "The output of a command"
        return self.python(CLI, *args, expect=expect)

    def figures(self, *args: object, expect: int = 0) -> str:
        "The JSON output of a command, without the fields that vary between runs"
        def steady(fields: dict) -> dict: return {name: value for name, value in fields.items() if name not in VARYING}
        return json.dumps(json.loads(self.audiotag(*args, "--json", expect=expect), object_hook=steady))

    def digests(self, folder: str) -> dict[str, str]:
        "The SHA-256 of each file below a folder"
        files = sorted(path for path in (self.work / folder).rglob("*") if path.is_file())
        return {str(p.relative_to(self.work)): hashlib.sha256(self.plain(p.read_bytes())).hexdigest() for p in files}


def odd_sound(rate: int, seconds: float, channels: int) -> np.ndarray:  # (samples, channels)
    "Tones of varying pitch and level with noise, different in each channel"
    time, rng = np.arange(int(rate * seconds)) / rate, np.random.default_rng(0)
    tones = np.stack([np.sin(2 * np.pi * 300 * n * time + 9 * np.sin(5 * time)) for n in range(1, channels + 1)], 1)
    return (tones + 0.1 * rng.standard_normal(tones.shape)) * (0.3 + 0.2 * np.sin(4 * time))[:, None]


def make_sounds(recorder: Recorder) -> list[str]:  # 20 files to tag, seen from the working folder
    "Write the synthetic datasets, the files to tag (one invalid), and class folders with one invalid file"
    recorder.audiotag("data", "synthetic")
    work, made = recorder.work, recorder.work / "data/synthetic"
    clips, sounds = sorted(made.rglob("*.wav")), work / "sounds"
    sounds.mkdir()
    for clip in clips[:: len(clips) // 10][:10]: shutil.copy(clip, sounds)
    for name, (rate, seconds, channels) in ODD.items():
        sf.write(sounds / name, odd_sound(rate, seconds, channels) * (name != "silence.wav"), rate)
    (sounds / "broken.wav").write_text("this is no sound")
    for label, number in CLASSES.items():
        folder = work / "classes" / label
        folder.mkdir(parents=True)
        for clip in sorted(made.rglob(f"*-{number}-0-*.wav"))[:16]: shutil.copy(clip, folder)
    shutil.copy(sounds / "broken.wav", work / "classes/siren")
    for path in work.rglob("*.*"): os.utime(path, (MADE_AT, MADE_AT))
    return sorted(str(path.relative_to(work)) for path in sounds.iterdir())


def tags(recorder: Recorder, bundles: Path, files: list[str]) -> dict[str, str]:
    "The tags of the files by each bundle: as JSON, as tables, and by the library"
    found, whole = {}, [file for file in files if file != "sounds/broken.wav"]
    for name in BUNDLES:
        model = bundles / name
        found[f"{name}, tag --json"] = recorder.audiotag("tag", *files, "--json", "--model", model, expect=1)
        for table in ("x.csv", "x.jsonl"):
            recorder.audiotag("tag", "sounds", "--out", table, "--workers", 2, "--model", model, expect=1)
            found[f"{name}, tag --out {table}"] = (recorder.work / table).read_text()
            (recorder.work / table).unlink()
        found[f"{name}, Tagger.tag"] = recorder.python(TAGS, model, *whole)
    return found


def images(recorder: Recorder) -> dict[str, str]:
    "Digests of the files that `convert` writes, for two front ends"
    for front_end in ("default", "efficientat"):
        for dataset in (*DATASETS, "classes"):
            recorder.audiotag("convert", dataset, "--out", f"images/{front_end}/{dataset}", "--front-end", front_end,
                              "--workers", 2, expect=1 if dataset == "classes" else 0)
    return recorder.digests("images")


def answers(recorder: Recorder) -> dict[str, str]:
    "Metrics, out-of-fold predictions and weights of short trainings: from audio, images and a shipped bundle"
    ways = {"sounds": [], "images": ["--images", "images/default/classes"],
            "bundle": ["--from", recorder.tree / "models/urbansound8k"]}
    found = {}
    for name, options in ways.items():
        out = f"bundles/{name}"
        found[f"from {name}, figures"] = recorder.figures("train", "classes", *TRAINING, "--out", out, *options)
        found[f"from {name}, out_of_fold.csv"] = (recorder.work / out / "out_of_fold.csv").read_text()
        found[f"from {name}, weights"] = recorder.digests(out)[f"{out}/model.safetensors"]
    return found


def scores(recorder: Recorder) -> dict[str, str]:
    "Metrics of the shipped bundles, and the issues that `data check` finds"
    models = recorder.tree / "models"
    found = {f"{name}, out of fold": recorder.figures("evaluate", models / name, "--out-of-fold") for name in BUNDLES}
    found["evaluate"] = recorder.figures("evaluate", models / "urbansound8k", "classes", expect=1)
    found["data check"] = recorder.figures("data", "check", "classes", expect=1)
    return found


def record(tree: Path, bundles: Path, with_run: bool) -> dict[str, dict]:  # name of each check: what it found, by name
    "Record the outputs of the package of a tree"
    with tempfile.TemporaryDirectory(prefix="audiotag-unchanged-") as folder:
        recorder = Recorder(tree, Path(folder).resolve())
        files = make_sounds(recorder)
        return {
            "options of every command": json.loads(recorder.python(OPTIONS)),
            "fields of a recipe": json.loads(recorder.python(RECIPE)),
            "synthetic clips": recorder.digests("data"),
            "tables of clips": {name: recorder.python(TABLE, name) for name in (*DATASETS, "classes")},
            "tags": tags(recorder, tree / "models", files),
            "tags by the bundles of --bundles": tags(recorder, bundles, files),
            "images": images(recorder),
            "out-of-fold answers": answers(recorder),
            "figures of evaluate and check": scores(recorder),
            **({"figures of run": {"audiotag run": recorder.figures("run")}} if with_run else {}),
        }


def difference(old: object, new: object) -> str:
    "Show where two values start to differ"
    old, new = (value if isinstance(value, str) else json.dumps(value) for value in (old, new))
    start = max(0, len(os.path.commonprefix([old, new])) - 40)
    return f"{old[start:start + 80]!r} became {new[start:start + 80]!r}"


def compare(old: dict[str, dict], new: dict[str, dict]) -> bool:  # True where nothing differs
    "Print one line per check, and below it the first differences"
    same = True
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name, {}), new.get(name, {})
        changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key, ...) != after.get(key, ...)]
        said = f"{len(changed)} of {len(before | after)} differ" if changed else f"equal ({len(before)})"
        print(f"{name}: {said}")
        for key in changed[:5]:
            print(f"    {key}: {difference(before.get(key, '(not there)'), after.get(key, '(not there)'))}")
        same = same and not changed
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording, comparing = commands.add_parser("record"), commands.add_parser("compare")
    recording.add_argument("out", type=Path, metavar="OUT_DIR")
    recording.add_argument("--tree", type=Path, default=Path(__file__).parent.parent, help="the folder of audiotag/")
    recording.add_argument("--bundles", type=Path, help="bundles to tag with as well (default: models/ of the tree)")
    recording.add_argument("--no-run", action="store_true", help="skip `audiotag run`, the longest part")
    comparing.add_argument("old", type=Path, metavar="OLD_DIR")
    comparing.add_argument("new", type=Path, metavar="NEW_DIR")
    args = parser.parse_args()
    if args.command == "compare":
        for folder in (args.old, args.new):
            if not (folder / RESULTS).exists(): sys.exit(f"{folder} holds no recording: make it with `record`")
        old, new = (json.loads((folder / RESULTS).read_text()) for folder in (args.old, args.new))
        sys.exit(0 if compare(old, new) else 1)
    tree = args.tree.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    found = record(tree, (args.bundles or tree / "models").resolve(), not args.no_run)
    (args.out / RESULTS).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
