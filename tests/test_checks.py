"""The checks of a dataset, from fresh processes: every planted fault is found, by the library and by the command."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audiotag.checks import check
from audiotag.datasets import DATASETS, assign_splits, read_csv, read_folder
from audiotag.checks import distance, fingerprint, measure, near_duplicates

RATE = 22050


def sound(seed: int, seconds: float = .6) -> np.ndarray:
    "A sound unlike any other seed's: five decaying partials and some noise"
    rng, t = np.random.default_rng(seed), np.arange(round(seconds*RATE))/RATE
    parts = [np.exp(-rng.uniform(1, 9)*t)*np.sin(2*np.pi*rng.uniform(150, 3500)*t) for _ in range(5)]
    return (.1*sum(parts)+.003*rng.standard_normal(len(t))).astype("float32")


def write(path: Path, samples: np.ndarray, rate: int = RATE, **kw) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, rate, **kw)
    return path


def make(folder: Path, clips: int = 16) -> Path:
    "train and valid, two labels, nothing wrong"
    for i in range(clips): write(folder/("valid" if i % 4 == 0 else "train")/"ab"[i//4 % 2]/f"{i}.wav", sound(i))
    return folder


def faults(table, **kw) -> str: return "\n".join(check(table, progress=False, workers=1, **kw).errors)


def test_nothing_wrong(tmp_path):
    checked = check(read_folder(make(tmp_path)), progress=False)
    assert checked.errors == []
    assert str(checked).endswith("no faults")
    assert checked.facts["splits"] == {"train": 12, "valid": 4}
    assert checked.facts["labels"] == {"a": {"clips": 8, "verified": 8}, "b": {"clips": 8, "verified": 8}}
    assert checked.facts["seconds"] == {"min": .6, "median": .6, "max": .6}


def test_leaked_source(tmp_path):
    table = read_folder(make(tmp_path))
    table.loc[[0, 15], "source_id"] = "12345"
    assert set(table.split[[0, 15]]) == {"train", "valid"}
    assert faults(table) == "1 source lies in more than one split or fold: 12345 in train and valid"
    table["split"] = "train"
    assert faults(table) == "", "one recording within a split is no leak"
    table["fold"] = table.fold.where(table.index % 2 == 0, 1).fillna(2)
    assert faults(table) == "1 source lies in more than one split or fold: 12345 in train fold 1 and train fold 2"


def test_official_folds_of_urbansound8k_with_a_leak(tmp_path):
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for i in range(6):
        write(tmp_path/f"audio/fold{i % 3+1}/{i}-3-0-0.wav", np.resize(sound(i), 4*RATE))
        rows.append(f"{i}-3-0-0.wav,{min(i, 4)},2.0,{2.6 if i != 1 else 6.0},1,{i % 3+1},3,dog_bark")
    (tmp_path/"metadata").mkdir()
    (tmp_path/"metadata/UrbanSound8K.csv").write_text("\n".join(rows))
    checked = check(DATASETS["urbansound8k"].read(tmp_path), progress=False, workers=1)
    assert checked.errors == ["1 source lies in more than one split or fold: 4 in train fold 2 and train fold 3"]
    assert checked.facts["folds"] == {"1": 2, "2": 2, "3": 2}
    assert sorted(checked.files.seconds.round(1)) == pytest.approx([.6]*5+[4]), "a looped clip counts once around"


def test_looped_clips_are_judged_by_their_own_part(tmp_path):
    "The same looped file, cut to different parts by its row: not equal; other files with the same part: equal"
    a, b, c = sound(1), sound(2), sound(3)
    write(tmp_path/"1.wav", np.concatenate([a, b]))
    write(tmp_path/"2.wav", np.concatenate([a, c]))
    (tmp_path / "t.csv").write_text(
        "fname,label,start,end,source_id\n1.wav,x,0,0.6,7\n2.wav,x,0,0.6,8\n1.wav,x,0.6,1.2,7\n2.wav,x,0.6,1.2,8\n"
    )
    found = check(read_csv(tmp_path/"t.csv"), progress=False, workers=1).issues
    assert found["exact_duplicates"] == [["1.wav@0-0.6", "2.wav@0-0.6"]]
    assert found["near_duplicates"] == []


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_truncated_file(tmp_path, ending):
    table = make(tmp_path)
    path = write(table/"train"/"a"/f"cut.{ending}", np.concatenate([sound(i, 2) for i in range(50, 56)]))
    assert faults(read_folder(tmp_path)) == ""
    path.write_bytes(path.read_bytes()[:path.stat().st_size*2//5])
    found = faults(read_folder(tmp_path))
    assert found.startswith("1 clip can't be used: cut.")
    assert any(words in found for words in ("is cut off", "are announced", "is damaged"))


@pytest.mark.parametrize("content, words", [
    (b"", "bad.wav is empty (0 bytes)"),
    (b"hello, world", "bad.wav is not a sound file"),
    (b"RIFF\x24\0\0\0WAVE", "bad.wav"),
])
def test_unreadable_file(tmp_path, content, words):
    make(tmp_path)
    (tmp_path/"train"/"a"/"bad.wav").write_bytes(content)
    found = faults(read_folder(tmp_path))
    assert found.startswith("1 clip can't be used: ") and words in found


def test_file_that_went_away_after_the_table_was_read(tmp_path):
    table = read_folder(make(tmp_path))
    Path(table.path[3]).unlink()
    assert faults(table).startswith("1 clip can't be used: ") and "is not there" in faults(table)


@pytest.mark.filterwarnings("ignore::audiotag.datasets.DatasetWarning")
def test_file_that_the_table_lists_and_nobody_has(tmp_path):
    write(tmp_path/"1.wav", sound(1))
    (tmp_path/"t.csv").write_text("fname,label\n1.wav,x\n2.wav,x\n")
    assert faults(read_csv(tmp_path/"t.csv")) == "1 file is in the table but not on disk: 2.wav"


def test_equal_clips_under_other_names_and_formats(tmp_path):
    samples = (32767*sound(1)).astype("int16")
    make(tmp_path)
    write(tmp_path/"train"/"a"/"one.wav", samples)
    write(tmp_path/"valid"/"b"/"two.flac", samples)
    checked = check(read_folder(tmp_path), progress=False, workers=1)
    for issue in ("exact_duplicates", "crossing_exact", "label_conflicts"):
        assert checked.issues[issue] == [["train/a/one", "valid/b/two"]]
    assert [f for f in checked.errors if "equal" in f] == [
        "1 group of equal clips lies in more than one split or fold: train/a/one = valid/b/two"
    ]


@pytest.mark.parametrize("ending, gain, rate", [
    ("ogg", .5, RATE), ("mp3", .7, RATE), ("wav", .1, RATE), ("ogg", 1.5, 16000),
])
def test_near_copy(tmp_path, ending, gain, rate):
    "Encoded again, at another level, at another rate"
    import soxr
    make(tmp_path)
    write(tmp_path/"valid"/"b"/f"copy.{ending}", gain*soxr.resample(sound(1), RATE, rate), rate)
    checked = check(read_folder(tmp_path), progress=False, workers=1)
    assert checked.issues["crossing_near"] == [["train/a/1", "valid/b/copy"]] and not checked.issues["exact_duplicates"]
    assert checked.errors == [
        "1 group of clips that sound the same lies in more than one split or fold: train/a/1 = valid/b/copy"
    ]


def test_near_copy_within_a_split_is_a_note(tmp_path):
    make(tmp_path)
    write(tmp_path/"train"/"b"/"copy.ogg", .5*sound(1))
    checked = check(read_folder(tmp_path), progress=False, workers=1)
    assert checked.errors == [] and "note: 1 group of clips sounds the same: train/a/1 = train/b/copy" in str(checked)


def test_silent_and_distorted(tmp_path):
    make(tmp_path)
    for i in (1, 2): write(tmp_path/"train"/"a"/f"silent{i}.wav", np.zeros(RATE))
    write(tmp_path/"train"/"a"/"loud.wav", np.clip(50*sound(99), -1, 1))
    checked = check(read_folder(tmp_path), progress=False, workers=1)
    assert checked.errors == ["2 clips are silent: train/a/silent1; train/a/silent2"], (
        "and they are no copies of each other"
    )
    assert checked.issues["clipped"] == ["train/a/loud"]


def test_processes_give_the_same_as_one(tmp_path):
    table = read_folder(make(tmp_path, 140)) # three chunks
    one, two = (check(table, progress=False, workers=n) for n in (1, 2))
    assert one.to_dict() == two.to_dict() and one.files.equals(two.files)


def test_from_a_script_without_main_guard(tmp_path):
    script = tmp_path/"script.py"
    make(tmp_path/"clips", 140)
    script.write_text(
        "from audiotag.checks import check\n"
        "from audiotag.datasets import read_folder\n"
        "import sys\n"
        "print(check(read_folder(sys.argv[1]), workers=2).facts['clips'])\n"
    )
    done = subprocess.run([sys.executable, script, tmp_path/"clips"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "140\n", ""), "no bar either, in a pipe"


def command(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from audiotag.cli import main; main()", "data", "check", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command(tmp_path):
    done = command(make(tmp_path))
    assert done.returncode == 0 and "16 clips, 2 labels" in done.stdout and "no faults" in done.stdout
    write(tmp_path/"train"/"a"/"silent.wav", np.zeros(RATE))
    done = command(tmp_path, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1 and document["clips"] == 17 and document["silent"] == ["train/a/silent"]
    assert document["faults"] == ["1 clip is silent: train/a/silent"]
    done = command(tmp_path/"nowhere")
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1


def test_many_copies_of_one_are_one_group():
    "A crowded box: not every pair is compared, and still all are linked"
    fingerprints = np.stack([fingerprint(sound(i), RATE) for i in range(30)])
    many = np.concatenate([fingerprints, np.repeat(fingerprints[:1], 300, 0)])
    pairs = near_duplicates(many)
    linked = {0}
    while (more := linked | {int(x) for pair in pairs if linked & set(pair.tolist()) for x in pair}) != linked:
        linked = more
    assert linked == {0, *range(30, 330)}


def test_all_pairs_agree_with_hashing():
    "What the boxes find is what comparing all pairs finds"
    def noisy(i): return sound(i) + .0003*np.random.default_rng(i).standard_normal(round(.6*RATE)).astype("float32")
    fingerprints = np.stack([fingerprint(noisy(i), RATE) for i in [*range(150), *range(0, 150, 3)]])
    first, second = np.triu_indices(len(fingerprints), 1)
    near = distance(fingerprints[first], fingerprints[second]) < 2
    assert near.sum() >= 50
    assert near_duplicates(fingerprints).tolist() == np.stack([first[near], second[near]], 1).tolist()


def test_a_long_recording_in_flat_memory(tmp_path):
    "A long recording is read in blocks"
    import tracemalloc
    with sf.SoundFile(tmp_path/"long.flac", "w", 8000, 1) as out:
        for i in range(90): out.write(np.resize(sound(i), 8000*20))
    tracemalloc.start()
    measured = measure(str(tmp_path/"long.flac"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert measured.error == "" and measured.values["seconds"] == 1800
    assert peak < 4*8000*1800/2, "less than half of its samples at once"


def test_splits_by_source_leak_nothing(tmp_path):
    table = read_folder(make(tmp_path)).assign(split="train")
    table["source_id"] = (table.index//2).astype(str)
    assert faults(assign_splits(table, .3)) == ""
