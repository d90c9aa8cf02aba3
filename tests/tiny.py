"""A tagger that needs no training: low, middle and high sounds, by weights that are written down"""
import numpy as np
import torch

from audiotag.export import save_bundle
from audiotag.mel import SpectrogramConfig

LABELS = ["low", "middle", "high"]
CONFIG = SpectrogramConfig(n_mels=64)


class Bands(torch.nn.Module):
    "An AudioNet by its contract: eight groups of mel bands, three labels"
    arch, kwargs, pooled_linear = "bands", {}, True

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(8, 3, bias=False)
        self.head.weight.data = torch.tensor(
            [[18, 18, 0, 0, 0, 0, 0, 0], [0, 0, 12, 12, 12, 0, 0, 0], [0, 0, 0, 0, 0, 12, 12, 12.0]]
        )

    def features(self, x): return torch.nn.functional.avg_pool2d(x, (8, 10)).transpose(1, 2)
    def embed(self, x): return self.features(x).mean((2, 3))
    def forward(self, x): return self.head(self.embed(x))


def save_tiny(folder, name="tiny", scale=1.0, **meta):
    "A bundle of `Bands`, its weights times `scale`"
    model = Bands().eval()
    model.head.weight.data *= scale
    options = {
        "labels": LABELS,
        "config": CONFIG,
        "crop_seconds": 1.0,
        "max_crops": 4,
        "rejection": {"score": "max_probability", "threshold": 0.6},
    }
    return save_bundle(folder, model, name=name, **{**options, **meta})


def picture(i): return torch.rand(1, 64, 101)  # for a learner that can be pickled


def target(i): return torch.tensor(i % 3)


def tone(hz, seconds=1.0, rate=32000, level=0.3):
    "A sine (samples,) float32"
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype("float32")
