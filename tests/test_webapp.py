"""The page as a person uses it (a real browser), as a program calls it, and as someone attacks it"""
import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlparse

import httpx
import numpy as np
import pytest
import soundfile as sf

ROOT = Path(__file__).parents[1]
RATE = 32000
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOW, HIGH = 200, 5000  # Hz: "low sound", "high sound" to the models below


def tone(hz, seconds=1.0, rate=RATE):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype("float32")


LOW_THEN_HIGH = np.concatenate([tone(LOW, 1.5), tone(HIGH, 1.5)])


# ---------------------------------------------------------------- what is served


def handmade_network():
    "A network that detects low, middle and high tones, without training"
    import torch

    class Bands(torch.nn.Module):
        arch, kwargs, pooled_linear = "bands", {}, True

        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(8, 3, bias=False)
            rows = [1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1.0]
            self.head.weight.data = 40 * torch.tensor(rows)

        def features(self, x): return torch.nn.functional.avg_pool2d((x - 0.5).relu(), (8, 10)).transpose(1, 2)
        def embed(self, x): return self.features(x).mean((2, 3))
        def forward(self, x): return self.head(self.embed(x))

    return Bands().eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Three bundles: a handmade one, the same without activation maps and with other labels, and a corrupted one"
    import onnx

    from audiotag.export import save_bundle
    from audiotag.mel import SpectrogramConfig
    folder = tmp_path_factory.mktemp("models")
    about = {"config": SpectrogramConfig(n_mels=64), "crop_seconds": 1.0, "temperature": 0.3}
    about |= {"name": "urbansound8k", "labels": ["low_sound", "middle_sound", "high_sound"]}
    about["rejection"] = {"score": "max_probability", "threshold": 0.5}
    about["datasets"] = [{"name": "tones", "title": "Tones", "licence": "CC0", "citation": "made for this test"}]
    save_bundle(folder / "urbansound8k", handmade_network(), **about)
    other = shutil.copytree(folder / "urbansound8k", folder / "other")
    graph = onnx.load(other / "model.onnx")
    del graph.graph.output[[o.name for o in graph.graph.output].index("cam")]
    onnx.save(graph, other / "model.onnx")
    config = json.loads((other / "config.json").read_text())
    config |= {"name": "other", "labels": ["bass", "tenor", "soprano"]}
    del config["files"]
    (other / "config.json").write_text(json.dumps(config))
    shutil.copytree(other, folder / "damaged")
    (folder / "damaged/model.onnx").write_bytes(b"")
    mark = folder / "unpickled"
    (folder / "urbansound8k/learner.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    "The web app in a separate process, with a separate temporary folder"

    def __init__(self, models, temp):
        self.temp, self.models = temp, models
        port = free_port()
        env = os.environ | {"TMPDIR": str(temp), "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(ROOT)}
        code = f"from audiotag.webapp import launch; launch({str(models)!r})"
        self.log = temp.parent / "page.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], env=env, cwd=temp.parent, stdout=log, stderr=subprocess.STDOUT
            )
        self.url = f"http://127.0.0.1:{port}/"
        self.wait()

    def output(self): return self.log.read_text()

    def wait(self, seconds=90):
        end = time.time() + seconds
        while self.url not in self.output():
            assert self.process.poll() is None and time.time() < end, self.output()
            time.sleep(0.1)

    def uploads(self): return [p for p in self.temp.rglob("*") if p.is_file()]

    def peak_mb(self):
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    temp = tmp_path_factory.mktemp("server") / "temp"
    temp.mkdir()
    server = Server(models, temp)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def client(server):
    from gradio_client import Client
    return Client(server.url, verbose=False)


def write(path, samples, rate=RATE, **kw):
    sf.write(path, samples, rate, **kw)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory): return write(tmp_path_factory.mktemp("clip") / "two tones.wav", LOW_THEN_HIGH)


# ---------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        message = "no chromium to drive: apt-get install chromium"
        if os.environ.get("CI") == "true": pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright
    spoken = write(tmp_path_factory.mktemp("microphone") / "high.wav", tone(HIGH, 4.0, 48000), 48000)
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={spoken}",
    ]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def is_foreign(url):
    "Whether a request leaves this machine"
    address = urlparse(url)
    return address.scheme in ("http", "https", "ws", "wss") and address.hostname != "127.0.0.1"


@pytest.fixture
def open_page(browser, server):
    "Open the page; afterwards: no error in the console, no request to another host"
    contexts, complaints = [], []

    def open_page(**settings):
        contexts.append(browser.new_context(permissions=["microphone"], accept_downloads=True, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("request", lambda r: complaints.append(r.url) if is_foreign(r.url) else None)
        page.set_default_timeout(60_000)
        page.goto(server.url)
        page.locator("#clip").wait_for()
        return page

    yield open_page
    for context in contexts: context.close()
    assert complaints == []


def upload(page, path):
    page.locator("#clip input[type=file]").set_input_files(path)
    page.locator("#report h2, #report [role=alert]").first.wait_for()
    return page.locator("#report")


def test_upload_shows_tags_picture_and_timeline(open_page, clip):
    page = open_page()
    report = upload(page, clip)
    assert report.locator("h2").inner_text().lower() in ("low sound", "high sound")
    assert page.locator("#said").text_content() == report.locator("h2").inner_text()  # what a screen reader says
    assert len(report.locator(".at-bars li").all()) == 3
    numbers = [int(re.search(r"\d+", text)[0]) for text in report.locator(".at-bars .at-number").all_inner_texts()]
    assert numbers == sorted(numbers, reverse=True) and 95 <= sum(numbers) <= 105
    for axis, tick in ((".at-hertz", "1 kHz"), (".at-seconds", "0 s")):
        assert tick in report.locator(axis).inner_text().replace("\xa0", " ")
    assert [lane.inner_text() for lane in report.locator(".at-lane span").all()] == ["low sound", "high sound"]
    assert len(report.locator("tbody tr").all()) == 2
    assert all(image.get_attribute("alt") for image in page.locator("img").all())


# the lowest opacity of an image in one of its columns on the left, and in one on the right
COLUMN_OPACITY = """e => {
  const canvas = document.createElement('canvas');
  canvas.width = e.naturalWidth;
  canvas.height = e.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(e, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const lowest = x => {
    let alpha = 255;
    for (let y = 0; y < canvas.height; y++) alpha = Math.min(alpha, data[4 * (y * canvas.width + x) + 3]);
    return alpha;
  };
  return [lowest(Math.floor(canvas.width * .15)), lowest(Math.floor(canvas.width * .8))];
}"""


def test_switch_shades_what_does_not_speak_for_the_tag(open_page, clip):
    page = open_page()
    report = upload(page, clip)
    veil = report.locator(".at-veil")
    opacity = lambda: float(veil.evaluate("e => getComputedStyle(e).opacity"))
    assert opacity() == 0
    report.get_by_role("checkbox").check()
    page.wait_for_function("getComputedStyle(document.querySelector('.at-veil')).opacity == 1")
    first, last = veil.evaluate(COLUMN_OPACITY)  # in the low part, and in the high part
    assert (first < last) == (report.locator("h2").inner_text().lower() == "low sound")


def test_timeline_plays_its_part(open_page, clip):
    page = open_page()
    report = upload(page, clip)
    start, end = map(float, report.locator(".at-lane button").nth(1).get_attribute("data-play").split())
    page.wait_for_function("document.querySelector('#clip audio')?.readyState > 0")
    report.locator(".at-lane button").nth(1).click()
    page.wait_for_function(f"document.querySelector('#clip audio').currentTime > {start}")
    page.wait_for_function("(a => a.paused || a.ended)(document.querySelector('#clip audio'))")
    assert start < page.evaluate("document.querySelector('#clip audio').currentTime") <= end + 0.5
    report.locator(".at-lane button").nth(0).click()
    page.wait_for_function("document.querySelector('#clip audio').paused")
    # the first part ends at 1.5 s, the recording at 3 s
    assert page.evaluate("document.querySelector('#clip audio').currentTime") < 2.5


def test_downloads(open_page, clip):
    report = upload(page := open_page(), clip)
    texts = {}
    for name in ("CSV", "Audacity"):
        with page.expect_download() as got: report.get_by_role("link", name=name).click()
        texts[got.value.suggested_filename] = Path(got.value.path()).read_text()
    assert list(texts) == ["two tones.csv", "two tones.txt"]
    rows = list(csv.DictReader(io.StringIO(texts["two tones.csv"])))
    assert [row["label"] for row in rows] == ["low_sound", "high_sound"]
    assert float(rows[1]["end"]) == pytest.approx(3, abs=0.01)
    labels = [line.split("\t") for line in texts["two tones.txt"].splitlines()]
    assert [line[2] for line in labels] == ["low_sound", "high_sound"]
    assert float(labels[0][1]) == pytest.approx(1.5, abs=0.5)


def test_example_then_another_model_by_keyboard(open_page):
    page = open_page()
    page.get_by_role("button", name="siren").click()
    page.locator("#report h2").wait_for()
    assert "sound" in page.locator("#report .at-bars").inner_text()
    page.locator("#model input").focus()
    for key in ("ArrowDown", "Enter"): page.keyboard.press(key)
    page.wait_for_function("/bass|tenor|soprano/.test(document.querySelector('#report .at-bars').innerText)")
    assert "improbable" in page.locator("#report .at-switch").inner_text()  # this one's graph has no activation maps
    page.locator("#words summary").click()
    assert page.locator("#words li").all_inner_texts() == ["bass", "tenor", "soprano"]
    page.locator("#words input").fill("TEN")
    assert [li.inner_text() for li in page.locator("#words li").all() if li.is_visible()] == ["tenor"]
    page.locator("#words input").fill("dog")
    assert "can't tag it" in page.locator("#words p").inner_text()


IS_FOCUSED = """name => {
  const e = document.activeElement;
  return (e.getAttribute('aria-label') || e.innerText || e.type).includes(name);
}"""


def test_everything_by_keyboard(open_page):
    page = open_page()
    def press(wanted):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(IS_FOCUSED, wanted): return
        raise AssertionError(f"{wanted} can't be reached by Tab")
    press("jackhammer")
    page.keyboard.press("Enter")
    page.locator("#report h2").wait_for()
    press("checkbox")
    page.keyboard.press("Space")
    assert page.get_by_role("checkbox").is_checked()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.get_by_role("tab", name="Sound").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Start listening").is_visible()


def test_microphone(open_page):
    page = open_page()
    page.get_by_role("button", name="Record audio").click()
    page.locator("#clip").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    page.locator("#clip").get_by_role("button", name="Stop").first.click()
    page.locator("#report h2").wait_for()
    assert page.locator("#report h2").inner_text().lower() == "high sound"


# the fraction of the columns of the live spectrogram that are filled
FILLED = """() => {
  const canvas = document.querySelector('#live canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let n = 0;
  for (let x = 0; x < canvas.width; x++) n += data[4 * x + 3] > 0;
  return n / canvas.width;
}"""


def test_live_tags_and_scrolls_and_leaves_nothing(open_page, server):
    page, before = open_page(), set(server.uploads())
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start listening").click()
    page.locator("#live h2", has_text="high sound").wait_for()
    page.wait_for_function(f"({FILLED})() > .25")  # three seconds have scrolled in
    page.get_by_role("button", name="Stop").click()
    assert "off" in page.locator("#live [role=status]").inner_text()
    assert set(server.uploads()) == before


def test_many_files(open_page, clip, tmp_path):
    (tmp_path / "notes.wav").write_text("milk, bread")
    page = open_page()
    page.get_by_role("tab", name="Files").click()
    page.locator("#files input[type=file]").set_input_files([clip, tmp_path / "notes.wav"])
    page.locator("#table tbody tr").nth(1).wait_for()
    rows = [row.inner_text() for row in page.locator("#table tbody tr").all()]
    assert "sound" in rows[0] and "is not a sound file" in rows[1]
    with page.expect_download() as got: page.get_by_role("link", name="CSV").click()
    assert len(Path(got.value.path()).read_text().splitlines()) == 3


def test_an_error_is_a_sentence_and_markup_in_a_name_is_text(open_page, tmp_path):
    page = open_page()
    bad = tmp_path / "<img src=x onerror=window.hacked=1>.wav"
    bad.write_text("milk, bread")
    report = upload(page, bad)
    assert "is not a sound file" in report.get_by_role("alert").inner_text() and str(tmp_path) not in page.content()
    assert page.evaluate("window.hacked") is None and len(report.locator("img").all()) == 0
    page.locator("#clip").get_by_label("Clear").click()
    page.locator("#report .at-empty").wait_for()
    good = write(tmp_path / "<b onmouseover=window.hacked=1>'\".wav", LOW_THEN_HIGH)
    upload(page, good)
    assert page.evaluate("window.hacked") is None and len(page.locator("#report p b, #report a b").all()) == 0


def test_a_file_that_is_too_large_is_refused_in_words(browser, server, tmp_path):
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.locator("#clip").wait_for()
    with open(tmp_path / "large.wav", "wb") as file: file.truncate(51 * 2**20)
    assert "up to 50 MB and 10 minutes" in page.locator(".at-note").filter(visible=True).first.inner_text()
    page.locator("#clip input[type=file]").set_input_files(tmp_path / "large.wav")
    page.get_by_text(re.compile("maximum allowed size", re.IGNORECASE)).first.wait_for(timeout=60_000)
    context.close()


CONTRAST = """() => {
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = s => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = s;
    pen.fillRect(0, 0, 1, 1);
    const d = pen.getImageData(0, 0, 1, 1).data;
    return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => {
    const [r, g, b] = c.slice(0, 3).map(linear);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const back = e => {
    const all = [];
    for (let n = e; n; n = n.parentElement) all.push(parse(getComputedStyle(n).backgroundColor));
    return all.reverse().reduce((b, t) => over(t, b), [255, 255, 255, 1]);
  };
  const bad = [];
  let seen = 0;
  const check = (e, words, color) => {
    const b = back(e), [x, y] = [light(over(parse(color), b)), light(b)];
    const ratio = (Math.max(x, y) + .05) / (Math.min(x, y) + .05);
    seen++;
    if (ratio < 4.5) bad.push([words.trim().slice(0, 40), +ratio.toFixed(2)]);
  };
  const visible = e => e.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const words = texts.currentNode.data, e = texts.currentNode.parentElement, box = e.getBoundingClientRect();
    if (!words.trim() || e.closest('script, style, noscript') || !visible(e)) continue;
    if (box.width > 1 && box.height > 1) check(e, words, getComputedStyle(e).color);
  }
  for (const e of document.querySelectorAll('input[placeholder]'))
    if (e.checkVisibility()) check(e, e.placeholder, getComputedStyle(e, '::placeholder').color);
  return [seen, bad];
}"""


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, PHONE], ids=["desk", "dark", "phone"])
def test_every_text_is_legible_and_fits(open_page, look, clip):
    page = open_page(**look)
    upload(page, clip)
    page.locator("#words summary").click()
    for tab in ("Sound", "Live", "Files", "API", "About"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        seen, bad = page.evaluate(CONTRAST)
        assert seen > 10 and bad == [], tab
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, tab
    if look.get("color_scheme") == "dark":
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


def test_it_says_what_it_is(open_page, server):
    page = open_page()
    page.get_by_role("tab", name="About").click()
    about = page.locator(".block.at-text").filter(visible=True).inner_text()
    for words in ("What it can't do", "Tones: CC0", "Nothing is kept", "Apache License 2.0", "other"):
        assert words in about
    assert "damaged" not in about  # a bundle that can't be read is left out, and told on stderr
    assert "left out" in server.output()
    page.get_by_role("tab", name="API").click()
    assert f'Client("{server.url}")' in page.locator(".block.at-text").filter(visible=True).inner_text()


# ---------------------------------------------------------------- a program


def test_tag_by_name(client, clip):
    from gradio_client import handle_file
    said = client.predict(file=handle_file(str(clip)), model="other", top=2, api_name="/tag")
    assert (said["file"], said["model"], said["seconds"], said["known"]) == ("two tones.wav", "other", 3.0, True)
    assert len(said["tags"]) == 2 and set(said["tags"][0]) == {"label", "probability"}
    assert [s["label"] for s in said["segments"]] == ["bass", "soprano"]
    default = client.predict(file=handle_file(str(clip)), api_name="/tag")
    assert default["model"] == "urbansound8k" and len(default["tags"]) == 3


def test_tag_batch_keeps_order_and_tells_errors(client, clip, tmp_path):
    from gradio_client import handle_file
    (tmp_path / "empty.mp3").write_bytes(b"")
    silent = write(tmp_path / "silent.flac", np.zeros(RATE))
    files = [handle_file(str(p)) for p in (clip, tmp_path / "empty.mp3", silent)]
    said = client.predict(files=files, model="urbansound8k", top=1, api_name="/tag_batch")
    assert [row["file"] for row in said] == ["two tones.wav", "empty.mp3", "silent.flac"]
    assert "is empty (0 bytes)" in said[1]["error"] and said[2]["known"] is False


def asked(path, top=3):
    return {"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}, "urbansound8k", top]}


def upload_file(server, path):
    "Upload a file; returns the path of the stored copy"
    with open(path, "rb") as file:
        answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": file}, timeout=60)
    return answer.raise_for_status().json()[0]


def call(server, path, **kw):
    "Call /tag on a stored file in a new session, as the page documents for curl; returns the events"
    answer = httpx.post(f"{server.url}gradio_api/call/tag", json=asked(path, **kw), timeout=60)
    event = answer.raise_for_status().json()["event_id"]
    return httpx.get(f"{server.url}gradio_api/call/tag/{event}", timeout=60).text


def test_what_the_page_documents_for_curl_works(server, clip):
    answer = call(server, upload_file(server, clip))
    assert "event: complete" in answer and '"known": true' in answer


def refused(client, path, **kw):
    "The sentence that a file is refused with"
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError
    with pytest.raises(AppError) as error: client.predict(file=handle_file(str(path)), api_name="/tag", **kw)
    return str(error.value)


# ---------------------------------------------------------------- an attacker


def compressed(path, codec, rate, seconds=2):
    "What a phone or a browser records"
    import av
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        samples = tone(HIGH, seconds, rate)
        for i in range(0, len(samples) - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, i:i + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def long_silence(path, hours, rate=8000, **kw):
    with sf.SoundFile(path, "w", rate, 1, **kw) as file:
        for _ in range(round(60 * hours)): file.write(np.zeros(60 * rate, "int16"))
    return path


HOSTILE = {
    "notes.wav": "is not a sound file",
    "clips.zip": "is not a sound file",
    "picture.svg": "is not a sound file",
    "page.html": "is not a sound file",
    "learner.pkl": "is not a sound file",
    "empty.ogg": "is empty",
    "cut.flac": "",
    "nan.wav": "NaN",
    "two_hours.flac": "longer than 10 minutes",
    "bomb.ogg": "longer than 10 minutes",
    "head.mp3": "damaged",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "notes.wav").write_text("milk, bread")
    with zipfile.ZipFile(folder / "clips.zip", "w", zipfile.ZIP_DEFLATED) as z: z.writestr("zeros", bytes(10**7))
    (folder / "picture.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    (folder / "page.html").write_text("<script>alert(1)</script>")
    (folder / "learner.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (folder / "empty.ogg").write_bytes(b"")
    whole = write(folder / "whole.flac", tone(LOW)).read_bytes()
    (folder / "cut.flac").write_bytes(whole[:60])
    write(folder / "nan.wav", np.array([0.1, np.nan, 0.2] * 1000, "float32"), subtype="FLOAT")
    long_silence(folder / "two_hours.flac", 2)
    long_silence(folder / "bomb.ogg", 0.5, format="OGG", subtype="VORBIS")
    (folder / "head.mp3").write_bytes(b"ID3\x04\0\0\0\0\0\0" + bytes(300))
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_words(client, hostile, server, name):
    said = refused(client, hostile / name)
    assert said.startswith(name) and HOSTILE[name] in said and "\n" not in said
    assert str(server.temp) not in said and "/" not in said.replace("audiotag tag", "")


def test_a_bomb_is_small_and_memory_stays_bounded(client, hostile, server):
    assert (hostile / "two_hours.flac").stat().st_size < 10**6
    before = server.peak_mb()
    refused(client, hostile / "two_hours.flac")
    assert server.peak_mb() - before < 300


def test_odd_but_honest_files_are_tagged(client, tmp_path):
    from gradio_client import handle_file
    many = np.repeat(tone(HIGH, 1.0, 192000)[:, None], 8, 1)
    whole = write(tmp_path / "half.flac", tone(HIGH, 3.0)).read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[:len(whole) * 2 // 3])
    files = [
        compressed(tmp_path / "phone.m4a", "aac", 44100),
        compressed(tmp_path / "browser.webm", "libopus", 48000),
        write(tmp_path / "many.wav", many, 192000),
        tmp_path / "half.flac",
        write(tmp_path / "SHOUT.WAV", tone(HIGH)),
        write(tmp_path / "short.wav", tone(HIGH, 0.05)),
    ]
    handles = [handle_file(str(file)) for file in files]
    said = client.predict(files=handles, model="urbansound8k", top=1, api_name="/tag_batch")
    found = [(row["file"], row.get("error"), row["tags"][0]["label"]) for row in said]
    assert found == [(file.name, None, "high_sound") for file in files]


def test_no_address_is_fetched(server):
    hits = []

    def serve(listener):
        while True:
            try: hits.append(listener.accept()[1])
            except OSError: return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/clip.wav"
        assert httpx.get(f"{server.url}gradio_api/file={address}").status_code == 403
        refusal = httpx.get(f"{server.url}gradio_api/file=https://example.com/").text
        assert refusal.startswith("This page fetches nothing from addresses")
        answer = call(server, address)
        assert "event: error" in answer and "fetches nothing" in answer
        assert hits == []


@pytest.mark.parametrize("path", [
    "/etc/passwd",
    "{models}/urbansound8k/learner.pkl",
    "{models}/urbansound8k/config.json",
    "{root}/app.py",
    "{log}",
    "../../../../etc/passwd",
    "{temp}",
    "{temp}/../page.log",
])
def test_nothing_else_is_served_or_read(server, path):
    path = path.format(models=server.models, root=ROOT, temp=server.temp, log=server.log)
    assert httpx.get(f"{server.url}gradio_api/file={path}").status_code in (403, 404)
    answer = call(server, path)
    assert "event: error" in answer and "root:" not in answer and str(server.models) not in answer


def test_an_upload_stays_in_its_folder_and_is_no_page(server):
    names = ["../../../escaped.wav", "..\\..\\escaped.svg", "/tmp/escaped.html", "a\0b.wav"]
    uploads = [{"files": (name, b"<svg onload=alert(1)>" + name.encode())} for name in names]
    for answer in [httpx.post(f"{server.url}gradio_api/upload", files=files) for files in uploads]:
        if answer.status_code != 200: continue
        path = Path(answer.json()[0])
        assert path.resolve().is_relative_to(server.temp.resolve())
        served = httpx.get(f"{server.url}gradio_api/file={quote(str(path))}")
        assert served.status_code == 200, (path, served.text)
        shown = served.headers["content-disposition"].startswith("inline")
        kind = served.headers["content-type"]
        assert kind.startswith("audio/") if shown else kind == "application/octet-stream"
    assert not list(server.temp.parent.glob("escaped*")) and not Path("/tmp/escaped.html").exists()


def test_there_is_no_way_around_the_queue(server, clip):
    path = upload_file(server, clip)
    for route in ("run", "api"):
        assert httpx.post(f"{server.url}gradio_api/{route}/tag", json=asked(path)).status_code == 404
    assert httpx.post(f"{server.url}gradio_api/process_recording", files={"video": b"x"}).status_code == 403


def as_base64(samples): return base64.b64encode((32767 * samples).astype("int16").tobytes()).decode()


def live_sender(server):
    "A function that posts one second of audio as the Live tab does, with some fields replaced"
    components = httpx.get(f"{server.url}config").json()["components"]
    live = next(c["id"] for c in components if c["props"].get("elem_id") == "live")
    body = {"component_id": live, "fn_name": "live", "session_hash": "x"}
    data = {"model": "urbansound8k", "rate": RATE, "new": RATE, "sound": as_base64(tone(HIGH))}
    url = f"{server.url}gradio_api/component_server/"
    return lambda **kw: httpx.post(url, json=body | {"data": data | kw}, timeout=30)


def test_too_much_is_cut_off(server):
    before = len(server.uploads())
    answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("large.wav", bytes(51 * 2**20))}, timeout=60)
    assert answer.status_code in (400, 413) and str(server.temp) not in answer.text
    assert len(server.uploads()) == before
    json_type = {"content-type": "application/json"}
    answer = httpx.post(f"{server.url}gradio_api/queue/join", content=b"[" + b"1," * 2**21, headers=json_type)
    assert answer.status_code == 413
    post = live_sender(server)
    assert "high sound" in post().json()["tags"]
    for wrong in ({"rate": "x"}, {"sound": "%"}, {"model": "../other"}, {"new": None}):
        assert post(**wrong).status_code == 400, wrong
    assert "longer than 10 s" in post(rate=1500).json()["error"]
    assert "Hz" in post(rate=1, sound=as_base64(tone(HIGH))[:800]).json()["error"]


def test_fifty_at_once(server, tmp_path):
    files = [write(tmp_path / f"{i}.wav", tone(HIGH if i % 2 else LOW, 1 + i / 50)) for i in range(48)]
    (tmp_path / "48.wav").write_text("x")
    files += [tmp_path / "48.wav", long_silence(tmp_path / "49.flac", 1)]
    with ThreadPoolExecutor(50) as pool:
        said = list(pool.map(lambda path: call(server, upload_file(server, path), top=1), files))
    assert [re.search(r'"label": "(\w+)"', answer)[1] for answer in said[:48]] == ["low_sound", "high_sound"] * 24
    assert "is not a sound file" in said[48] and "longer than 10 minutes" in said[49]
    assert server.process.poll() is None and server.peak_mb() < 2048


UNFINISHED_UPLOAD = (
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="files"; filename="s.wav"\r\n\r\nRIFF'
)


def test_a_slow_client_blocks_nobody(server, client, clip):
    from gradio_client import handle_file
    address = urlparse(server.url)
    slow = [socket.create_connection((address.hostname, address.port)) for _ in range(20)]
    for s in slow: s.sendall(UNFINISHED_UPLOAD)
    assert client.predict(file=handle_file(str(clip)), api_name="/tag")["known"]
    for s in slow: s.close()


def test_uploads_of_a_killed_server_are_removed(tmp_path):
    code = "from audiotag.webapp import make_upload_folder as make; import time; print(make()); time.sleep(99)"
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    folders, processes = [], []
    for _ in range(2):
        processes.append(subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True))
        folders.append(Path(processes[-1].stdout.readline().strip()))
        (folders[-1] / "a.wav").write_bytes(b"x")
    assert set(tmp_path.iterdir()) == set(folders)  # the first one is still used
    processes[0].kill()
    processes[0].wait()
    processes.append(subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True))
    folders[0] = Path(processes[-1].stdout.readline().strip())
    assert set(tmp_path.iterdir()) == set(folders)
    for process in processes:
        process.kill()
        process.communicate()


def test_all_uploads_together_have_a_limit(server):
    folder, = (p for p in server.temp.iterdir() if p.name.startswith("audiotag-"))
    with open(folder / "large.wav", "wb") as file: file.truncate(2 * 10**9)
    answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("a.wav", b"x")})
    assert (answer.status_code, answer.text) == (507, "All uploads together may have 2 GB; try again in 15 minutes")
    (folder / "large.wav").unlink()
    assert httpx.post(f"{server.url}gradio_api/upload", files={"files": ("a.wav", b"x")}).status_code == 200


def test_temporary_files_are_swept(server):
    from audiotag.webapp import delete_expired
    folder, = (p for p in server.temp.iterdir() if p.name.startswith("audiotag-"))
    shipped = {p.name for p in (ROOT / "audiotag/examples").iterdir()}
    examples = {p for p in folder.rglob("*.ogg") if p.stat().st_size > 1000 and p.name in shipped}
    assert len(server.uploads()) > len(examples) > 3
    for path in server.uploads(): os.utime(path, (0, 0))
    delete_expired(folder, examples)
    # empty folders are deleted only when they are old: a new one may be waiting for its file
    for path in folder.rglob("*/"): os.utime(path, (0, 0))
    delete_expired(folder, examples)
    assert set(folder.rglob("*")) == examples | {p.parent for p in examples}
    assert set(server.uploads()) == examples  # nothing was left beside the folder


def test_no_pickle_was_read_and_stopping_leaves_nothing(server):
    assert not (server.models / "unpickled").exists()
    assert server.peak_mb() < 2048
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    # onnxruntime's telemetry would leave a file, too
    assert server.uploads() == [] and not list(server.temp.glob("audiotag-*"))


# ---------------------------------------------------------------- elsewhere


def test_serving_needs_nothing_of_training():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {re.split(r"[=<>]", line)[0] for line in lines if line and not line.startswith("#")}
    heavy = {"torch", "torchaudio", "fastai", "librosa", "timm", "pandas", "matplotlib"}
    assert "gradio" in names and not names & heavy
    code = (
        "import sys, audiotag.webapp; "
        "heavy = {'torch', 'fastai', 'librosa', 'matplotlib.pyplot', 'timm', 'sklearn'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_container_does_not_run_as_root():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    command = next(i for i, line in enumerate(lines) if line.startswith("CMD"))
    assert "USER user" in lines[:command]


def install(folder):
    "A virtual environment with what requirements.txt lists; returns its Python"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python, start = folder / "venv/bin/python", time.time()
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, "-r", folder / "requirements.txt"], check=True, timeout=900)
    size = sum(p.stat().st_size for p in (folder / "venv").rglob("*") if p.is_file())
    print(f"installed in {time.time() - start:.0f} s, {size / 2**20:.0f} MB")
    return python


@pytest.mark.slow
def test_requirements_alone_serve_the_page(models, tmp_path):
    "As a Space does: a clean environment, requirements.txt, the repository's files, `python app.py`"
    for name in ("app.py", "requirements.txt"): shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "audiotag", tmp_path / "audiotag", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(models / "urbansound8k", tmp_path / "models/urbansound8k")
    python, port = install(tmp_path), free_port()
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    options = {"cwd": tmp_path, "env": env | {"GRADIO_SERVER_PORT": str(port)}, "text": True}
    start, url = time.time(), f"http://127.0.0.1:{port}"
    command = [python, "app.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    try:
        line = process.stdout.readline()
        assert url in line, line + process.stdout.read()
        assert "audiotag" in httpx.get(f"{url}/").text
        print(f"first page after {time.time() - start:.1f} s")
        from gradio_client import Client, handle_file
        clip = write(tmp_path / "high.wav", tone(HIGH))
        tags = Client(f"{url}/", verbose=False).predict(file=handle_file(str(clip)), api_name="/tag")["tags"]
        assert tags[0]["label"] == "high_sound"
        for name in ("torch", "fastai", "matplotlib", "librosa"):
            assert not list((tmp_path / "venv").glob(f"lib/*/site-packages/{name}")), name
    finally:
        process.terminate()
        process.wait(30)
