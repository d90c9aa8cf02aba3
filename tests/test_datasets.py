"""What notebook cells can't test: complete official layouts, large tables, links and permissions, new processes"""

import os
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
    test = ["f0.wav,Cello,Public,1", "f1.wav,Gong,Private,2", "f2.wav,None,Ignored,3"]
    test = [f"{row},Attribution" for row in test]
    text(meta/"test_post_competition_scoring_clips.csv", ["fname,label,usage,freesound_id,license", *test])
    for i in range(clips-1): sound(root/f"FSDKaggle2018.audio_train/{i:08x}.wav")
    for i in range(3): sound(root/f"FSDKaggle2018.audio_test/f{i}.wav")
    sound(root/"FSDKaggle2018.audio_train/stray.wav")
    return root


def test_every_fault_is_counted_once(tmp_path):
    message = "1 file not there .*; 1 file without a label .*; 1 name given again"
    with pytest.warns(DatasetWarning, match=message) as caught:
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
    test = ["fname,label,usage,freesound_id,license", "a.wav,None,Ignored,1,x", "b.wav,Oboe,Private,2,x"]
    text(tmp_path/"test_post_competition.csv", test)
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
    rows = ["1-1-A-0.wav,1,0,dog,True,1,A", "5-2-B-4.wav,5,4,frog,False,2,B"]
    text(tmp_path/"meta/esc50.csv", ["filename,fold,target,category,esc10,src_file,take", *rows])
    for name in ("1-1-A-0", "5-2-B-4"): sound(tmp_path/f"audio/{name}.wav")
    table = read_esc50(tmp_path)
    assert table.esc10.tolist() == [True, False] and table.fold.tolist() == [1, 5]
    assert assign_splits(table, valid=.5).split.tolist() == ["train", "valid"] # whole folds


@pytest.mark.parametrize("read,make,says", [
    (read_folder, lambda p: p.write_text("x"), "is not a folder"),
    (read_folder, lambda p: None, "is not there"),
    (read_folder, lambda p: p.mkdir(), "holds no sound files"),
    (read_folder, lambda p: sound(p/"a.wav"), "no folders"),
    (read_fsdkaggle2018, lambda p: p.mkdir(), "has no train_post_competition.csv"),
    (read_urbansound8k, lambda p: p.mkdir(), "has no metadata/UrbanSound8K.csv"),
    (read_esc50, lambda p: p.mkdir(), "has no meta/esc50.csv"),
    (read_csv, lambda p: None, "is not there"),
    (read_csv, lambda p: p.mkdir(), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_bytes(b""), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_bytes(b"\xff\xfe\x00\x01"*9), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_text('fname,label\n"a.wav,dog\n'), "can't be read as a CSV"),
    (read_csv, lambda p: p.write_text("fname,label\n"), "no rows"),
    (read_csv, lambda p: p.write_text("file,tags\na.wav,dog\n"), "no column label"),
    (read_csv, lambda p: p.write_text("fname,label\nnothing.wav,dog\n"), "0 clips; 1 file not there"),
    (read_csv, lambda p: p.write_text("fname,label,fold\na.wav,dog,one\n"), "column fold says 'one'"),
    (read_csv, lambda p: p.write_text("fname,label,split\na.wav,dog,dev\n"), "column split says 'dev'"),
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
    message = r"1 sound files have a path that is no UTF-8 \(.*caf\\xe9.wav \.\.\.\): rename"
    with pytest.raises(DatasetError, match=message): read_folder(tmp_path)


def test_folder_and_find_audio_agree(tmp_path):
    for name in ("a/1.wav", "a/2.WAV", "b/deep/3.flac", "b/4.Ogg"): sound(tmp_path/name)
    text(tmp_path/"a/notes.txt", ["x"])
    table = read_folder(tmp_path)
    assert sorted(table.path) == sorted(str(p) for p in find_audio(tmp_path))
    assert table.attrs["report"].other_files == ("a/notes.txt",)


def test_same_name_in_two_classes_is_said_and_kept(tmp_path):
    for name in ("dog/1.wav", "cat/1.wav", "cat/2.wav"): sound(tmp_path/name)
    with pytest.warns(DatasetWarning, match="2 names given again"): table = read_folder(tmp_path)
    assert len(table) == 3 and table.clip_id.is_unique
    split = assign_splits(table, valid=.4)
    assert split.groupby("source_id").split.nunique().max() == 1 # the two are taken for one source


def test_names_the_library_knows(tmp_path):
    assert {"fsdkaggle2018", "urbansound8k", "esc50"} <= set(DATASETS)
    for info in DATASETS.values(): assert info.title and info.licence and info.citation
    with pytest.raises(DatasetError, match="audiotag data urbansound8k"): read_dataset("urbansound8k", data=tmp_path)
    with pytest.raises(DatasetError, match="audiotag data synthetic"):
        read_dataset("synthetic-urbansound8k", data=tmp_path)
    with pytest.raises(DatasetError, match="no data set, folder or CSV"): read_dataset("urbansound9k", data=tmp_path)


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
    code = (
        "import sys; from audiotag.datasets import *; "
        "print(''.join(s[0] for s in assign_splits(read_folder(sys.argv[1]), seed=3).split))"
    )
    runs = []
    for seed in "12":
        env = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(tmp_path)]
        runs.append(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)
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
    code = (
        "import sys, audiotag.datasets; "
        "sys.exit(' '.join(m for m in ('torch', 'librosa', 'matplotlib', 'sklearn') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_aliases_do_not_clobber(tmp_path):
    "A CSV with both fname and path, or label and class, keeps the first of each under its own name"
    rows = read_rows(text(tmp_path/"two.csv", ["fname,path,label,class", "a.wav,z.wav,dog,animal"]))
    assert (rows.fname[0], rows.path[0], rows.label[0], rows["class"][0]) == ("a.wav", "z.wav", "dog", "animal")
