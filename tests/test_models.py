"What notebooks can't test of `audiotag.models`: every export, new processes, no network, broken servers, hostile files"

import functools
import hashlib
import http.server
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch

from audiotag import models
from audiotag.core import AudiotagError
from audiotag.models import create_model, default_config, split_params
from audiotag.mel import EFFICIENTAT, SpectrogramConfig

ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"     # nothing listens there
FAST = ("wave1d",)
SLOW = ("mn04", "xresnet_small", "xresnet18", "crnn", "mn10", "resnet18", "convnext_atto", "efficientnet_b0")
ALL = ("xresnet_small", "mn04", "crnn", "wave1d", "resnet10t")


def example(arch, clips=2, frames=150):
    "A batch for `arch`: random spectrograms, or as many waveform samples"
    config = default_config(arch)
    if config.kind == "wave": return torch.randn(clips, 1, frames*320)*.1
    return torch.rand(clips, 1, config.n_mels, frames)


def fresh(code, **env):
    "Run code in a new process, outside the repository"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
        env=os.environ | {"PYTHONPATH": path} | {k: str(v) for k, v in env.items()},
        check=False,
    )


# ---- ONNX ----

def exported(net, x):
    "onnxruntime's session of a network, first and last axis dynamic"
    import onnxruntime
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = {0: torch.export.Dim.DYNAMIC, x.ndim - 1: torch.export.Dim.DYNAMIC}
            program = torch.onnx.export(
                net, (x,), dynamo=True, dynamic_shapes=(axes,), input_names=["x"], verbose=False
            )
    finally: logging.disable(logging.NOTSET)
    buffer = io.BytesIO()
    program.save(buffer)
    return onnxruntime.InferenceSession(buffer.getvalue())


@pytest.mark.parametrize("arch", [*FAST, *(pytest.param(a, marks=pytest.mark.slow) for a in SLOW)])
def test_onnx_agrees_for_any_batch_and_length(arch):
    torch.manual_seed(0)
    net = create_model(arch, 7, default_config(arch))
    # as after training: initially, some blocks of fastai output zeros, and the outputs of deep networks vanish
    for m in net.modules():
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(m.weight, .5, 1.5)
            m.momentum = 1.
    torch.nn.init.normal_(net.head.weight)
    with torch.no_grad(): net(example(arch, 4, 100))
    net.eval()
    session = exported(net, example(arch))
    for clips, frames in ((1, 501), (3, 77), (2, 64), (5, 33)):
        x = example(arch, clips, frames)
        with torch.no_grad(): expected = net(x).numpy()
        assert expected.std() > 1e-3    # else agreement would mean nothing
        assert abs(session.run(None, {"x": x.numpy()})[0] - expected).max() < 1e-4*max(1, abs(expected).max())


@pytest.mark.slow
def test_onnx_of_three_channels():
    net = create_model("xresnet_small", 4, SpectrogramConfig(kind="delta")).eval()
    x = torch.rand(2, 3, 128, 100)
    session = exported(net, x)
    part = x[:1, ..., :60]
    assert abs(session.run(None, {"x": part.numpy()})[0] - net(part).detach().numpy()).max() < 1e-4


# ---- one contract for all ----

@pytest.mark.parametrize("arch", ALL)
def test_contract(arch):
    torch.manual_seed(0)
    config = default_config(arch)
    net, x = create_model(arch, 6, config, dropout=.5), example(arch)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert [p for group in split_params(net) for p in group] == list(net.parameters())
    net.eval()
    with torch.no_grad():
        assert torch.allclose(net(x), net.head(net.embed(x)), atol=1e-6)
        maps = net.features(x)
        if net.pooled_linear: assert torch.allclose(net.embed(x), maps.flatten(2).mean(2), atol=1e-5)
        assert not net(x).isnan().any() and not net(torch.zeros_like(x)).isnan().any()
        with torch.autocast("cpu", torch.bfloat16): assert net(x[:1]).isfinite().all()


def test_a_click_does_not_overflow_in_half_precision():
    net = create_model("wave1d", 3, default_config("wave1d")).eval()
    click = torch.zeros(1, 1, 160000)
    click[..., 80000:80160] = 1.
    with torch.no_grad(), torch.autocast("cpu", torch.float16): assert net(click).isfinite().all()


def test_a_fresh_process_makes_the_same_networks(tmp_path):
    for arch in ("xresnet_small", "mn04"):
        net, x = create_model(arch, 5, default_config(arch), dropout=.1).eval(), example(arch, 1, 80)
        saved = {"arch": net.arch, "kwargs": net.kwargs, "state": net.state_dict(), "x": x, "y": net(x).detach()}
        torch.save(saved, tmp_path/f"{arch}.pt")
        (tmp_path/f"{arch}.pkl").write_bytes(pickle.dumps(net))
    done = fresh(
        """if 1:
        import os, pathlib, pickle, torch
        from audiotag.models import audioset_labels, create_model, default_config
        for path in sorted(pathlib.Path(os.environ["FOLDER"]).glob("*.pt")):
            saved = torch.load(path)
            net = create_model(saved["arch"], 5, default_config(saved["arch"]), **saved["kwargs"]).eval()
            net.load_state_dict(saved["state"])
            for it in (net, pickle.loads(path.with_suffix(".pkl").read_bytes())):
                print(float((it(saved["x"]) - saved["y"]).abs().max()) < 1e-5)
        print(len(audioset_labels()))   # package data, found from outside the repository
        """,
        FOLDER=tmp_path,
    )
    assert done.stdout.split() == ["True"]*4 + ["527"], done.stderr


def test_freezing_with_fastai_trains_the_head_alone():
    from fastai.callback.progress import ProgressCallback  # noqa: F401 (gives Learner.no_bar)
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    clips = [(torch.rand(1, 64, 60), torch.tensor(i % 3)) for i in range(8)]
    dls = DataLoaders(DataLoader(clips, bs=4), DataLoader(clips, bs=4), device="cpu")
    net = create_model("xresnet_small", 3, SpectrogramConfig(n_mels=64))
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), splitter=split_params, train_bn=False)
    learn.freeze()
    before = [p.detach().clone() for group in split_params(net) for p in group]
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    after = [p for group in split_params(net) for p in group]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [False]*(len(moved) - 2) + [True]*2


# ---- weights: no network, lies and attacks ----

@pytest.mark.slow
def test_offline_imagenet_is_one_line(tmp_path):
    done = fresh("""if 1:
        from audiotag.audio import AudiotagError
        from audiotag.models import create_model, default_config
        try: create_model("resnet18", 5, default_config("resnet18"), weights="pretrained")
        except AudiotagError as error: print(error)
        """, HF_ENDPOINT=NOWHERE, HF_HOME=tmp_path, HF_HUB_CACHE=tmp_path/"hub")
    assert done.stdout.count("\n") == 1 and "leave weights out" in done.stdout, done.stderr
    assert not done.stderr


@pytest.fixture
def server(tmp_path):
    "A web server on 127.0.0.1 over tmp_path/www; gives its address"
    (tmp_path/"www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path/"www"))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    httpd.server_close()


def published(net, path):
    "Save a network of ours under EfficientAT's names"
    state = {}
    for key, value in net.state_dict().items():
        if key in ("mean", "std"): continue
        for theirs, ours in (("features.", "body."), ("classifier.2.", "pool.1."), ("classifier.5.", "head.")):
            if key.startswith(ours): key = theirs + key.removeprefix(ours)
        state[key.replace(".fc", ".conc_se_layers.0.fc")] = value
    torch.save(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_are_fetched_once_and_held_to_their_hash(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path/"cache")
    net = create_model("mn04", 527, EFFICIENTAT).eval()
    sha256 = published(net, tmp_path/"www"/"w.pt")
    monkeypatch.setitem(models.EFFICIENTAT_WEIGHTS, "mn04", (server + "w.pt", sha256))
    x = example("mn04", 1, 64)
    for _ in range(2):
        got = create_model("mn04", 527, EFFICIENTAT, weights="pretrained").eval()
        assert torch.equal(got(x), net(x))
        (tmp_path/"www"/"w.pt").unlink(missing_ok=True)      # the second time it comes from the cache
    (tmp_path/"cache"/"w.pt").write_bytes(b"rotten")  # and a rotten cache is fetched again
    with pytest.raises(AudiotagError, match="could not be fetched"):
        create_model("mn04", 527, EFFICIENTAT, weights="pretrained")


@pytest.mark.parametrize("content", [b"<html>rate limited</html>", None])
def test_a_server_that_lies_or_lacks_the_file(server, content, tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path/"cache")
    if content: (tmp_path/"www"/"w.pt").write_bytes(content)
    monkeypatch.setitem(models.EFFICIENTAT_WEIGHTS, "mn04", (server + "w.pt", "0"*64))
    with pytest.raises(AudiotagError, match="w.pt could not be fetched") as caught: models.fetch_weights("mn04")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path/"cache").glob("w.pt"))


def test_offline_audioset_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    monkeypatch.setitem(models.EFFICIENTAT_WEIGHTS, "mn04", (NOWHERE + "/w.pt", None))
    with pytest.raises(AudiotagError, match="give the file as weights"):
        create_model("mn04", 10, EFFICIENTAT, weights="pretrained")


@pytest.mark.parametrize("share", [.2, .999])
def test_a_truncated_local_file(share, tmp_path):
    published(create_model("mn04", 527, EFFICIENTAT), tmp_path/"whole.pt")
    whole = (tmp_path/"whole.pt").read_bytes()
    (tmp_path/"half.pt").write_bytes(whole[:int(len(whole)*share)])
    with pytest.raises(AudiotagError, match="half.pt holds no whole PyTorch state dict"):
        create_model("mn04", 10, EFFICIENTAT, weights=tmp_path / "half.pt")


def test_the_published_name_with_other_content(tmp_path):
    published(create_model("mn04", 527, EFFICIENTAT), tmp_path/"mn04_as_mAP_432.pt")
    with pytest.raises(AudiotagError, match="sha256 is not the published one"):
        create_model("mn04", 10, EFFICIENTAT, weights=tmp_path / "mn04_as_mAP_432.pt")


class Hostile:
    "Pickles to a call that leaves a mark"
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return Path.touch, (self.mark,)


@pytest.mark.parametrize("arch", ["mn04", "resnet10t"])
def test_weights_run_no_code(arch, tmp_path):
    torch.save({"x": Hostile(tmp_path/"mark")}, tmp_path/"evil.pt")
    with pytest.raises(AudiotagError, match=r"evil\.pt holds no"):
        create_model(arch, 10, default_config(arch), weights=tmp_path / "evil.pt")
    assert not (tmp_path/"mark").exists()
