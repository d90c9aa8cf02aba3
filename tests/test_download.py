"""Downloads over an unreliable connection: a local server simulates each error, and each test checks the message"""

import hashlib
import io
import json
import os
import pty
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tarfile
import termios
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest

from audiotag import download as module
from audiotag.download import download
from audiotag.download import DownloadError

NAME = "UrbanSound8K.tar.gz"


def urban(clips: int = 30, size: int = 20_000, seed: int = 0, extra: tuple = ()) -> bytes:
    "A small archive in the shape of UrbanSound8K's"
    rng, out = random.Random(seed), io.BytesIO()
    rows = [(f"{1000+i}-3-0-0.wav", i % 10 + 1) for i in range(clips)]
    table = [
        "slice_file_name,fsID,start,end,salience,fold,classID,class",
        *(f"{n},{n[:4]},0,4,1,{f},3,dog_bark" for n, f in rows),
    ]
    files = [(f"audio/fold{f}/{n}", rng.randbytes(size)) for n, f in rows]
    files.append(("metadata/UrbanSound8K.csv", "\n".join(table).encode()))
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as packed:
        for name, content in files:
            info = tarfile.TarInfo(f"UrbanSound8K/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in extra: packed.addfile(info)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    "Serves `server.files`; each GET of an archive takes the next fault from `server.faults`, or `server.always`"
    def do_HEAD(self): self.answer(head=True)
    def do_GET(self): self.answer()
    def log_message(self, *args): pass

    def answer(self, head: bool = False) -> None:
        server, name = self.server, self.path[1:].partition("?")[0]
        plain = head or name.endswith((".txt", ".json"))
        fault = {} if plain else (server.faults.pop(0) if server.faults else server.always)
        server.log.append((self.command, name, self.headers.get("Range"), time.monotonic()))
        if call := fault.get("call"): call()
        if status := fault.get("status") or (404 if name not in server.files else 0):
            self.send_response(status)
            for header in fault.get("headers", {"Content-Length": "0"}).items(): self.send_header(*header)
            self.end_headers()
            return
        content, tag = server.files[name], server.tags.get(name, '"1"')
        asked = None if fault.get("no_range") else self.headers.get("Range")
        if asked and not fault.get("ignores_if_range") and self.headers.get("If-Range", tag) != tag: asked = None
        first = int(asked[6:].partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content)-first))
        if asked: self.send_header("Content-Range", f"bytes {first}-{len(content)-1}/{len(content)}")
        self.send_header("ETag", tag)
        self.end_headers()
        if not head: self.send(content[first:][:fault.get("drop")], fault)

    def send(self, content: bytes, fault: dict) -> None:
        if fault.get("corrupt"): content = bytes(b ^ 255 for b in content)
        step = fault.get("step", 1 << 20)
        try:
            for i in range(0, len(content), step):
                self.wfile.write(content[i:i+step])
                self.server.sent += len(content[i:i+step])
                time.sleep(fault.get("pause", 0))
        except OSError: self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (.01, .01, .01))
    monkeypatch.delenv("AUDIOTAG_MIRROR", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.handle_error = True, lambda *args: None
        server.files, server.tags, server.faults, server.always, server.log, server.sent = {}, {}, [], {}, [], 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        publish(server, urban())
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": .02}, daemon=True).start()
        yield server
        server.shutdown()


def publish(server, content: bytes, name: str = NAME, kind: str = "md5", tag: str = '"1"') -> None:
    server.files[name], server.tags[name] = content, tag
    server.files["checksums.txt"] = f"{hashlib.new(kind, content).hexdigest()}  {name}\n".encode()


def get(server, data: Path, **kw) -> Path:
    return download("urbansound8k", data, mirror=server.url, progress=False, **kw)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def whole(folder: Path) -> bool:
    "Everything of `urban()`, and nothing else, in it and beside it"
    with tarfile.open(fileobj=io.BytesIO(urban())) as packed:
        hashes = {m.name: hashlib.md5(packed.extractfile(m).read()).hexdigest() for m in packed}
    expected = {name.removeprefix("UrbanSound8K/"): h for name, h in hashes.items()}
    found = {name: h for name, h in tree(folder).items() if name != module.MARKER}
    siblings = {p.name for p in folder.parent.iterdir()}
    return found == expected and siblings == {"UrbanSound8K", ".urbansound8k.lock"}


def fails(server, data: Path, *words: str, **kw) -> None:
    "The download ends in one line with these words, and nothing lies under the official name"
    with pytest.raises(DownloadError) as error: get(server, data, **kw)
    line = str(error.value)
    assert "\n" not in line
    for word in words: assert word in line
    assert not (data/"UrbanSound8K").exists()


# --- faults of the line and the server

def test_no_fault(server, tmp_path):
    assert whole(get(server, tmp_path))
    assert server.sent == len(server.files[NAME])+len(server.files["checksums.txt"])
    asked = len(server.log)
    assert get(server, tmp_path) == tmp_path/"UrbanSound8K"
    assert len(server.log) == asked, "a second call asks nothing"


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_checksums_of_both_kinds(server, tmp_path, kind):
    publish(server, server.files[NAME], kind=kind)
    assert whole(get(server, tmp_path))


def test_busy_for_a_while(server, tmp_path):
    server.faults = [{"status": 503}, {"status": 503}]
    assert whole(get(server, tmp_path))


def test_busy_for_good(server, tmp_path):
    server.always = {"status": 503}
    words = "answers 503 Service Unavailable, 4 times in a row", "try again later, what has arrived is kept"
    fails(server, tmp_path, NAME, *words)


def test_retry_after_is_obeyed(server, tmp_path):
    server.faults = [{"status": 503, "headers": {"Retry-After": "1", "Content-Length": "0"}}]
    assert whole(get(server, tmp_path))
    first, second = [at for method, name, _, at in server.log if (method, name) == ("GET", NAME)]
    assert second-first >= .99


def test_retry_after_an_hour(server, tmp_path):
    server.always = {"status": 429, "headers": {"Retry-After": "3600", "Content-Length": "0"}}
    fails(server, tmp_path, "answers 429 Too Many Requests and asks to wait 3600 s: try again then")


def test_drops_and_is_resumed(server, tmp_path):
    server.faults = [{"drop": 100_000}]*4
    assert whole(get(server, tmp_path))
    assert server.sent == len(server.files[NAME])+len(server.files["checksums.txt"]), "not a byte came twice"
    ranges = [r for m, n, r, _ in server.log if m == "GET" and n == NAME]
    assert ranges == [None, *(f"bytes={i}00000-" for i in (1, 2, 3, 4))]


def test_drops_over_and_over(server, tmp_path):
    server.always = {"drop": 0}
    fails(server, tmp_path, NAME, "broke off the transfer, 4 times in a row", "what has arrived is kept")


def test_what_has_arrived_is_kept(server, tmp_path):
    server.faults, server.always = [{"drop": 100_000}], {"drop": 0}
    fails(server, tmp_path, "broke off")
    server.always, server.sent = {}, 0
    assert whole(get(server, tmp_path))
    assert server.sent == len(server.files[NAME])-100_000+len(server.files["checksums.txt"])


def test_stalls(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUTS", (1, .2))
    server.always = {"step": 1000, "pause": .6}
    monkeypatch.setattr(module, "WAITS", ())
    fails(server, tmp_path, NAME, "sent nothing for 0.2 s")
    server.always = {}
    assert whole(get(server, tmp_path))


def test_slow_but_steady(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUTS", (1, 2))
    server.always = {"step": 30_000, "pause": .02}
    assert whole(get(server, tmp_path))


def test_wrong_bytes(server, tmp_path):
    server.always = {"corrupt": True}
    fails(
        server,
        tmp_path,
        f"{NAME} arrived whole, but not with the checksum md5:",
        "the server has other bytes, try another --mirror",
    )
    server.always = {}
    assert whole(get(server, tmp_path))


def test_no_ranges(server, tmp_path):
    server.faults = [{"drop": 100_000, "no_range": True}, {"drop": 200_000, "no_range": True}]
    server.always = {"no_range": True}
    assert whole(get(server, tmp_path))


def test_changed_between_two_tries(server, tmp_path):
    old = urban(seed=1)
    publish(server, old)
    server.faults, server.always = [{"drop": 100_000}], {"drop": 0}
    fails(server, tmp_path, "broke off")
    publish(server, urban(), tag='"2"')
    server.always = {}
    assert whole(get(server, tmp_path))
    assert (server.log[-1][2], server.sent > len(urban())) == ("bytes=100000-", True), (
        "asked for the rest, and got all of the new one"
    )


def test_changed_and_the_server_does_not_say(server, tmp_path):
    publish(server, urban(seed=1))
    server.faults, server.always = [{"drop": 100_000}], {"drop": 0}
    fails(server, tmp_path, "broke off")
    publish(server, urban())
    server.always = {"ignores_if_range": True}
    assert len(urban(seed=1)) != len(urban()) or whole(get(server, tmp_path))
    assert whole(get(server, tmp_path))


def test_part_spoilt_on_disk(server, tmp_path):
    server.faults, server.always = [{"drop": 100_000}], {"drop": 0}
    fails(server, tmp_path, "broke off")
    part = tmp_path/".urbansound8k-download"/f"{NAME}.part"
    part.write_bytes(bytes(100_000))
    server.always = {}
    assert whole(get(server, tmp_path)), "the wrong sum of a resumed file costs one more try, not the download"


def test_not_there(server, tmp_path):
    server.files.pop(NAME)
    fails(server, tmp_path, f"{NAME}: 127.0.0.1", "answers 404 Not Found: check the address, or use another --mirror")


def test_no_checksums(server, tmp_path):
    server.files.pop("checksums.txt")
    fails(server, tmp_path, "checksums.txt: 127.0.0.1", "answers 404 Not Found")


def test_checksums_without_the_file(server, tmp_path):
    server.files["checksums.txt"] = b"d41d8cd98f00b204e9800998ecf8427e  other.zip\n"
    fails(server, tmp_path, f"checksums.txt of the mirror lists no {NAME}: add a line for it")


def test_checksums_are_a_web_page(server, tmp_path):
    server.files["checksums.txt"] = b"<!doctype html>\n<title>Log in</title>"
    fails(
        server,
        tmp_path,
        "checksums.txt has the line '<!doctype html>': each must be a checksum, two spaces and a file name",
    )


def test_nobody_there(server, tmp_path):
    message = r"checksums.txt: 127.0.0.1:9 can't be reached, or hangs up, 4 times in a row"
    with pytest.raises(DownloadError, match=message):
        download("urbansound8k", tmp_path, mirror="http://127.0.0.1:9", progress=False)
    assert not (tmp_path/"UrbanSound8K").exists()


# --- faults of the disk

class Endless(Handler):
    "Sends one file for ever, and doesn't tell its size"
    def answer(self, head: bool = False) -> None:
        if self.path[1:] != self.server.endless: return super().answer(head)
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while not head: self.server.sent += self.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize("name, words", [
    ("checksums.txt", ("checksums.txt", "sends more than 10 MB", "--mirror")),
    (NAME, (NAME, "larger than 0.03 GB", "--mirror")),
])
def test_a_file_that_never_ends(server, tmp_path, monkeypatch, name, words):
    server.RequestHandlerClass, server.endless = Endless, name
    monkeypatch.setattr(module, "ARCHIVE_LIMIT", 30_000_000)
    fails(server, tmp_path, *words)
    assert server.sent < 60_000_000 and not any(p.stat().st_size > 1000 for p in tmp_path.rglob("*"))


def test_too_little_space(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    fails(server, tmp_path, "UrbanSound8K needs 0.00 GB in", "0.00 GB are free: free some, or choose another --data")
    assert not any(m == "GET" and n == NAME for m, n, *_ in server.log), "nothing was fetched"


def limited(server, data: Path, most: int) -> subprocess.CompletedProcess:
    "A download in a process that may write no file longer than `most`"
    code = (
        "from audiotag.download import download; "
        f"download('urbansound8k', {str(data)!r}, mirror={server.url!r}, progress=False)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))


def test_no_room_for_the_archive(server, tmp_path):
    done = limited(server, tmp_path, 200_000)
    assert "DownloadError: the disk is full (File too large) while writing to" in done.stderr
    assert f"{NAME}.part" in done.stderr
    assert "free some space and run this again, it goes on from there" in done.stderr
    server.sent = 0
    assert whole(get(server, tmp_path))
    assert server.sent < len(server.files[NAME])-190_000, "it went on from there"


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path/"disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_disk_fills_up_while_fetching(server, small_disk):
    server.faults = [{"call": lambda: (small_disk/"film").write_bytes(bytes(2_800_000))}]
    fails(
        server,
        small_disk,
        "the disk is full (No space left on device) while writing to",
        ".part: free some space and run this again",
    )
    (small_disk/"film").unlink()
    assert whole(get(server, small_disk))


def test_disk_fills_up_while_unpacking(server, small_disk):
    out, zeros = io.BytesIO(urban()), 5_000_000
    with tarfile.open(fileobj=out) as packed: rows = packed.extractfile("UrbanSound8K/metadata/UrbanSound8K.csv").read()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, size, content in (
            ("audio/fold1/a.wav", zeros, io.BytesIO(bytes(zeros))),
            ("metadata/UrbanSound8K.csv", len(rows), io.BytesIO(rows)),
        ):
            info = tarfile.TarInfo(f"UrbanSound8K/{name}")
            info.size = size
            tar.addfile(info, content)
    publish(server, packed.getvalue())
    fails(server, small_disk, "the disk is full (No space left on device) while writing to", "a.wav")
    assert not list(small_disk.rglob("a.wav")), "the half-unpacked tree is gone"
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    server.sent = 0
    assert (get(server, small_disk)/"audio/fold1/a.wav").stat().st_size == zeros
    assert server.sent == len(server.files["checksums.txt"]), "the archive was still there"


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path/"data").write_text("a file")
    message = "data can't be written .*: check its permissions, or choose another --data"
    with pytest.raises(DownloadError, match=message): get(server, tmp_path/"data")


# --- archives that do harm

def odd(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("UrbanSound8K/audio/odd")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("content, words", [
    (
        urban(extra=(tarfile.TarInfo("../../out.wav"),)),
        "holds '../../out.wav', which leads out of its folder: don't use this archive",
    ),
    (urban(extra=(tarfile.TarInfo("/tmp/out.wav"),)), "holds '/tmp/out.wav', which leads out"),
    (
        urban(extra=(odd(tarfile.SYMTYPE),)),
        "holds a link or a device, where a dataset has files: don't use this archive",
    ),
    (urban(extra=(odd(tarfile.LNKTYPE),)), "holds a link or a device"),
    (urban(extra=(odd(tarfile.FIFOTYPE),)), "holds a link or a device"),
    (urban(extra=(tarfile.TarInfo("UrbanSound8K/metadata/UrbanSound8K.csv"),)), "can't be written (File exists)"),
    (urban()[:300_000], "is damaged"),
    (b"<html>not an archive</html>", "is damaged"),
], ids=["up", "absolute", "symlink", "hardlink", "fifo", "twice", "cut", "page"])
def test_harmful_archive(server, tmp_path, content, words):
    publish(server, content)
    fails(server, tmp_path/"data", words)
    assert not list(tmp_path.rglob("out.wav")) and not list(tmp_path.rglob("odd"))


def test_bomb(server, tmp_path, monkeypatch):
    monkeypatch.setattr("audiotag.download.SLACK", 1_000_000)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        info = tarfile.TarInfo("UrbanSound8K/audio/a.wav")
        info.size = 10_000_000
        packed.addfile(info, io.BytesIO(bytes(info.size)))
    publish(server, out.getvalue())
    fails(server, tmp_path, "unpacks to over 20 times its size, as no archive of sounds does: don't use it")


def test_another_data_set(server, tmp_path):
    with zipfile.ZipFile(out := io.BytesIO(), "w") as packed: packed.writestr("holiday/1.jpg", b"")
    publish(server, out.getvalue())
    fails(server, tmp_path, f"{NAME} holds no audio and metadata: it is not UrbanSound8K")


# --- killed, twice at once, by hand

KILLER = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from audiotag import download
from audiotag.download import download
import pooch, requests, audiotag.datasets
download.WAITS = (.05, .05, .05)
url, base, kind = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

def start(data, nth=None):
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        if nth is not None: die_at(nth)
        download("urbansound8k", data, mirror=url, progress=False)
        code = 0
    finally: os._exit(code)

events = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"}
events |= {"shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp"}
def die_at(nth):
    "SIGKILL this process at its nth event on the data folder (0: count them)"
    count = 0
    def hook(event, args):
        nonlocal count
        if event not in events or str(base) not in str(args[0]): return
        count += 1
        if count == nth: os.kill(os.getpid(), signal.SIGKILL)
        if nth == 0: os.write(pipe[1], b".")
    sys.addaudithook(hook)

def finish(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def tree(data):
    files = [p for p in sorted(data.rglob("*")) if p.is_file()]
    return {str(p.relative_to(data)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}

began = time.monotonic()
assert finish(start(base/"clean")) == 0
duration, right, rng = time.monotonic()-began, tree(base/"clean"), random.Random()
out = {"right": right, "ends": [], "stages": []}
if kind == "random": moments = [rng.uniform(0, duration) for _ in range(10)]
else:
    pipe = os.pipe()
    assert finish(start(base/"counted", 0)) == 0
    steps = len(os.read(pipe[0], 1 << 16))
    moments = sorted({1, *rng.sample(range(2, steps-3), 8), *range(steps-3, steps+1)})
    out["moments"] = moments
for i, moment in enumerate(moments):
    data = base/f"{kind}{i}"
    pid = start(data, moment if kind == "events" else None)
    if kind == "random":
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    killed = finish(pid) == -signal.SIGKILL
    there = (data/"UrbanSound8K").exists()
    out["stages"].append([killed, there, there and tree(data/"UrbanSound8K") == tree(base/"clean"/"UrbanSound8K")])
    out["ends"].append(finish(start(data)) == 0 and tree(data) == right)
print(json.dumps(out))
"""


def killed(server, folder: Path, *args) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, server.url, str(folder), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ten_kills_at_random_moments(server, tmp_path):
    server.always = {"step": 30_000, "pause": .01}
    out = killed(server, tmp_path, "random")
    assert out["ends"] == [True]*10, "run again, it always ends with the same tree"
    assert all(same for _, there, same in out["stages"] if there), "what lay under the official name was whole"
    assert sum(was for was, *_ in out["stages"]) >= 5, "most kills hit a running download"


def test_killed_at_every_kind_of_step(server, tmp_path):
    "Not by the clock but by what happens on disk: from the first file opened to the last one removed"
    out = killed(server, tmp_path, "events")
    assert out["ends"] == [True]*len(out["moments"])
    assert all(same for _, there, same in out["stages"] if there)
    assert all(was for was, *_ in out["stages"])
    exists = [there for _, there, _ in out["stages"]]
    assert exists == sorted(exists), "absent up to one moment, there from then on"
    assert not out["stages"][0][1] and out["stages"][-1][1]


def test_two_at_once(server, tmp_path):
    server.always = {"step": 30_000, "pause": .02}
    code = (
        "from audiotag.download import download; "
        f"print(download('urbansound8k', {str(tmp_path)!r}, mirror={server.url!r}))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    said = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert whole(tmp_path/"UrbanSound8K")
    once = len(server.files[NAME]) + len(server.files["checksums.txt"])
    assert server.sent == once, "one of them fetched, the other one waited"


def test_archives_kept_and_used_again(server, tmp_path):
    folder = get(server, tmp_path, keep_archives=True)
    assert (tmp_path/"archives"/NAME).read_bytes() == server.files[NAME]
    shutil.rmtree(folder)
    server.sent = 0
    assert len(tree(get(server, tmp_path))) == 32
    assert server.sent == len(server.files["checksums.txt"]) and (tmp_path/"archives"/NAME).exists()


def test_archive_put_there_by_hand(server, tmp_path):
    (tmp_path/NAME).write_bytes(server.files[NAME])
    get(server, tmp_path)
    assert server.sent == len(server.files["checksums.txt"]) and (tmp_path/NAME).read_bytes() == server.files[NAME]
    other = tmp_path/"other"
    other.mkdir()
    (other/NAME).write_bytes(b"half of it")
    get(server, other)
    assert (other/NAME).read_bytes() == b"half of it", "a wrong one is neither used nor touched"


def test_half_a_data_set_by_hand(server, tmp_path):
    folder = get(server, tmp_path)
    (folder/module.MARKER).unlink()
    assert get(server, tmp_path) == folder, "whole, though not from here"
    clip = next(folder.rglob("*.wav"))
    clip.unlink()
    message = "UrbanSound8K lacks 1 of its 30 files: put them there, or move the folder away"
    with pytest.raises(DownloadError, match=message): get(server, tmp_path)
    assert len(list(folder.rglob("*.wav"))) == 29, "nothing of it was touched"
    shutil.rmtree(folder/"metadata")
    message = "is there, but can't be read as UrbanSound8K .*: move it away and run this again"
    with pytest.raises(DownloadError, match=message): get(server, tmp_path)


def test_kaggles_files_by_hand(tmp_path):
    folder = tmp_path/"FSDKaggle2018"
    folder.mkdir()
    train = "fname,label,manually_verified", "a.wav,Bark,1"
    test = "b.wav,Bark,Public,7,Attribution", "c.wav,None,Ignored,8,Attribution"
    for part, table, clip, rows in (
        ("train", "train.csv", "a.wav", train),
        ("test", "test_post_competition.csv", "b.wav", ("fname,label,usage,freesound_id,license", *test)),
    ):
        (folder/table).write_text("\n".join([*rows, ""]))
        with zipfile.ZipFile(folder/f"audio_{part}.zip", "w") as packed:
            packed.writestr(f"audio_{part}/{clip}", b"sound")
    assert download("fsdkaggle2018", tmp_path, mirror="http://127.0.0.1:9", progress=False) == folder
    assert tree(folder).keys() >= {"audio_train/a.wav", "audio_test/b.wav", "audio_train.zip"}
    assert [p.name for p in tmp_path.iterdir() if "lock" not in p.name] == ["FSDKaggle2018"]


# --- straight from the makers (a record and a git tree, played by the same server)

def test_record_of_zenodo(server, monkeypatch):
    "pooch reads the record; what it says must be what is frozen"
    sums = {a.name: a.checksum.removeprefix("md5:") for a in module.REGISTRY["urbansound8k"].archives}

    def record(**changed):
        files = [{"key": n, "checksum": f"md5:{s}", "links": {}} for n, s in (sums | changed).items()]
        server.files["records.json"] = json.dumps({"files": files}).encode()

    monkeypatch.setattr(pooch.downloaders, "doi_to_url", lambda doi, **kw: "https://zenodo.org/records/records.json")
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", server.url)
    record()
    assert module._record("10.5281/zenodo.1203745") == {NAME: f"md5:{sums[NAME]}"}
    assert module._sums("urbansound8k", None, print) == {NAME: f"md5:{sums[NAME]}"}
    record(**{NAME: "0"*32})
    message = f"{NAME}: its record says md5:0000.* and audiotag md5:9aa6.*: update audiotag"
    with pytest.raises(DownloadError, match=message): module._sums("urbansound8k", None, print)
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", "http://127.0.0.1:9")
    assert module._sums("urbansound8k", None, print) == {NAME: f"md5:{sums[NAME]}"}, "out of reach is no reason to stop"


def test_inside_of_esc50(server, tmp_path, monkeypatch):
    files = {
        "audio/1-1-A-0.wav": b"woof",
        "meta/esc50.csv": b"filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,0,dog,True,1,A\n",
        "README.md": b"# ESC-50",
    }
    blob = lambda content: hashlib.sha1(b"blob %d\0" % len(content)+content).hexdigest()
    def publish_zip(**changed):
        with zipfile.ZipFile(out := io.BytesIO(), "w") as packed:
            for name, content in (files | changed).items(): packed.writestr(f"ESC-50-33c8ce9/{name}", content)
        server.files["33c8ce9.zip"] = out.getvalue()

    listing = [{"path": n, "type": "blob", "sha": blob(c)} for n, c in files.items()]
    listing.append({"path": "audio", "type": "tree", "sha": ""})
    server.files["tree.json"] = json.dumps({"tree": listing}).encode()
    real = module.REGISTRY["esc50"]
    archive = real.archives[0]._replace(url=f"{server.url}/33c8ce9.zip")
    local = real._replace(listing=f"{server.url}/tree.json", archives=(archive,))
    monkeypatch.setitem(module.REGISTRY, "esc50", local)
    publish_zip(**{"audio/1-1-A-0.wav": b"meow"})
    message = r"differs from its commit in 1 files \(audio/1-1-A-0.wav, ...\): fetch it again"
    with pytest.raises(DownloadError, match=message): download("esc50", tmp_path, progress=False)
    assert not (tmp_path/"ESC-50").exists()
    publish_zip()
    found = tree(download("esc50", tmp_path, progress=False)).keys()
    assert found == {*files, module.MARKER}, "the bad archive was not used again"


# --- what a person sees

def in_terminal(code: str) -> str:
    "What a program writes to stderr when that is a terminal"
    inner, outer = pty.openpty()
    termios.tcsetwinsize(outer, (24, 120))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=outer, stdout=subprocess.DEVNULL)
    os.close(outer)
    said = b""
    while select.select([inner], [], [], 30)[0]:
        try: block = os.read(inner, 4096)
        except OSError: break
        if not block: break
        said += block
    os.close(inner)
    assert process.wait(timeout=30) == 0
    return said.decode()


def test_terminal_shows_terms_rate_and_time_left(server, tmp_path):
    server.always = {"step": 50_000, "pause": .05}
    said = in_terminal(
        f"from audiotag.download import download; download('urbansound8k', {str(tmp_path)!r}, mirror={server.url!r})"
    )
    words = "UrbanSound8K: 0.00 GB from 127.0.0.1", "licence: CC BY-NC", "cite: J. Salamon"
    title, licence, cite = map(said.index, words)
    bar = said.index("B/s")
    assert title < licence < cite < bar
    assert f"{NAME}:" in said and "%|" in said and re.search(r"<00:0\d, +[\d.]+[kM]?B/s", said)
    assert "unpacking" in said


def test_no_bars_in_a_pipe(server, tmp_path):
    code = f"from audiotag.download import download; download('urbansound8k', {str(tmp_path)!r}, mirror={server.url!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "" and "%" not in done.stderr and "licence: CC BY-NC" in done.stderr


def test_mirror_from_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOTAG_MIRROR", server.url+"/")
    assert whole(download("urbansound8k", tmp_path, progress=False))


def command(server, data: Path, *args) -> subprocess.CompletedProcess:
    code = "from audiotag import download; download.WAITS = (.01, .01); from audiotag.cli import main; main()"
    options = "--data", str(data), "--mirror", server.url
    line = [sys.executable, "-c", code, "data", "urbansound8k", *options, *args]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_command(server, tmp_path):
    server.always = {"status": 503}
    done = command(server, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"audiotag: {NAME}: 127.0.0.1")
    assert "answers 503 Service Unavailable" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path/"UrbanSound8K").exists()
    server.always = {}
    done = command(server, tmp_path, "--keep-archives")
    assert done.returncode == 0, done.stderr
    assert "cite: J. Salamon" in done.stderr and (tmp_path/"archives"/NAME).exists()
    asked = len(server.log)
    assert command(server, tmp_path).returncode == 0 and len(server.log) == asked
