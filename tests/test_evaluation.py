"What notebook 25 can't show: fresh processes, real browsers, and whether a network's map points at the sound"
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

RATE, LABELS = 16000, ["low", "middle", "high"]


def tone(hz: float, seconds: float = 1.2, seed: int = 0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.2 * np.sin(2 * np.pi * hz * t) + 0.01 * noise).astype("float32")


@pytest.fixture(scope="module")
def config():
    from audiotag.mel import SpectrogramConfig
    return SpectrogramConfig(sample_rate=RATE, n_fft=512, win_length=512, hop_length=160, n_mels=64, f_max=8000.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, config) -> Path:
    "Three labels that follow from the energy in groups of mel bands: nothing was trained"
    import torch

    from audiotag.export import save_bundle

    class Bands(torch.nn.Module):
        arch, kwargs, pooled_linear = "bands", {}, True

        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(8, 3, bias=False)
            rows = [1, 1, 0.6, 0, 0, 0, 0, 0], [0, 0, 0.4, 1, 1, 0.5, 0, 0], [0, 0, 0, 0, 0, 0.5, 1, 1.0]
            self.head.weight.data = 60 * torch.tensor(rows)

        def features(self, x): return torch.nn.functional.avg_pool2d((x - 0.5).relu(), (8, 10)).transpose(1, 2)
        def embed(self, x): return self.features(x).mean((2, 3))
        def forward(self, x): return self.head(self.embed(x))

    return save_bundle(
        tmp_path_factory.mktemp("models") / "bands",
        Bands().eval(),
        name="bands",
        labels=LABELS,
        config=config,
        crop_seconds=1.0,
        max_crops=3,
        temperature=1.7,
        rejection={"score": "max_probability", "threshold": 0.5},
        trained_on={"own": ["low/0"]},
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    "A folder of class folders: tones, one of them of 4 s, one too short to fill a crop, one damaged"
    root = tmp_path_factory.mktemp("data") / "own clips"
    for label, hz in zip(LABELS, (200, 1500, 6000)):
        (root / label).mkdir(parents=True)
        for i in range(8):
            seconds = {1: 4.0, 2: 0.3}.get(i, 1.2)
            sf.write(root / label / f"{i}.wav", tone(hz * (1 + 0.05 * i), seconds, i), RATE)
    (root / "high/7.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    return root


def run(code: str, *args: object) -> str:
    "What a fresh process prints"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fresh_process_scores_without_torch_and_prints_one_json_document(bundle, clips, tmp_path):
    told = json.loads(run("""
import json, sys
from audiotag.datasets import read_dataset
from audiotag.evaluation import evaluate
found = evaluate(sys.argv[1], read_dataset(sys.argv[2]), sys.argv[3], draws=50)
print(json.dumps({**found.to_dict(), "torch": "torch" in sys.modules, "text": str(found)}))
""", bundle, clips, tmp_path / "r"))
    assert told["torch"] is False
    assert told["clips"] == 23 and told["accuracy"] == 1.0 and told["per_class"]["high"]["clips"] == 7
    assert told["trained_on"] == 1 and len(told["failed"]) == 1 and told["failed"][0].startswith("7.wav")
    assert str(clips) not in told["failed"][0]
    for name, (low, high) in told["intervals"].items():
        assert name == "calibration_error" or low <= told[name] <= high, name
    assert "accuracy" in told["text"] and "trained on 1 of these 23 clips by their names" in told["text"]
    written = json.loads((tmp_path / "r/metrics.json").read_text(), parse_constant=pytest.fail)
    assert written == {k: v for k, v in told.items() if k not in ("torch", "text")}
    assert (tmp_path / "r/report.html").stat().st_size > 10_000


def test_the_figures_are_those_of_the_tagger_clip_by_clip(bundle, clips):
    from audiotag.datasets import read_dataset
    from audiotag.evaluation import evaluate
    from audiotag.tagger import Tagger
    found, tagger = evaluate(bundle, read_dataset(clips), draws=10), Tagger.load(bundle)
    single = [tagger.predict(path) for path in found.table.path]
    np.testing.assert_allclose(found.probs, np.stack([p.probabilities for p in single]), atol=1e-6)
    assert found.known.tolist() == [p.known for p in single]
    np.testing.assert_allclose(found.embeddings, np.stack([p.embedding for p in single]), atol=1e-5)


def test_start_and_end_cut_before_anything_else(bundle, tmp_path):
    from audiotag.datasets import read_csv
    from audiotag.evaluation import evaluate
    from audiotag.tagger import Tagger
    parts = [tone(200), tone(6000, 0.9), tone(1500, 2.6)]
    sf.write(tmp_path / "all.wav", np.concatenate(parts), RATE)
    rows = "all.wav,low,0,1.2", "all.wav,high,1.2,2.1", "all.wav,middle,2.1,"
    (tmp_path / "all.csv").write_text("\n".join(["fname,label,start,end", *rows]))
    found = evaluate(bundle, read_csv(tmp_path / "all.csv"), draws=10)
    assert found.metrics["accuracy"] == 1.0
    tagger = Tagger.load(bundle)
    whole = np.concatenate(parts)
    for logits, part in zip(found.logits, (whole[:19200], whole[19200:33600], whole[33600:])):
        np.testing.assert_allclose(logits, tagger.predict((part, RATE)).logits, atol=1e-3)


def test_faults_end_in_one_line_that_names_them(bundle, clips, tmp_path):
    from audiotag.core import AudiotagError
    from audiotag.datasets import read_dataset
    from audiotag.evaluation import evaluate, select
    table = read_dataset(clips)
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:1000])
    (tmp_path / "file").touch()
    faults = {
        "broken": lambda: evaluate(broken, table),
        "there is no such bundle": lambda: evaluate(tmp_path / "nothing", table),
        "fold 3": lambda: select(table, fold=3),
        "knows none": lambda: evaluate(bundle, table.assign(label="dog")),
        "7.wav": lambda: evaluate(bundle, table[table.path.str.endswith("high/7.wav")]),
        "file can't be written": lambda: evaluate(bundle, table, tmp_path / "file", draws=2),
    }
    for words, fault in faults.items():
        with pytest.raises(AudiotagError, match=re.escape(words)) as caught: fault()
        assert "\n" not in str(caught.value)


def test_a_clip_that_vanishes_during_the_run_costs_only_itself(bundle, clips, tmp_path):
    from audiotag.datasets import read_dataset
    from audiotag.evaluation import evaluate
    mine = shutil.copytree(clips, tmp_path / "mine")
    table = read_dataset(mine)
    (mine / "low/3.wav").unlink()
    found = evaluate(bundle, table, draws=2)
    assert len(found.table) == 22 and sorted(line.split()[0] for line in found.failed) == ["3.wav", "7.wav"]


def test_noise_and_silence_are_not_tagged_at_the_threshold_that_accepts_the_known(bundle, clips):
    from audiotag.datasets import read_dataset
    from audiotag.evaluation import evaluate
    from audiotag.robustness import threshold_at_tpr, auroc, ood_scores, noise_clips
    from audiotag.tagger import Tagger
    found, tagger = evaluate(bundle, read_dataset(clips), draws=2), Tagger.load(bundle)
    heard = [tagger.predict((samples, RATE)) for _, samples in noise_clips(12, 1.0, RATE)]
    known, strange = ood_scores(found.logits, 1.7), ood_scores(np.stack([p.logits for p in heard]), 1.7)
    assert auroc(known["energy"], strange["energy"]) > 0.95
    assert (known["energy"] >= threshold_at_tpr(known["energy"])).mean() >= 0.9
    silent = [p for p, (kind, _) in zip(heard, noise_clips(12, 1.0, RATE)) if kind == "silent"]
    assert silent and not any(p.known for p in silent)


# The page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser_needed = pytest.mark.skipif(CHROMIUM is None and os.environ.get("CI") != "true", reason="no Chromium here")


@pytest.fixture(scope="module")
def big_page(tmp_path_factory, bundle, clips) -> Path:
    "A report on 41 labels with made-up predictions; two labels try to break out of the page"
    from audiotag.evaluation import Evaluation, save_report
    from audiotag.tagger import Tagger
    tagger, rng = Tagger.load(bundle), np.random.default_rng(0)
    markup = ["<img src=x onerror=document.title='broken'>", "it's \"A\" & B"]
    labels = [f"Some_kind_of_sound_{i}" for i in range(39)] + markup
    truth = rng.integers(0, 41, 2000)
    sounds = sorted(clips.glob("*/[0-6].wav"))
    table = pd.DataFrame(
        {
            "path": [str(sounds[i % len(sounds)]) for i in range(2000)],
            "clip_id": [f"c{i}" for i in range(2000)],
            "label": np.array(labels)[truth],
            "source_id": [f"s{i}" for i in range(2000)],
            "start": np.where(np.arange(2000) % 2, np.nan, 0.1),
            "end": np.where(np.arange(2000) % 2, np.nan, 0.25),
        }
    )
    logits = 3 * rng.standard_normal((2000, 41)) + 7 * np.eye(41)[truth]
    config = {**tagger.bundle.config, "labels": labels, "temperature": 2.0}
    found = Evaluation(config, table, logits, np.ones(2000, bool), draws=20)
    return save_report(found, tagger, tmp_path_factory.mktemp("data2") / "a report")


class Addresses(HTMLParser):
    "What a page would fetch or run"
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "action", "poster") or name.startswith("on"):
                self.found.append(value[:60])


def test_the_page_fetches_nothing_and_lets_no_label_break_out(big_page):
    text, seen = big_page.read_text(), Addresses()
    seen.feed(text)
    assert len(seen.found) == 48
    assert [a for a in seen.found if not a.startswith(("data:image/png;base64,", "../", "file:///"))] == []
    assert seen.tags & {"script", "link", "iframe", "object", "base", "form"} == set()
    found = [word for word in ("@import", "url(") if word in text]
    assert found == []
    counts = text.count("<article>"), text.count("prefers-color-scheme: dark")
    assert counts == (24, 1)


def test_hostile_names_appear_in_the_report_as_text_only(bundle, clips, tmp_path):
    "As a label, a file, a recording, a dataset, a model, an unknown label and an error message"
    from audiotag.evaluation import Evaluation, render_page
    from audiotag.tagger import Tagger
    hostile = "<img onerror=alert(1) src='x' title=\"y\">"
    tagger, path = Tagger.load(bundle), tmp_path / "<img onerror=alert(1) src='x'>.wav"
    shutil.copy(clips / "low/0.wav", path)
    rows = [{"path": str(path), "clip_id": hostile, "label": label, "source_id": hostile} for label in (hostile, "low")]
    table = pd.DataFrame(rows).assign(start=np.nan, end=np.nan)
    table.attrs["report"] = type("Report", (), {"name": hostile})
    config = {"name": hostile, "labels": [hostile, "low"], "rejection": {"score": hostile, "threshold": 0.5}}
    wrong = Evaluation(config, table, np.eye(2)[::-1], np.zeros(2, bool), None, (hostile,), {hostile: 1}, draws=2)
    text, seen = render_page(wrong, tagger, tmp_path / "report"), Addresses()
    seen.feed(text)
    assert "<img onerror" not in text
    assert text.count("&lt;img onerror=alert(1) src=&#39;x&#39; title=&#34;y&#34;&gt;") > 15
    assert len(seen.found) == 4 and [a for a in seen.found if not a.startswith(("data:image/png;base64,", "../"))] == []


@browser_needed
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_is_legible_in_a_browser(big_page, width, dark):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")
        requests, faults = [], []
        page.on("request", lambda r: requests.append(r.url))
        page.on("pageerror", lambda e: faults.append(e))
        page.goto(big_page.as_uri())
        assert [u for u in requests if not u.startswith(("file:", "data:"))] == []
        assert faults == [] and page.title() == "bands"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert page.evaluate("document.querySelectorAll('.confusion tbody tr').length") == 41
        assert page.evaluate(OVERFLOWING) == [], "text doesn't fit into its cell"
        assert page.evaluate(CONTRAST) >= 4.5, "a number can't be read on its tint"
        held = page.evaluate(HEADERS_STAY)
        assert abs(held["label"]) < 2 and abs(held["head"]) < 2, "the headers scroll away"
        browser.close()


@browser_needed
def test_the_players_read_the_clips_from_their_paths(big_page):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(big_page.as_uri())
        lengths = page.evaluate(LENGTHS)
        browser.close()
    assert len(lengths) == 24 and min(lengths) > 0.2


LENGTHS = """Promise.all([...document.querySelectorAll('audio')].map(a => new Promise(done => {
    a.onloadedmetadata = () => done(a.duration);
    a.onerror = () => done(0);
    a.preload = 'metadata';
    a.load();
})))"""
OVERFLOWING = """[...document.querySelectorAll('.confusion tbody td, .wide td')]
    .filter(c => c.scrollWidth > c.clientWidth + 1).map(c => c.textContent)"""
HEADERS_STAY = """(() => {
    const box = document.querySelector('.scroll:has(.confusion)');
    box.scrollTo(300, 500);
    const outer = box.getBoundingClientRect();
    const row = [...box.querySelectorAll('tbody th')].at(-1).getBoundingClientRect();
    const head = box.querySelector('thead th').getBoundingClientRect();
    return {
        label: box.scrollLeft ? row.left - outer.left - 1 : 0,
        head: box.scrollTop ? head.top - outer.top - 1 : 0,
    };
})()"""
CONTRAST = """(() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = color => {
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = color => {
        const [r, g, b] = rgb(color).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ratio = cell => {
        const style = getComputedStyle(cell);
        const [dark, light] = [luminance(style.color), luminance(style.backgroundColor)].sort((x, y) => x - y);
        return (light + .05) / (dark + .05);
    };
    return Math.min(...[...document.querySelectorAll('.confusion td[style], .confusion tbody th')].map(ratio));
})()"""


# Does the map point at the sound?

def chirp_clip(label: str, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    "Five seconds of noise, and for two of the labels a chirp of 1 to 2 s somewhere; its start and end"
    samples, length = 0.03 * rng.standard_normal(5 * RATE), rng.uniform(1, 2)
    start, t = rng.uniform(0, 5 - length), np.arange(round(length * RATE)) / RATE
    low, high = sorted((rng.uniform(300, 900), rng.uniform(2000, 5000)), reverse=label == "falling")
    if label == "noise": return samples.astype("float32"), 0.0, 0.0
    chirp = 0.2 * np.sin(2 * np.pi * (low * t + (high - low) * t**2 / 2 / length))
    samples[round(start * RATE):][:len(t)] += chirp * np.minimum(1, np.minimum(t, length - t) / 0.02)
    return samples.astype("float32"), start, start + length


def chirp_set(n: int, seed: int, config):
    import torch

    from audiotag.spectrogram import front_end
    rng, targets = np.random.default_rng(seed), np.arange(n) % 3
    samples, starts, ends = zip(*(chirp_clip(("falling", "noise", "rising")[i], rng) for i in targets))
    batches = [torch.tensor(np.stack(part)) for part in np.array_split(samples, n // 30)]
    with torch.no_grad(): pictures = torch.cat([front_end(config)(batch) for batch in batches])
    return pictures, torch.tensor(targets), samples, np.stack([starts, ends], 1)


def train_on_chirps(config):
    "Train a network for six epochs to classify falling chirps, noise and rising chirps"
    import torch

    from audiotag.models import create_model
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pictures, targets, *_ = chirp_set(240, 0, config)
    model = create_model("xresnet_small", 3, config)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=6 * 15)
    for _ in range(6):
        for batch in torch.randperm(240).view(-1, 16):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(pictures[batch]), targets[batch]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@pytest.mark.slow
def test_heat_lies_within_the_chirp(tmp_path):
    "In 90% of 200 clips, 80% of the heat above half its maximum is within the chirp: learner, bundle and graph"
    from audiotag.explain import class_activation_map, explain_clip, grad_cam, localization_score
    from audiotag.export import save_bundle
    from audiotag.learner import load_model
    from audiotag.mel import SpectrogramConfig
    from audiotag.tagger import Tagger
    config = SpectrogramConfig(sample_rate=RATE, n_fft=512, win_length=512, hop_length=320, n_mels=64, f_max=8000.0)
    model, labels = train_on_chirps(config), ["falling", "noise", "rising"]
    folder = save_bundle(tmp_path / "chirps", model, name="chirps", labels=labels, config=config, crop_seconds=5.0)
    tagger, again = Tagger.load(folder, threads=1), load_model(folder)
    pictures, targets, samples, places = chirp_set(300, 1, config)
    shares = {"learner": [], "bundle": [], "graph": []}
    for picture, target, sound, (start, end) in zip(pictures, targets.tolist(), samples, places):
        if target == 1: continue
        exact = class_activation_map(tagger, sound, tagger.labels[target])
        heats = {"learner": grad_cam(model, picture, target), "bundle": grad_cam(again, picture, target)}
        heats["graph"] = np.maximum(exact, 0)
        for how, heat in heats.items(): shares[how].append(localization_score(heat, 5.0, start, end))
    good = {how: float((np.array(values) >= 0.8).mean()) for how, values in shares.items()}
    print(f"at least 80 % of the heat within the chirp, share of {len(shares['learner'])} clips:", good)
    assert min(good.values()) >= 0.9
    span = max(explain_clip(tagger, (samples[2], RATE), "rising").spans, key=lambda s: s[1] - s[0])
    assert places[2][0] - 0.5 < span[0] < span[1] < places[2][1] + 0.5


def test_training_clips_are_recognized_by_their_content(tmp_path):
    "The same files in another folder, with other names, or under a CSV; not new files with the old names"
    import shutil

    from audiotag.bundle import clip_digests
    from audiotag.datasets import read_dataset
    from audiotag.evaluation import _count_seen
    for seed, folder in enumerate(("old", "new")):
        for i, label in enumerate("aabb"):
            (tmp_path / folder / label).mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([seed, i]).normal(0, 0.1, 8000)
            sf.write(tmp_path / folder / label / f"{i}.wav", noise, 8000)
    old, new = (read_dataset(tmp_path / folder) for folder in ("old", "new"))
    digests = clip_digests(old[["path", "start", "end"]].itertuples(index=False, name=None))
    config = {"trained_on": {"own": old.clip_id.tolist()}, "digests": {"own": digests}}
    shutil.copytree(tmp_path / "old/a", tmp_path / "copy/a")
    for file in list((tmp_path / "copy/a").iterdir()): file.rename(file.with_stem(f"renamed-{file.stem}"))
    (tmp_path / "copy/b").mkdir()
    for name in ("8", "9"): shutil.copy(tmp_path / "new/b/2.wav", tmp_path / f"copy/b/{name}.wav")
    assert [_count_seen(config, table) for table in (old, new)] == [(4, False), (0, False)]
    assert _count_seen(config, read_dataset(tmp_path / "copy")) == (2, False)
    part = old.assign(start=0.0, end=0.5)
    assert _count_seen(config, part) == (0, False)
    del config["digests"]
    assert _count_seen(config, new) == (4, True)
