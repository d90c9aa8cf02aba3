"The bridge to fastxtend, from outside: fresh processes, and packages that it doesn't know"
import random
import subprocess
import sys

import pytest
import torch
from fastai.torch_core import TensorCategory, TensorMultiCategory

from audiotag import compat

import fastxtend.audio.all as fx  # isort: skip  (after compat)


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400, check=False)


def test_quiet():
    "All of fastxtend's audio imports, and the one module that wants a name torch has dropped, without a word"
    bridged = run("import audiotag.compat; import fastxtend.audio.all, fastxtend.callback.compiler; print('in')")
    assert (bridged.returncode, bridged.stdout, bridged.stderr) == (0, "in\n", "")


def test_unknown_release_stops_the_import():
    "One line that says what was found, what is known and what to install"
    code = (
        "import importlib.metadata as m; v = m.version; "
        "m.version = lambda n: '3.1.0' if n == 'fastcore' else v(n); import audiotag.compat"
    )
    last = run(code).stderr.strip().splitlines()[-1]
    assert last.startswith(
        "audiotag.compat.CompatError: fastcore 3.1.0 is not known to work with fastxtend (tried: 2.2): "
        "pip install 'fastcore==2.2.*'"
    )


@pytest.mark.parametrize("package", compat.KNOWN)
def test_unknown_and_missing_packages(monkeypatch, package):
    known = compat.version
    monkeypatch.setattr(compat, "version", lambda name: "99.1" if name == package else known(name))
    with pytest.raises(compat.CompatError, match=f"^{package} 99.1 is not known.*pip install") as error:
        compat.check_versions()
    assert "\n" not in str(error.value) and isinstance(error.value, ImportError)

    def missing(name):
        if name == package: raise compat.PackageNotFoundError(name)
        return known(name)
    monkeypatch.setattr(compat, "version", missing)
    with pytest.raises(compat.CompatError, match=f"^{package} is not installed: pip install"): compat.check_versions()


def test_changed_hooks(monkeypatch):
    "A release with a known number, but without what the bridge hangs on"
    with monkeypatch.context() as m:
        m.setattr(compat.Transform, "_do_call", lambda self, f, x, **kwargs: x)
        with pytest.raises(compat.CompatError, match="no longer takes a method's name"): compat.patch_fastxtend()
    with monkeypatch.context() as m:
        m.delattr(compat.plum.Function, "_resolve_method_with_cache")
        with pytest.raises(compat.CompatError, match="plum"): compat.patch_fastxtend()
    compat.patch_fastxtend()


def test_fastai_keeps_its_own_show_batch():
    from fastai.data.core import show_batch
    assert not [m for m in show_batch.methods if m.implementation.__module__.startswith("fastxtend")]


def waves(*shape): return fx.TensorAudio(torch.randn(*shape) * .1, sr=16000)
def spectrograms(*shape): return fx.TensorMelSpec(torch.rand(*shape) + .1)


ON_WAVES = [
    lambda p: fx.Volume(p=p, gain=-6),
    lambda p: fx.Noise(p=p),
    lambda p: fx.Roll(p=p),
    lambda p: fx.VolumeBatch(p=p, gain=-6),
]
ON_LONG_WAVES = [lambda p: fx.PitchShift(p=p), lambda p: fx.TimeStretch(p=p)]
ON_SPECTROGRAMS = [lambda p: fx.TimeMasking(p=p, max_mask=.9), lambda p: fx.FrequencyMasking(p=p, max_mask=.9)]
USED = [(make, waves, (1, 2000)) for make in ON_WAVES] + [(make, waves, (1, 1, 2000)) for make in ON_LONG_WAVES] + [
    (make, spectrograms, (1, 32, 50)) for make in ON_SPECTROGRAMS]
BATCHES = [(make, x, (32, *(shape if len(shape) == 2 or x is spectrograms else shape[1:]))) for make, x, shape in USED]
LABELS = [TensorCategory(torch.arange(32)), TensorMultiCategory(torch.eye(32))]


@pytest.mark.parametrize("p", [.5, 1.])
@pytest.mark.parametrize(("make", "x", "shape"), USED)
def test_single_clips(make, x, shape, p):
    "Over forty tries a clip changes about as often as `p` says, and never in validation"
    torch.manual_seed(0)
    random.seed(0)
    changed = 0
    tries = 40 if shape != (1, 1, 2000) else 12
    for _ in range(tries):
        clip = x(*shape)
        before = clip.as_subclass(torch.Tensor).clone()
        out = make(p)(clip, split_idx=0)
        assert type(out) is type(clip) and out.shape == shape
        changed += not torch.equal(out.as_subclass(torch.Tensor), before)
    assert changed / tries > .8 if p == 1 else .2 < changed / tries < .8
    clip = x(*shape)
    assert make(p)(clip, split_idx=1) is clip


@pytest.mark.parametrize("y", LABELS, ids=lambda y: type(y).__name__)
@pytest.mark.parametrize("p", [.5, 1.])
@pytest.mark.parametrize(("make", "x", "shape"), BATCHES)
def test_batches_with_labels(make, x, shape, p, y):
    torch.manual_seed(1)
    random.seed(1)
    batch = x(*shape)
    before, tfm = batch.as_subclass(torch.Tensor).clone(), make(p)
    out, labels = tfm((batch, y), split_idx=0)
    assert type(out) is type(batch) and out.shape == shape and out.isfinite().all() and labels is y
    if x is waves: assert out.sr == 16000
    changed = (out.as_subclass(torch.Tensor) != before).flatten(1).any(1).float().mean()
    per_clip = isinstance(tfm, fx.VolumeBatch | fx.PitchShift | fx.TimeStretch | fx.TimeMasking | fx.FrequencyMasking)
    if p == 1: assert changed > .8
    else: assert .2 < changed < .8 if per_clip else changed in (0, 1)
    batch = x(*shape)
    same, labels = make(p)((batch, y), split_idx=1)
    assert same is batch and labels is y
