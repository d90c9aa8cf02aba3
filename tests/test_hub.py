"""Publishing and fetching, against a stand-in for the hub on this machine"""
import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import soundfile as sf
from tiny import save_tiny, tone

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    "As much of the hub as publishing and fetching one model needs; `files` by repository"
    protocol_version, files, asked = "HTTP/1.1", {}, []

    def log_message(self, *args): pass

    def answer(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def handle_get(self):
        self.asked.append(f"{self.command} {self.path}")
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo not in self.files:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        files = self.files[repo]
        if parts[0] == "api":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            if "tree" in parts: return self.answer(entries)
            card = {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": []}
            card |= {"downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files]}
            return self.answer(card)
        name = "/".join(parts[4:])
        if name not in files: return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        self.answer(
            files[name],
            ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"',
            X_Repo_Commit=COMMIT,
            Content_Type="application/octet-stream",
        )

    do_GET = do_HEAD = handle_get

    def do_POST(self):
        self.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self.answer({"error": "Invalid credentials"}, 401)
        path = urlsplit(self.path).path
        repo = "/".join(path.split("/")[3:5])
        if path == "/api/repos/create":
            repo = f"{json.loads(body).get('organization')}/{json.loads(body)['name']}"
            self.files.setdefault(repo, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{repo}", "id": repo, "name": repo})
        if path == "/api/validate-yaml": return self.answer({"errors": [], "warnings": []})
        if "preupload" in path:
            plan = {"uploadMode": "regular", "shouldIgnore": False}
            files = [file | plan for file in json.loads(body)["files"]]
            return self.answer({"files": files, "commitOid": COMMIT})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"http://{self.headers['Host']}/{repo}/commit/{COMMIT}"
        self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})


@pytest.fixture()
def hub(tmp_path, monkeypatch):
    "The stand-in, and huggingface_hub pointed at it"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.files, Hub.asked = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": address,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield address
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("hub") / "tiny")
    (folder / "learner.pkl").write_bytes(b"a pickle is a program")
    return Path(folder)


def test_what_goes_up_comes_down_and_tags_without_the_pickle(hub, bundle, tmp_path):
    from audiotag.export import publish_bundle
    from audiotag.tagger import Tagger
    assert publish_bundle(bundle, "ann/tiny") == f"{hub}/ann/tiny"
    assert sorted(Hub.files["ann/tiny"]) == ["README.md", "config.json", "model.onnx", "model.safetensors"]
    Hub.files["ann/tiny"]["learner.pkl"] = b"somebody put one there"
    sf.write(tmp_path / "a.wav", tone(1500), 32000)
    tagger = Tagger.load("ann/tiny")
    assert tagger.tag(tmp_path / "a.wav") == Tagger.load(bundle).tag(tmp_path / "a.wav")
    assert sorted(os.listdir(tagger.bundle.folder)) == ["README.md", "config.json", "model.onnx"]
    assert not any("pkl" in asked or "safetensors" in asked for asked in Hub.asked)


def test_the_second_load_takes_the_cache(hub, bundle):
    from audiotag.bundle import fetch_bundle
    from audiotag.export import publish_bundle
    publish_bundle(bundle, "ann/tiny")
    first = fetch_bundle("ann/tiny")
    Hub.asked.clear()
    assert fetch_bundle("ann/tiny") == first
    assert not any(asked.startswith("GET") and "resolve" in asked for asked in Hub.asked)


def test_errors_are_one_line_each(hub, bundle, monkeypatch):
    from audiotag.bundle import BundleError
    from audiotag.export import publish_bundle
    from audiotag.tagger import Tagger
    told = []
    with pytest.raises(BundleError, match="neither a folder here nor a model on the hub") as e:
        Tagger.load("ann/nothing")
    told.append(str(e.value))
    Hub.files["ann/other"] = {"README.md": b"no tagger"}
    with pytest.raises(BundleError, match="config.json is missing") as e: Tagger.load("ann/other")
    told.append(str(e.value))
    with pytest.raises(BundleError, match="no repository's name") as e: publish_bundle(bundle, "ann/a b")
    told.append(str(e.value))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(BundleError, match="can't be published") as e: publish_bundle(bundle, "ann/tiny")
    told.append(str(e.value))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BundleError, match="can't be reached") as e: Tagger.load("ann/unheard")
    told.append(str(e.value))
    assert all("\n" not in line and len(line) < 300 for line in told)
