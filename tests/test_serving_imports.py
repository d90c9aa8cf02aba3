"""Serving must stay light: what is loaded is looked at in fresh processes"""
import json
import os
import subprocess
import sys
from pathlib import Path

import soundfile as sf
from tiny import save_tiny, tone

HEAVY = ["torch", "torchaudio", "fastai", "fastcore", "fastxtend", "timm", "onnx", "onnxscript", "safetensors"]
HEAVY += ["pandas", "matplotlib", "librosa", "sklearn", "scipy", "ray", "pyarrow", "gradio", "huggingface_hub"]
SHOW = f"\nimport sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"


def heavy(code: str, *args) -> list[str]:
    "The heavy modules that are loaded after `code` has run in a fresh process"
    done = subprocess.run(
        [sys.executable, "-c", code + SHOW, *map(str, args)],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_probe_sees_what_is_loaded(): assert heavy("import matplotlib") == ["matplotlib"]


def test_importing_loads_nothing_heavy():
    assert heavy("import audiotag; from audiotag import Tagger, Tag") == []
    assert heavy("import audiotag.audio, audiotag.bundle, audiotag.tagger, audiotag.batch") == []


def test_importing_the_package_loads_not_even_numpy():
    code = "import sys, audiotag; print('numpy' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_tagging_loads_nothing_heavy(tmp_path):
    sf.write(tmp_path / "a.wav", tone(1500), 32000)
    save_tiny(tmp_path / "tiny")
    code = """
import sys
from audiotag import Tagger
tagger = Tagger.load(sys.argv[1])
assert tagger.tag(sys.argv[2])[0].label == "middle"
assert tagger.timeline(sys.argv[2])[0].label == "middle"
tagger.spectrogram(sys.argv[2]), tagger.activation_map(sys.argv[2], "low")
from audiotag.batch import tag_files
assert tag_files([sys.argv[2]], sys.argv[1] + "/../t.csv", sys.argv[1], workers=1).files == 1
"""
    assert heavy(code, tmp_path / "tiny", tmp_path / "a.wav") == []
