"Training on two processes (gloo, CPU): equal networks, the figures of one process, one bundle, one voice"
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
]
TRAIN = """
import os, sys
import numpy as np, torch
from fastai.torch_core import rank_distrib
from audiotag.audio import AudiotagError
from audiotag.datasets import read_dataset
from audiotag.learner import RunConfig, distributed, is_main, local_device, make_learner
from audiotag.recipe import Recipe
data, out = sys.argv[1:]
torch.set_num_threads(1)
table = read_dataset("urbansound8k", data)
table = table.assign(split=np.where(table.fold <= 2, "valid", "train"))
learn = make_learner(table, Recipe(arch="xresnet_small", crop_seconds=1.0, bs=16, seed=3), RunConfig(device=local_device()))
drawn = []
create = learn.dls.train.create_item
learn.dls.train.create_item = lambda i: (drawn.append(i), create(i))[1]
with distributed(learn), learn.no_bar(), learn.no_logging():
    learn.freeze()
    learn.fit_one_cycle(1, 3e-3)
    learn.unfreeze()
    learn.fit_one_cycle(3, 1e-2)
weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()]).double()
np.savez(f"{out}/{rank_distrib()}.npz", weights=weights.numpy(), drawn=np.array([i for i in drawn if i is not None]), values=np.array(learn.recorder.values[-1]),
    bs=learn.dls.train.bs, kind=type(learn.model).__name__, train=len(learn.dls.train_ds))
"""


def launched(processes: int, *command: str) -> subprocess.CompletedProcess:
    "`accelerate launch` on CPUs: --cpu starts one process (more only through MPI), so several are launched as for GPUs, and told in the environment that there are none"
    env = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "ACCELERATE_USE_CPU": "true",
    }
    mode = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    return subprocess.run(
        [*LAUNCH, *mode, "--num_processes", str(processes), *command],
        env=env,
        capture_output=True,
        check=False,
        text=True,
        timeout=400,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from audiotag.synthetic import make_synthetic
    return make_synthetic(tmp_path_factory.mktemp("data"), fsd_clips=60, urban_clips=100)


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    import numpy as np
    out = tmp_path_factory.mktemp("two")
    (out / "train.py").write_text(TRAIN)
    done = launched(2, str(out / "train.py"), str(data), str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.load(out / f"{rank}.npz") for rank in (0, 1)]


def test_the_networks_are_equal_and_bare(two):
    assert (two[0]["weights"] == two[1]["weights"]).all()
    assert {str(rank["kind"]) for rank in two} == {"AudioNet"}  # not wrapped any more
    assert {int(rank["bs"]) for rank in two} == {16}  # the loader as it was


def test_each_process_draws_its_own_clips(two):
    first, second = (
        set(rank["drawn"][: len(rank["drawn"]) // 4].tolist()) for rank in two
    )  # of the first of four epochs
    assert first and second and not first & second
    assert len(first | second) >= 0.8 * int(two[0]["train"])  # what fills no batch is left out, as with one process


def test_both_know_the_same_validation_figures(two):
    assert two[0]["values"].tolist() == pytest.approx(two[1]["values"].tolist())


@pytest.mark.slow
def test_the_command_trains_writes_and_prints_once(data, tmp_path):
    "`accelerate launch audiotag train`: within noise of one process, one bundle"
    command, figures = str(Path(sys.executable).with_name("audiotag")), {}
    for processes in 1, 2:
        out = tmp_path / str(processes)
        done = launched(
            processes,
            command,
            "train",
            "urbansound8k",
            "--data",
            str(data),
            "--out",
            str(out),
            "--epochs",
            "24",
            "--set",
            "crop_seconds=1",
            "--set",
            "bs=16",
            "--json",
        )
        assert done.returncode == 0, done.stderr[-3000:]
        figures[processes] = json.loads(done.stdout)["metrics"]  # one document: nobody else prints
        assert done.stderr.count("train_loss") == 24
        assert (out / "model.onnx").exists() and sorted(p.name for p in tmp_path.iterdir()) == [
            str(p) for p in range(1, processes + 1)
        ]
    assert figures[1]["clips"] == figures[2]["clips"]
    assert abs(figures[1]["accuracy"] - figures[2]["accuracy"]) <= 0.25, figures  # of 20 clips: two standard errors
    assert min(f["accuracy"] for f in figures.values()) >= 0.3, figures  # three times chance
