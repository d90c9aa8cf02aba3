"""Tag sounds: from a clip to its tags, and from a folder of clips to a tagger"""
import os
from importlib import import_module

__version__ = "0.1.0"
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported


def __getattr__(name: str):
    "Load the tagger only when it is asked for, so that `import audiotag` costs nothing"
    if name in ("Tagger", "Tag"): return getattr(import_module("audiotag.tagger"), name)
    raise AttributeError(f"module 'audiotag' has no attribute {name!r}")
