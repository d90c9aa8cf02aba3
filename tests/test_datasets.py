"""What a notebook cell can't test: complete official layouts, scale, links and permissions, fresh processes"""

import os
import random
import re
import signal
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from audiotag.audio import find_audio
from audiotag.core import AudiotagError
from audiotag.datasets import DatasetError, DatasetWarning, read_rows
from audiotag.datasets import (
    DATASETS,
    assign_folds,
    assign_splits,
    drop_rare_labels,
    read_csv,
    read_dataset,
    read_esc50,
    read_folder,
    read_fsdkaggle2018,
    read_urbansound8k,
    split_labels,
)


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.zeros(80), 8000, format="WAV")


def text(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines)+"\n", encoding="utf-8")
    return path


def official(root, clips=60):
    "Zenodo's layout with a test set, and each fault once"
    meta = root/"FSDKaggle2018.meta"
    labels = ["Hi-hat", "Cello", "Gong"]
    train = [f"{i:08x}.wav,{labels[i % 3]},{int(i % 5 < 2)},{1000+i//2},Attribution" for i in range(clips)]
    text(meta/"train_post_competition.csv", ["fname,label,manually_verified,freesound_id,license", *train, train[7]])
    test = [
        "f0.wav,Cello,Public,1,Attribution",
        "f1.wav,Gong,Private,2,Attribution",
        "f2.wav,None,Ignored,3,Attribution",
    ]
    text(meta/"test_post_competition_scoring_clips.csv", ["fname,label,usage,freesound_id,license", *test])
    for i in range(clips-1): sound(root/f"FSDKaggle2018.audio_train/{i:08x}.wav")
    for i in range(3): sound(root/f"FSDKaggle2018.audio_test/f{i}.wav")
    sound(root/"FSDKaggle2018.audio_train/stray.wav")
    return root


def test_every_fault_is_counted_once(tmp_path):
    with pytest.warns(
        DatasetWarning, match="1 missing file .*; 1 file without a label .*; 1 duplicate file name"
    ) as caught:
        table = read_fsdkaggle2018(official(tmp_path))
    assert caught[0].filename == __file__ # the warning points at the caller
    report = table.attrs["report"]
    assert report.missing_files == ("FSDKaggle2018.audio_train/0000003b.wav",)
    assert report.unlabelled_files == ("FSDKaggle2018.audio_train/stray.wav",)
    assert report.duplicate_names == ("FSDKaggle2018.audio_train/00000007.wav",)
    assert (report.ignored, report.clips, len(table)) == (1, 61, 61)
    assert table.split.value_counts().to_dict() == {"train": 59, "test": 2}
    assert table.clip_id.is_unique and all(map(os.path.isfile, table.path))


def test_official_test_set_is_never_split(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)
        table = read_fsdkaggle2018(official(tmp_path))
    split = assign_splits(table, valid=.25, seed=1)
    assert (split.split[table.split == "test"] == "test").all()
    assert split[split.split != "test"].groupby("source_id").split.nunique().max() == 1
    folds = assign_folds(table, 5)
    assert folds.fold[table.split == "test"].isna().all() and folds.fold[table.split != "test"].notna().all()


def test_kaggles_own_files(tmp_path):
    text(tmp_path/"train.csv", ["fname,label,manually_verified", "00044347.wav,Hi-hat,0", "001ca53d.wav,Saxophone,1"])
    text(
        tmp_path / "test_post_competition.csv",
        ["fname,label,usage,freesound_id,license", "a.wav,None,Ignored,1,x", "b.wav,Oboe,Private,2,x"],
    )
    for name in ("audio_train/00044347.wav", "audio_train/001ca53d.wav", "audio_test/a.wav", "audio_test/b.wav"):
        sound(tmp_path / name)
    table = read_dataset(tmp_path)
    assert table.attrs["report"].ok and table.attrs["report"].ignored == 1
    assert table.verified.tolist() == [False, True, True]
    assert table.source_id.tolist() == ["00044347", "001ca53d", "2"]


def test_looped_urban_clip_is_cut_to_its_true_length(tmp_path):
    rows = ["s.wav,9,2.5,3.25,1,1,3,dog_bark", "f.wav,9,0.0,4.0,2,1,3,dog_bark"]
    text(tmp_path/"metadata/UrbanSound8K.csv", ["slice_file_name,fsID,start,end,salience,fold,classID,class", *rows])
    for name in "sf": sound(tmp_path/f"audio/fold1/{name}.wav")
    table = read_urbansound8k(tmp_path)
    assert table.start[0] == 0 and table.end[0] == .75
    assert np.isnan(table.start[1]) and np.isnan(table.end[1])
    assert "classID" not in table and table.salience.tolist() == [1, 2]


def test_esc50_flags_esc10(tmp_path):
    text(
        tmp_path / "meta/esc50.csv",
        [
            "filename,fold,target,category,esc10,src_file,take",
            "1-1-A-0.wav,1,0,dog,True,1,A",
            "5-2-B-4.wav,5,4,frog,False,2,B",
        ],
    )
    for name in ("1-1-A-0", "5-2-B-4"): sound(tmp_path/f"audio/{name}.wav")
    table = read_esc50(tmp_path)
    assert table.esc10.tolist() == [True, False] and table.fold.tolist() == [1, 5]
    assert assign_splits(table, valid=.5).split.tolist() == ["train", "valid"] # whole folds


@pytest.mark.parametrize("read,make,says", [
    (read_folder, lambda p: p.write_text("x"), "is not a folder"),
    (read_folder, lambda p: None, "not found"),
    (read_folder, lambda p: p.mkdir(), "holds no audio files"),
    (read_folder, lambda p: sound(p/"a.wav"), "no class folders"),
    (read_fsdkaggle2018, lambda p: p.mkdir(), "has no train_post_competition.csv"),
    (read_urbansound8k, lambda p: p.mkdir(), "has no metadata/UrbanSound8K.csv"),
    (read_esc50, lambda p: p.mkdir(), "has no meta/esc50.csv"),
    (read_csv, lambda p: None, "not found"),
    (read_csv, lambda p: p.mkdir(), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_bytes(b""), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_bytes(b"fname,label\n\xff\x00\n"), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_text('fname,label\n"a.wav,dog\n'), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_text("fname,label\n"), "no rows"),
    (read_csv, lambda p: p.write_text("file,tags\na.wav,dog\n"), "no column label"),
    (read_csv, lambda p: p.write_text("fname,label\nnothing.wav,dog\n"), "0 clips; 1 missing file"),
    (read_csv, lambda p: p.write_text("fname,label,fold\na.wav,dog,one\n"), "column fold says 'one'"),
    (read_csv, lambda p: p.write_text("fname,label,split\na.wav,dog,extra\n"), "column split says 'extra'"),
])
def test_unusable_input_gets_one_line(tmp_path, read, make, says):
    path = tmp_path/"set.csv"
    make(path)
    sound(tmp_path/"a.wav")
    with pytest.raises(DatasetError, match=says) as e: read(path)
    assert "\n" not in str(e.value) and isinstance(e.value, AudiotagError)


def test_csv_faults_name_the_file(tmp_path):
    sound(tmp_path/"a.wav")
    path = text(tmp_path/"mine.csv", ["fname,label,verified", "a.wav,dog,perhaps"])
    with pytest.raises(DatasetError, match="mine.csv: column verified says 'perhaps'"): read_csv(path)


def test_csv_from_elsewhere(tmp_path):
    "Semicolons, a byte-order mark, Windows' separators, absolute paths, quoted commas, empty cells"
    sound(tmp_path / "in/a.wav")
    sound(tmp_path / "in/b.wav")
    sound(tmp_path / "out/ü.wav")
    path = tmp_path/"in/list.csv"
    path.write_text(
        f'\ufefffilename;category;source_id;note\na.wav;dog;;"x; y"\n.\\b.wav;cat;7;\n{tmp_path}/out/ü.wav;dog;8;\n',
        encoding="utf-8",
    )
    table = read_csv(path)
    assert table.label.tolist() == ["dog", "cat", "dog"] and table.source_id.tolist() == ["a", "7", "8"]
    assert table.note.tolist() == ["x; y", "", ""] and table.attrs["report"].ok


def test_links_loops_and_hidden_files(tmp_path):
    sound(tmp_path / "elsewhere/dog/1.wav")
    sound(tmp_path / "set/cat/2.wav")
    sound(tmp_path / "set/cat/.3.wav")
    sound(tmp_path / "set/.git/4.wav")
    (tmp_path/"set/dog").symlink_to(tmp_path/"elsewhere/dog", target_is_directory=True)
    (tmp_path/"set/cat/up").symlink_to(tmp_path/"set", target_is_directory=True)
    assert sorted(read_folder(tmp_path/"set").label) == ["cat", "dog"]


def test_names_that_no_table_can_hold(tmp_path):
    sound(tmp_path/"dog/1.wav")
    try: (tmp_path/"dog/1.wav").rename(tmp_path/"dog"/os.fsdecode(b"caf\xe9.wav"))
    except OSError: pytest.skip("this file system takes UTF-8 only")
    with pytest.raises(
        DatasetError, match=r"the path .*caf\\xe9.wav is not UTF-8 \(1 in all\); rename"
    ):
        read_folder(tmp_path)


def test_folder_and_find_audio_agree(tmp_path):
    for name in ("a/1.wav", "a/2.WAV", "b/deep/3.flac", "b/4.Ogg"): sound(tmp_path/name)
    text(tmp_path/"a/notes.txt", ["x"])
    table = read_folder(tmp_path)
    assert sorted(table.path) == sorted(str(p) for p in find_audio(tmp_path))
    assert table.attrs["report"].other_files == ("a/notes.txt",)


def test_same_name_in_two_classes_is_said_and_kept(tmp_path):
    for name in ("dog/1.wav", "cat/1.wav", "cat/2.wav"): sound(tmp_path/name)
    with pytest.warns(DatasetWarning, match="2 duplicate file names"): table = read_folder(tmp_path)
    assert len(table) == 3 and table.clip_id.is_unique
    split = assign_splits(table, valid=.4)
    assert split.groupby("source_id").split.nunique().max() == 1 # the two are taken for one source


def test_names_the_library_knows(tmp_path):
    assert {"fsdkaggle2018", "urbansound8k", "esc50"} <= set(DATASETS)
    for info in DATASETS.values(): assert info.title and info.licence and info.citation
    with pytest.raises(DatasetError, match="audiotag data urbansound8k"): read_dataset("urbansound8k", data=tmp_path)
    with pytest.raises(DatasetError, match="audiotag data synthetic"):
        read_dataset("synthetic-urbansound8k", data=tmp_path)
    with pytest.raises(DatasetError, match="'urbansound9k' not found; use one of"):
        read_dataset("urbansound9k", data=tmp_path)


def test_table_survives_csv_and_parquet(tmp_path):
    sound(tmp_path / "a.wav")
    sound(tmp_path / "b.wav")
    table = read_csv(text(tmp_path/"x.csv", ["fname,label,fold,start,end", "a.wav,dog,1,0,.005", "b.wav,cat,2,,"]))
    table.to_csv(tmp_path/"again.csv", index=False)
    pd.testing.assert_frame_equal(read_csv(tmp_path/"again.csv"), table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.to_parquet(tmp_path/"t.parquet") # attrs are JSON there
    assert pd.read_parquet(tmp_path/"t.parquet").label.tolist() == ["dog", "cat"]


def test_splits_are_the_same_in_a_fresh_process(tmp_path):
    for i in range(40): sound(tmp_path/f"{'ab'[i % 2]}/{i}.wav")
    code = "import sys; from audiotag.datasets import *; table = assign_splits(read_folder(sys.argv[1]), seed=3)\n"
    code += "print(''.join(s[0] for s in table.split))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": h},
        ).stdout
        for h in "12"
    ]
    assert runs[0] == runs[1] and 6 <= runs[0].count("v") <= 10


def made_up(n, seed=0):
    rng = np.random.default_rng(seed)
    sources = rng.integers(0, n//3, n)
    labels = rng.integers(0, 41, n//3)[sources]
    return pd.DataFrame(
        {
            "label": [f"l{i}" for i in labels],
            "source_id": sources.astype(str),
            "split": "train",
            "fold": pd.array([pd.NA] * n, "Int64"),
            "verified": rng.random(n) < 0.4,
        }
    )


def test_splits_are_balanced_at_scale():
    table = made_up(60_000)
    split = assign_splits(table, valid=.2, test=.1)
    assert split.groupby("source_id").split.nunique().max() == 1
    shares = pd.crosstab(split.label, split.split, normalize="index")
    assert (shares.valid-.2).abs().max() < .02 and (shares.test-.1).abs().max() < .02
    assert abs(split[split.split == "valid"].verified.mean()-table.verified.mean()) < .02
    folds = pd.crosstab(table.label, assign_folds(table, 5).fold, normalize="index")
    assert (folds-.2).abs().to_numpy().max() < .02


def test_one_listing_a_folder_and_memory_that_grows_with_the_rows(tmp_path, monkeypatch):
    "No row asks the disk anything: 20 times the rows, as many questions, and no more memory a row"
    scans, stats, peaks = [], [], []
    scandir, stat = os.scandir, os.stat
    for n in (500, 10_000):
        folder = tmp_path/str(n)
        folder.mkdir()
        for i in range(n): open(folder/f"{i}.wav", "w").close()
        (folder/"c.csv").write_text("fname,label\n"+"".join(f"{i}.wav,l{i % 9}\n" for i in range(n)))
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", lambda p: scans.append(p) or scandir(p))
            patched.setattr(os, "stat", lambda *a, **k: stats.append(a) or stat(*a, **k))
            tracemalloc.start()
            table = read_csv(folder/"c.csv")
            peaks.append(tracemalloc.get_traced_memory()[1]/n)
            tracemalloc.stop()
        assert len(table) == n
    assert len(scans) == 2 and len(stats) < 40
    assert peaks[1] < max(peaks[0], 4000) # bytes


def test_min_clips_counts_what_can_be_trained_on():
    table = made_up(3000)
    few = table.label.value_counts()
    kept = drop_rare_labels(table, few.min()+1)
    assert set(table.label)-set(kept.label) == set(few.index[few == few.min()])
    with pytest.raises(DatasetError, match="no label has"): drop_rare_labels(table, 10_000)


def test_reading_rows_needs_no_torch():
    code = "import sys, audiotag.datasets\n"
    code += "print(*(m for m in ('torch', 'librosa', 'matplotlib', 'sklearn') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_aliases_do_not_clobber(tmp_path):
    "A CSV with both fname and path, or label and class, keeps the first of each under its own name"
    rows = read_rows(text(tmp_path/"two.csv", ["fname,path,label,class", "a.wav,z.wav,dog,animal"]))
    assert (rows.fname[0], rows.path[0], rows.label[0], rows["class"][0]) == ("a.wav", "z.wav", "dog", "animal")


def said(read, *args, **kwargs):
    "What a reader returns, and its warnings as one text"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = read(*args, **kwargs)
    messages = [str(w.message) for w in caught if issubclass(w.category, DatasetWarning)]
    assert not any("\n" in message for message in messages)
    return table, " | ".join(messages)


def layout(root, *folders):
    for i, folder in enumerate(folders): sound(root/folder/f"{i}.wav")
    return root


FORMS = ["{split}/{label}", "audio/{split}/{label}", "{split}/clips/{label}", "{label}/{split}"]

@pytest.mark.parametrize("names", [
    ("train", "dev", "eval"), ("train", "validation", "testing"), ("Train", "VAL", "Test"),
    ("train_set", "val-set", "test set"), ("audio_train", "audio_valid", "audio_test"),
    ("TrainSet", "DevSet", "TestSet"), ("esc.train", "esc.val", "esc.holdout"),
])
@pytest.mark.parametrize("form", FORMS)
def test_split_folders_are_splits(tmp_path, names, form):
    folders = [form.format(split=split, label=label) for split in names for label in ("cat", "dog")]
    table, text = said(read_dataset, layout(tmp_path, *folders))
    assert (table.label.tolist(), text) == (["cat", "dog"]*3, "") or form == "{label}/{split}"
    assert {*zip(table.label, table.split)} == {(a, b) for a in ("cat", "dog") for b in ("train", "valid", "test")}
    assert table.groupby("split").path.count().tolist() == [2, 2, 2]


@pytest.mark.parametrize("folders, expected", [
    (("dev/cat", "dev/dog", "eval/cat"), {("cat", "train"), ("dog", "train"), ("cat", "test")}), # DCASE
    (("training/a", "testing/a"), {("a", "train"), ("a", "test")}),
    (("train", "bus"), {("train", "train"), ("bus", "train")}), # vehicles
    (("train/train", "train/bus", "test/bus"), {("train", "train"), ("bus", "train"), ("bus", "test")}),
    (("set/audio/cat", "set/audio/dog"), {("cat", "train"), ("dog", "train")}),
    (("cat/home", "dog/park"), {("cat", "train"), ("dog", "train")}),
])
def test_folders_that_are_splits_or_wrappers(tmp_path, folders, expected):
    table, text = said(read_dataset, layout(tmp_path, *folders))
    assert ({*zip(table.label, table.split)}, text) == (expected, "")


def test_fold_folders_are_folds(tmp_path):
    table, _ = said(read_dataset, layout(tmp_path, "fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"))
    assert table.label.tolist() == ["cat", "dog"]*2 and table.fold.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("folders, message", [
    (("train", "test"), "the folders test, train are splits or folds without class folders"),
    (("fold1", "fold2"), "are splits or folds without class folders"),
    (("train/cat", "test/cat", "noise"), "the folders test, train are splits, but noise is not; move it"),
])
def test_split_folders_that_hold_no_classes(tmp_path, folders, message):
    with pytest.raises(DatasetError, match=message): read_dataset(layout(tmp_path, *folders))


@pytest.mark.parametrize("folders, message", [
    (("a/cat", "a/dog", "b/cat", "b/dog"), "the labels a, b have the same folders \\(cat, dog\\)"),
    (("pets/cat", "pets/dog"), "all clips are in 'pets', so the labels are its folders"),
])
def test_folders_that_can_be_read_in_two_ways_are_reported(tmp_path, folders, message):
    with pytest.warns(DatasetWarning, match=message): read_dataset(layout(tmp_path, *folders))


def table_of(folder, header, *rows, files="abcd", **kwargs):
    for name in files: sound(folder/f"{name}.wav")
    return said(read_dataset, text(folder/"t.csv", [header, *rows]), **kwargs)


@pytest.mark.parametrize("header, cells", [
    ("is_valid", ("0", "1", "False", "True")), ("Is Valid", ("no", "yes", "", "YES")),
    ("split", ("train", "dev", "Train", "valid")),
    ("Subset", ("training", "validation", "train", "val")), ("part", ("train", "val", "train", "val")),
    ("set", ("train_set", "dev_set", "", "dev_set")), ("fold", ("train", "valid", "train", "valid")),
    ("data split", ("trn", "dev", "trn", "dev")),
])
def test_split_columns(tmp_path, header, cells):
    table, warned = table_of(
        tmp_path, f"fname,label,{header}", *(f"{f}.wav,x,{cell}" for f, cell in zip("abcd", cells))
    )
    assert (table.split.tolist(), warned) == (["train", "valid", "train", "valid"], "") and table.fold.isna().all()


def test_split_folders_in_a_csv(tmp_path):
    table, _ = table_of(tmp_path, "fname,label", "train/a.wav,x", "test/b.wav,x", files=("train/a", "test/b"))
    assert table.split.tolist() == ["train", "test"]


@pytest.mark.parametrize("header, cells, expected", [
    ("start,end", "1,2", (1, 2)), ("start_time,end_time", "1,2", (1, 2)), ("onset,offset", "1,2", (1, 2)),
    ("Begin Time (s),End Time (s)", "1,2", (1, 2)), ("Start (s),End (s)", "1,2", (1, 2)),
    ("t_start,t_end", "1,2", (1, 2)),
    ("start_ms,end_ms", "1500,2000", (1.5, 2)), ("startTime,endTime", "1,2", (1, 2)),
    ("offset,duration", "1,2", (1, 3)),
    ("segment start [sec],segment stop [sec]", "1,2", (1, 2)), ("start,duration", "1,.5", (1, 1.5)),
])
def test_time_columns(tmp_path, header, cells, expected):
    table, warned = table_of(tmp_path, f"fname,label,{header}", f"a.wav,x,{cells}", files="a")
    assert ((table.start[0], table.end[0]), warned) == (expected, "")


def test_columns_that_are_not_understood_are_named(tmp_path):
    _, warned = table_of(tmp_path, "fname,label,start_sample,train_or_test", "a.wav,x,100,test", files="a")
    assert "column 'start_sample' is not used; rename it start" in warned and "'train_or_test' is not used" in warned


def test_start_without_end_lasts_until_the_next_start(tmp_path):
    rows = ("a.wav,x,2", "a.wav,y,0", "a.wav,z,0", "b.wav,x,1")
    table, warned = table_of(tmp_path, "fname,label,start", *rows, files="ab")
    assert table.label.tolist() == ["x", "y, z", "x"] and table.clip_id.is_unique
    assert table.start.tolist() == [2, 0, 1] and table.end.isna().tolist() == [True, False, True] and table.end[1] == 2
    assert "without a column end, each part lasts until the next start" in warned


def test_long_form_keeps_all_labels(tmp_path):
    rows = [f"{f}.wav,{label}" for f in "abcd" for label in ("rain", "wind")]
    table, warned = table_of(tmp_path, "fname,label", *rows)
    assert table.label.tolist() == ["rain, wind"]*4 and table.attrs["report"].joined_rows == 4
    assert "several labels, such as 'rain, wind'; pass --multilabel" in warned
    assert table_of(tmp_path, "fname,label", *rows, multilabel=True)[1] == ""
    table, warned = table_of(tmp_path, "fname,label,split", "a.wav,rain,train", "a.wav,wind,test", files="a")
    assert table.label.tolist() == ["rain, wind"]
    assert "1 duplicate file name" in warned  # in two splits: the first counts


@pytest.mark.parametrize("label", ["rain;wind", "rain|wind", '"rain, wind"', "\"['rain', 'wind']\""])
def test_lists_of_labels(tmp_path, label):
    table, warned = table_of(tmp_path, "fname,label", f"a.wav,{label}", "b.wav,rain", "c.wav,wind", "d.wav,rain")
    assert split_labels(table.label[0]) == ("rain", "wind") and "pass --multilabel" in warned


@pytest.mark.parametrize("content", [
    "fname, label\na.wav, x\n", "Filename,LABEL\na.wav,x\n", "File Name;Class Name\na.wav;x\n",
    "\ufefffile_name\tlabels\na.wav\tx\n",
    "sep=;\nfname;label\na.wav;x\n", "# by hand\nfname,label\na.wav,x\n", "# YTID, positive_labels\na.wav, x\n",
    "'fname','label'\n'a.wav','x'\n", '"fname" , "label"\n"a.wav" , "x"\n', "fname,label\na,x\n",
    "fname|label\na.wav|x\n",
    "Begin File\tSpecies\na.wav\tx\n", "filename,primary_label\na.wav,x\n", "\n\nfname,label\r\n\r\na.wav,x\r\n",
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_headers_as_people_write_them(tmp_path, content, encoding):
    sound(tmp_path/"a.wav")
    (tmp_path/"t.csv").write_text(content, encoding=encoding, newline="")
    table, warned = said(read_dataset, tmp_path/"t.csv")
    assert (table.label.tolist(), table.clip_id.tolist(), warned) == (["x"], ["a"], "")


def test_rows_longer_than_the_header_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="more cells than its header"):
        table_of(tmp_path, "fname,label", "a.wav,x,", "b.wav,y,")


@pytest.mark.parametrize("audio, table, named", [
    ("", "labels.csv", ""), ("audio/", "labels.csv", ""), ("audio/", "meta/labels.csv", ""),
    ("audio/", "meta/labels.csv", "meta/labels.csv"),
    ("audio/", "audio.csv", "audio"), ("audio/", "audio.csv", "audio.csv"), ("wavs/", "labels.tsv", "labels.tsv"),
    ("cat/", "a.csv", ""),
])
def test_a_csv_inside_or_beside_a_folder(tmp_path, audio, table, named):
    for name in "abcd": sound(tmp_path/f"set/{audio}{name}.wav")
    text(tmp_path/"set"/table, ["fname,label,split", "a.wav,x,train", "b.wav,y,train", "c.wav,x,test", "d.wav,y,test"])
    found, warned = said(read_dataset, tmp_path/"set"/named)
    assert (found.label.tolist(), found.split.tolist(), warned) == (["x", "y"]*2, ["train"]*2 + ["test"]*2, "")


def test_a_csv_for_each_split(tmp_path):
    for name in ("train/a", "test/b"): sound(tmp_path/f"{name}.wav")
    for split, name in (("train", "a"), ("test", "b")):
        text(tmp_path / split / "metadata.csv", ["file_name,label", f"{name}.wav,x"])
    table, _ = said(read_dataset, tmp_path)
    assert dict(zip(table.clip_id, table.split)) == {"train/a": "train", "test/b": "test"}


def test_a_csv_that_contradicts_the_class_folders_is_reported(tmp_path):
    layout(tmp_path, "cat", "dog")
    text(tmp_path/"t.csv", ["fname,label", "cat/0.wav,lion", "dog/1.wav,wolf"])
    with pytest.warns(DatasetWarning, match="the labels are those in t.csv, not the folders"):
        table = read_dataset(tmp_path)
    assert table.label.tolist() == ["lion", "wolf"]
    text(tmp_path/"u.csv", ["fname,label", "cat/0.wav,lion", "dog/1.wav,wolf"])
    with pytest.warns(DatasetWarning, match="not those in t.csv, u.csv"):
        assert read_dataset(tmp_path).label[0] == "cat"


def test_train_and_tag_see_the_same_files(tmp_path, monkeypatch):
    "Linked folders, odd and missing suffixes, links to nothing, pipes, folders without permission: all found or named"
    root = tmp_path/"set"
    for name in ("cat/1.wav", "cat/2.WAV", "dog/3", "dog/4.bin", "dog/deep/5.wav", "locked/6.wav"): sound(root/name)
    sound(tmp_path/"elsewhere/7.wav")
    (root/"bird").symlink_to(tmp_path/"elsewhere")
    (root/"cat/gone.wav").symlink_to(tmp_path/"nothing.wav")
    text(root/"cat/notes.txt", ["x"])
    os.mkfifo(root/"cat/pipe.wav")
    scandir = os.scandir
    def closed(path):
        if os.fspath(path).endswith("locked"): raise PermissionError(13, "Permission denied", path)
        return scandir(path)
    monkeypatch.setattr(os, "scandir", closed)
    table, warned = said(read_dataset, root)
    assert {"bird/7", "cat/1", "cat/2", "dog/3", "dog/4", "dog/deep/5"} == set(table.clip_id)
    report = table.attrs["report"]
    assert (report.missing_files, report.other_files) == (("cat/gone.wav",), ("cat/notes.txt",))
    assert report.skipped_files == ("cat/pipe.wav", "locked")
    for name in ("cat/gone.wav", "cat/pipe.wav", "locked"): assert name in warned
    with pytest.warns(UserWarning, match=r"skipped 1 pipes or devices \(cat/pipe.wav\)"):
        found = {str(p.relative_to(root)) for p in find_audio(root)}
    assert found >= {str(os.path.relpath(p, root)) for p in table.path} | {"cat/gone.wav", "locked"}


def test_pipes_and_devices_never_hang(tmp_path):
    os.mkfifo(tmp_path/"pipe.wav")
    (tmp_path/"null.wav").symlink_to("/dev/null")
    signal.alarm(20)
    try:
        table, _ = table_of(tmp_path, "fname,label", "a.wav,x", "pipe.wav,y", "null.wav,y", files="a")
        assert table.label.tolist() == ["x"] and table.attrs["report"].skipped_files == ("null.wav", "pipe.wav")
        for path in (tmp_path/"pipe.wav", "/dev/null"):
            with pytest.raises(DatasetError, match="is not a folder or a regular file"): read_dataset(path)
        os.mkfifo(tmp_path/"labels.csv")
        with pytest.raises(DatasetError, match="can't be read as a CSV .it is not a regular file"):
            read_csv(tmp_path / "labels.csv")
    finally: signal.alarm(0)


@pytest.mark.parametrize("arguments, name", [
    ({"name_or_path": None}, "name_or_path"), ({"name_or_path": 3}, "name_or_path"),
    ({"name_or_path": b"x"}, "name_or_path"),
    ({"name_or_path": ["a"]}, "name_or_path"), ({"name_or_path": pd.DataFrame()}, "name_or_path"),
    ({"name_or_path": ""}, "name_or_path"),
    ({"name_or_path": "a\0b"}, "name_or_path"), ({"data": 1}, "data"), ({"group": 1}, "group"),
    ({"multilabel": "yes"}, "multilabel"),
])
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(AudiotagError, match=f"^{name} must be "): read_dataset(**{"name_or_path": "x"} | arguments)


CUT = [f"{label}/{label}{r}{end}" for label in ("cat", "dog") for r in range(2) for end in ("_000", "_001")]

@pytest.mark.parametrize("stems", [
    CUT, [s.replace("_000", "-A").replace("_001", "-B") for s in CUT], [s.replace("_", "_chunk") for s in CUT],
    [s.replace("_00", ".") for s in CUT], [s.replace("_00", "_0_") for s in CUT],
    [s.replace("_00", " (") + ")" for s in CUT],
    ["cat/rec0_000", "cat/rec0_001", "dog/rec1_000", "dog/rec1_001"],
])
def test_clips_of_one_recording_are_noticed_and_grouped(tmp_path, stems):
    for stem in stems: sound(tmp_path/f"{stem}.wav")
    _, warned = said(read_dataset, tmp_path)
    group = re.search("seem to be cut from . recordings .*; pass --group '(.+)' to train", warned)[1]
    table, warned = said(read_dataset, tmp_path, group=group)
    assert warned == "" and table.groupby("source_id").size().tolist() == [2]*(len(stems)//2)
    if len(stems) > 4: assert assign_splits(table, valid=.5).groupby("source_id").split.nunique().max() == 1


@pytest.mark.parametrize("stems", [
    [f"{label}/{label}_{i:03}" for label in ("cat", "dog") for i in range(9)],
    [f"{label}/{i}" for label in "ab" for i in range(9)],
    [f"{label}/{label}{i}" for label in "ab" for i in range(9)], [f"{'ab'[i % 2]}/{i * 7919:08x}" for i in range(20)],
    [f"{split}/{label}/{label}{split}_{k}" for split in ("train", "test") for label in "ab" for k in range(4)],
])
def test_single_recordings_are_not_suspected(tmp_path, stems):
    for stem in stems: sound(tmp_path/f"{stem}.wav")
    assert "cut from" not in said(read_dataset, tmp_path)[1]


def test_group_from_folders_and_its_errors(tmp_path):
    for name in ("cat/r1/a", "cat/r1/b", "cat/r2/c", "dog/r3/d"): sound(tmp_path/f"{name}.wav")
    assert read_dataset(tmp_path, group=r"/(r\d)/").source_id.tolist() == ["r1", "r1", "r2", "r3"]
    with pytest.warns(DatasetWarning, match="matches 2 of 4 file names, but not c.wav"):
        assert read_dataset(tmp_path, group="[ab]").source_id.tolist() == ["a", "b", "c", "d"]
    with pytest.raises(DatasetError, match="--group 'z' matches 0 of 4 file names"): read_dataset(tmp_path, group="z")
    with pytest.raises(DatasetError, match=r"--group '\(' is not a regular expression"):
        read_dataset(tmp_path, group="(")


def test_train_passes_group_and_multilabel(tmp_path, capsys):
    from audiotag.cli import load_clips
    for i in range(4): sound(tmp_path/f"{'ab'[i % 2]}{i // 2}_{i}.wav")
    rows = [f"{'ab'[i % 2]}{i // 2}_{i}.wav,{'xy'[i % 2]};z" for i in range(4)]
    path = text(tmp_path/"t.csv", ["fname,label", *rows])
    with warnings.catch_warnings():
        warnings.simplefilter("error", DatasetWarning)
        table = load_clips(str(path), tmp_path, 2, True, None, "^(.)")
    assert table.source_id.tolist() == ["a", "b", "a", "b"]


@pytest.mark.slow
def test_odd_csvs_are_read_or_refused_in_one_line(tmp_path):
    rng = random.Random(0)
    heads = ["split", "fold", "start", "end", "verified", "source_id", "clip_id", "is_valid", "onset", "offset"]
    heads += ["subset", "", "label"]
    cells = ["a.wav", "", "nan", "inf", "-1", "1e400", "1", "2.5", "a;b", "train", "dev", "True", "x"*300]
    cells += ["\0", "é", "\n", '"', "# x", "😀"]
    for name in ("a", "b", "c/d"): sound(tmp_path/f"{name}.wav")
    for _ in range(200):
        names, sep = ["fname", "label", *rng.choices(heads, k=rng.randint(0, 4))], rng.choice(",;\t|")
        rows = [
            [rng.choice(["a.wav", "b.wav", "c/d.wav"]), *rng.choices(cells, k=len(names) - 1)]
            for _ in range(rng.randint(0, 6))
        ]
        raw = bytearray("\n".join(map(sep.join, [names, *rows])).encode())
        for _ in range(rng.choice([0, 0, 3])): raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path/"t.csv").write_bytes(raw)
        try: said(read_dataset, tmp_path/"t.csv")
        except DatasetError as e: assert str(e).isprintable() and len(str(e)) < 1000, raw
