"""What a cell can't test of a bundle: other processes, kills, a full disk, the card's own code"""
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from tiny import CONFIG, LABELS, Bands, save_tiny, tone

from audiotag.core import AudiotagError
from audiotag.bundle import BundleError, open_session, probabilities, read_bundle, read_verified
from audiotag.export import save_bundle, update_bundle
from audiotag.learner import load_model
from audiotag.tagger import Tagger

HERE = Path(__file__).parent
SETS = [{"name": "fsdkaggle2018", "title": "FSDKaggle2018", "licence": "CC BY 4.0", "citation": "Fonseca 2018"}]


def python(code: str, *args, **kw) -> subprocess.CompletedProcess:
    "Run code in a fresh process that finds tests/tiny.py"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        env=env,
        capture_output=True,
        check=False,
        text=True,
        **kw,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return save_tiny(
        folder,
        metrics={"split": "test", "clips": 3, "accuracy": 0.9},
        trained_on={"fsdkaggle2018": ["1"]},
        datasets=SETS,
        command="audiotag train x",
        temperature=1.5,
    )


@pytest.fixture(scope="module")
def other(bundle):
    return save_tiny(
        bundle.with_name("other"), scale=0.5, multilabel=True, rejection={"score": "energy", "threshold": 1.0}
    )


@pytest.fixture()
def copy(bundle, tmp_path): return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_the_cards_code_tags_a_clip(copy):
    code = re.search(r"```python\n(.*?)```", (copy / "README.md").read_text(), re.DOTALL)[1]
    sf.write(copy / "clip.wav", np.stack([tone(1500, 0.6, 44100)] * 2, 1), 44100, subtype="FLOAT")
    done = python(code, cwd=copy)
    assert done.returncode == 0, done.stderr
    told = [(label, float(p)) for label, p in (line.rsplit(" ", 1) for line in done.stdout.splitlines())]
    ours = Tagger.load(copy).tag(copy / "clip.wav")
    assert [label for label, _ in told] == [tag.label for tag in ours]
    assert [p for _, p in told] == pytest.approx([tag.probability for tag in ours], abs=2e-3)


def test_several_labels_and_the_energy_rule(other):
    many = read_bundle(other)
    logits = np.array([3.0, 2.0, -4.0])
    assert probabilities(logits, many.config) == pytest.approx(1 / (1 + np.exp(-logits)))
    prediction = Tagger.load(many.folder).predict((tone(200), 32000))
    assert prediction.score == pytest.approx(float(torch.tensor(prediction.logits).logsumexp(0)), abs=1e-4)
    assert "1 / (1 + np.exp(-logits))" in (many.folder / "README.md").read_text()


LEARN = """
import sys, numpy as np, torch
from fastai.data.core import DataLoaders, Datasets
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from audiotag.export import save_bundle
from audiotag.models import create_model
from audiotag.mel import SpectrogramConfig
from audiotag.spectrogram import front_end
from tiny import picture, target
torch.manual_seed(0)
config = SpectrogramConfig(n_mels=64)
model = create_model("xresnet_small", 3, config, dropout=.1)
torch.nn.init.normal_(model.head.weight)
with torch.no_grad(): model.train()(torch.rand(8, 1, 64, 101))  # batch norms that have seen something
clips = Datasets(range(8), [[picture], [target]])
learner = Learner(DataLoaders.from_dsets(clips, clips, bs=4, device="cpu"), model, CrossEntropyLossFlat())
labels = ["low", "middle", "high"]
save_bundle(sys.argv[1], learner.model, name="x", labels=labels, config=config, crop_seconds=1., learner=learner)
wave = torch.from_numpy(np.load(sys.argv[2]))
with torch.no_grad(): np.save(sys.argv[3], learner.model.eval()(front_end(config)(wave)).numpy())
"""
READ = """
import sys, numpy as np, torch
from fastai.learner import load_learner
from audiotag.learner import load_model
from audiotag.mel import SpectrogramConfig
from audiotag.spectrogram import front_end
wave = front_end(SpectrogramConfig(n_mels=64))(torch.from_numpy(np.load(sys.argv[2])))
models = load_learner(sys.argv[1] + "/learner.pkl").model, load_model(sys.argv[1])
with torch.no_grad(): np.save(sys.argv[3], np.stack([m.eval()(wave).numpy() for m in models]))
"""


def test_a_sound_far_from_every_class_mean_is_unknown_however_sure_the_network_is(tmp_path):
    "guided_logit: the largest logit's lead, times the cosine to the nearest class mean"
    sounds = {hz: tone(hz) for hz in (150, 1500, 6000)}
    heard = [Tagger.load(save_tiny(tmp_path / "plain")).predict((sound, 32000)) for sound in sounds.values()]
    means = np.stack([said.embedding / np.linalg.norm(said.embedding) for said in heard])
    rule = {"score": "guided_logit", "threshold": 0.8 * min(float(h.logits.max() - h.logits.mean()) for h in heard)}
    tagger = Tagger.load(save_tiny(tmp_path / "guided", rejection=rule, class_means=means.tolist()))
    for said, (hz, sound) in zip(heard, sounds.items()):
        tags = tagger.tag((sound, 32000))
        assert tags.known and tags.score == pytest.approx(said.logits.max() - said.logits.mean(), rel=1e-4), hz
    window = tagger.timeline((np.concatenate([sounds[150], np.zeros(64000, "float32")]), 32000))
    assert window.known[0] and not window.known[-1]
    rule["threshold"] = tags.score / 2
    far = save_tiny(tmp_path / "far", rejection=rule, class_means=(-means).tolist())
    assert not Tagger.load(far).tag((sounds[6000], 32000)).known
    with pytest.raises(BundleError, match="2 class means for 3 labels"):
        save_tiny(tmp_path / "few", rejection=rule, class_means=means[:2].tolist())


def test_learner_weights_and_graph_agree_in_fresh_processes(tmp_path):
    wave = np.random.default_rng(0).standard_normal((3, 32000)).astype("float32") / 10
    np.save(tmp_path / "wave.npy", wave)
    for code, name in (LEARN, "at_save.npy"), (READ, "later.npy"):
        done = python(code, tmp_path / "x", tmp_path / "wave.npy", tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # exporters like to talk
    assert sorted(os.listdir(tmp_path)) == ["at_save.npy", "later.npy", "wave.npy", "x"]
    at_save, later = np.load(tmp_path / "at_save.npy"), np.load(tmp_path / "later.npy")
    graph = open_session(read_bundle(tmp_path / "x")).run(["logits"], {"waveform": wave})[0]
    assert np.ptp(at_save) > 0.02
    for logits in (*later, graph): assert logits == pytest.approx(at_save, abs=1e-4)
    kind = json.loads((tmp_path / "x/config.json").read_text())["architecture"]
    assert kind == {"name": "xresnet_small", "kwargs": {"dropout": 0.1}}


def test_weights_that_dont_fit_the_architecture(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architecture": {"name": "xresnet_small", "kwargs": {}}}))
    with pytest.raises(BundleError, match="doesn't fit the architecture"): load_model(copy)
    (copy / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match="model.safetensors is damaged"): load_model(copy)


def test_every_flipped_or_lost_byte_of_the_graph_is_found(copy):
    graph = (copy / "model.onnx").read_bytes()
    for at in random.Random(0).sample(range(len(graph)), 5):
        (copy / "model.onnx").write_bytes(graph[:at] + bytes([graph[at] ^ 1]) + graph[at + 1:])
        with pytest.raises(BundleError, match="is damaged"): read_bundle(copy)
    (copy / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="is damaged"): read_bundle(copy)


# Overwrite a bundle in a forked child that kills itself before each line of export.py and core.py in turn, and read
# the bundle after each kill. The graphs are passed in: exporting them takes seconds, and is not tested here.
KILL = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from audiotag import bundle, core, export
from tiny import LABELS, CONFIG, Bands
torch.set_num_threads(1)
folder, graphs = sys.argv[1], [Path(path, "model.onnx").read_bytes() for path in sys.argv[2:4]]
if "renames" in sys.argv: core.ctypes = None  # as where the kernel can't exchange
def save(i):
    export.export_onnx = lambda *args: graphs[i % 2]
    name = f"number {i}"
    export.save_bundle(folder, Bands().eval(), name=name, labels=[name, *LABELS[1:]], config=CONFIG, crop_seconds=1.)
def die_before(line):
    lines = itertools.count()
    def trace(frame, event, arg):
        if frame.f_code.co_filename not in (export.__file__, core.__file__): return None
        if event == "line" and next(lines) == line: os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
save(0)
seen = set()
for i in itertools.count(1):
    if not (pid := os.fork()):
        die_before(i - 1)
        save(i)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    found = bundle.read_bundle(folder)  # raises for anything but one whole bundle
    assert found.labels[0] == found.name and found.name in Path(folder, "README.md").read_text()
    seen.add(found.name == f"number {i}")
    if status == 0: break
print(i, sorted(seen))
"""


def test_killed_at_any_line_one_whole_bundle_is_there(tmp_path, bundle, other):
    done = python(KILL, tmp_path / "mine", bundle, other)
    assert done.returncode == 0, done.stderr
    kills, seen = done.stdout.split(maxsplit=1)
    assert int(kills) > 60 and seen.strip() == "[False, True]"  # some left the old one, some the new
    update_bundle(tmp_path / "mine", name="three")  # clears away what the kills left
    assert os.listdir(tmp_path) == ["mine"] and read_bundle(tmp_path / "mine").name == "three"


def test_the_test_above_finds_two_renames(tmp_path, bundle, other):
    done = python(KILL, tmp_path / "mine", bundle, other, "renames")
    assert done.returncode == 1 and "there is no such bundle" in done.stderr


FULL = """
import resource, sys, torch
from pathlib import Path
from types import SimpleNamespace
from audiotag import export
from audiotag.audio import AudiotagError
from tiny import save_tiny
export.export_onnx = lambda *args: Path(sys.argv[2], "model.onnx").read_bytes()
learner = SimpleNamespace(export=lambda path: torch.save(torch.zeros(10**6), path))
for limit in 10_000, 2_000_000:  # too little for the graph; enough for that, and too little for the learner
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try: save_tiny(sys.argv[1], name="new", learner=learner)
    except AudiotagError as e: print(e)
"""


def test_a_full_disk_is_one_line_and_costs_nothing(copy, bundle):
    done = python(FULL, copy, bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert ["can't be written" in line for line in done.stdout.splitlines()] == [True, True]
    assert read_bundle(copy).name == "tiny" and os.listdir(copy.parent) == ["copy"]


def test_without_the_kernels_exchange_two_renames_do(copy, monkeypatch):
    monkeypatch.setattr("audiotag.core.ctypes", None)
    update_bundle(copy, name="new")
    assert read_bundle(copy).name == "new" and os.listdir(copy.parent) == ["copy"]


def test_a_graph_that_differs_isnt_saved(copy):
    class Liar(Bands):
        def forward(self, x): return super().forward(x) + 0.01
    model = Liar().train()
    with pytest.raises(AudiotagError, match="nothing was saved"):
        save_bundle(copy, model, name="new", labels=LABELS, config=CONFIG, crop_seconds=1.0)
    assert read_bundle(copy).name == "tiny"
    assert model.training and model.head.weight.requires_grad  # who goes on training finds the network as it was


@pytest.mark.parametrize("name", ["config.json", "model.onnx", "model.safetensors"])
def test_a_pipe_in_a_bundle_is_refused(tmp_path, name):
    bundle = read_bundle(save_tiny(tmp_path / "tiny"))
    (tmp_path / "tiny" / name).unlink()
    os.mkfifo(tmp_path / "tiny" / name)
    with pytest.raises(BundleError, match=f"{name} is no regular file"):
        read_bundle(bundle.folder)
        read_verified(bundle, name)
