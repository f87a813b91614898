"""Models on the Hugging Face hub, which a local server stands in for."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import torch

from segkernel import checkpoint
from segkernel.errors import CheckpointError
from segplug_backbones.weight_formats.hub import push, repository

hub = pytest.importorskip("huggingface_hub")
COMMITS = {"main": "a" * 40, "v1": "b" * 40, "a" * 40: "a" * 40, "b" * 40: "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub: listing, files, creating a repository, and commits of small files."""

    files: dict[str, dict[str, bytes]] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *arguments: object) -> None: ...

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        type(self).asked.append(path)
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.files.get(name)
        if name == "org/strange":
            self.answer(200, b"[1]", Content_Type="application/json")
        elif files is None:
            self.answer(404, X_Error_Code="RepoNotFound")
        elif parts[0] == "api":
            entries = [{"type": "file", "path": file, "size": len(data), "oid": "0"} for file, data in files.items()]
            info = {"id": name, "sha": "a" * 40, "siblings": [{"rfilename": file} for file in files]}
            listed = entries if "tree" in parts else {**info, "modelId": name, "tags": [], "private": False}
            self.answer(200, json.dumps(listed).encode(), Content_Type="application/json")
        elif parts[4] not in files:
            self.answer(404, X_Error_Code="EntryNotFound")
        else:
            data = files[parts[4]]
            etag = hashlib.sha256(data).hexdigest()
            self.answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=COMMITS[parts[3]], Accept_Ranges="bytes")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlparse(self.path).path.strip("/").split("/")
        if parts[1] == "repos":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            status = 409 if name in self.files else 200
            self.files.setdefault(name, {})
            self.answer(status, json.dumps({"url": f"http://{self.headers['Host']}/{name}"}).encode())
            return
        if parts[1] == "validate-yaml":
            self.answer(200, b'{"errors": [], "warnings": []}')
            return
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            known = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            files = [{"path": each["path"], **known} for each in json.loads(body)["files"]]
            self.answer(200, json.dumps({"files": files}).encode())
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.files[name][line["value"]["path"]]
            done = {"commitUrl": f"https://huggingface.co/{name}/commit/1", "commitOid": "a" * 40, "success": True}
            self.answer(200, json.dumps(done).encode())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("SEGKERNEL_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    Hub.files, Hub.asked = {"org/model": {"model.pth": weights(tmp_path, 1), "README.md": b"text"}}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def weights(folder: Path, value: float) -> bytes:
    torch.save({"w": torch.full((2,), value)}, folder / "x.pth")
    return (folder / "x.pth").read_bytes()


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def load(address: str) -> list[float]:
    values: list[float] = checkpoint.load(address)["state_dict"]["w"].tolist()
    return values


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://org/name", ("org/name", None, None)),
        ("hf://org/name@v1.0", ("org/name", "v1.0", None)),
        ("hf://org/name/a/b.pth", ("org/name", None, "a/b.pth")),
        ("hf://org/name@main/b.pth", ("org/name", "main", "b.pth")),
        ("hf://org/name@refs/pr/1", ("org/name", "refs/pr/1", None)),
    ],
)
def test_the_parts_of_an_address(address: str, parts: tuple[str | None, ...]) -> None:
    assert repository(address) == parts


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://org/", "hf://org/name@", "hf://a/../b", "hf:///a/b"])
def test_an_invalid_address_says_what_to_write(address: str) -> None:
    with pytest.raises(CheckpointError, match="write hf://ORG/NAME"):
        checkpoint.load(address)


def test_a_model_is_downloaded_once_and_found_again_without_network(server: object, monkeypatch) -> None:
    assert load("hf://org/model") == [1, 1]
    downloads = sum(path.endswith("model.pth") for path in Hub.asked)
    assert load("hf://org/model@main/model.pth") == [1, 1]
    assert sum(path.endswith("model.pth") for path in Hub.asked) <= downloads + 1  # the second asks for changes alone
    offline(monkeypatch)
    assert load("hf://org/model") == [1, 1]
    with pytest.raises(CheckpointError, match="cannot be reached, and the model is not in"):
        load("hf://org/other")


def test_a_cached_commit_needs_no_request(server: object) -> None:
    address = f"hf://org/model@{'a' * 40}"
    assert load(address) == [1, 1]
    Hub.asked.clear()
    assert load(address) == [1, 1]
    assert Hub.asked == []


def test_a_file_changed_in_the_cache_is_refused(server: object) -> None:
    path = checkpoint.locate("hf://org/model")
    os.chmod(path.resolve(), 0o644)
    path.resolve().write_bytes(path.read_bytes() + b"!")
    with pytest.raises(CheckpointError, match="is damaged, its checksum is not"):
        load("hf://org/model")


def test_the_best_suffix_is_taken_and_several_files_are_not_guessed(server: object, tmp_path: Path) -> None:
    files = Hub.files["org/model"]
    files["a.bin"] = b""
    assert load("hf://org/model") == [1, 1]
    files["other.pth"] = weights(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"several files of weights, name one: hf://org/model/model\.pth"):
        load("hf://org/model")
    assert load("hf://org/model/other.pth") == [2, 2]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf://org/none", "no such model, or does not show it to you"),
        ("hf://org/model/none.pth", "hf://org/model/none.pth: "),
        ("hf://org/empty", "has no file of weights"),
        ("hf://org/strange", "the hub gave an unexpected answer"),
    ],
)
def test_what_is_not_there_is_one_clear_error(server: object, address: str, said: str) -> None:
    Hub.files["org/empty"] = {"README.md": b""}
    with pytest.raises(CheckpointError, match=said):
        load(address)


def test_a_folder_is_pushed_and_other_weights_are_not_replaced_silently(server: object, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "new-0123abcd.safetensors").write_bytes(b"new")
    (folder / "README.md").write_text("card")
    assert push(folder, "hf://org/new") == "https://huggingface.co/org/new/commit/1"
    assert Hub.files["org/new"] == {"new-0123abcd.safetensors": b"new", "README.md": b"card"}
    push(folder, "hf://org/new")  # the same files again
    (folder / "new-0123abcd.safetensors").rename(folder / "new-4567abcd.safetensors")
    with pytest.raises(CheckpointError, match="already contains new-0123abcd"):
        push(folder, "hf://org/new")
    push(folder, "hf://org/new", force=True)
    assert set(Hub.files["org/new"]) == {"new-4567abcd.safetensors", "README.md"}


def test_pushing_without_network_is_one_clear_error(server: object, tmp_path: Path, monkeypatch) -> None:
    offline(monkeypatch)
    with pytest.raises(CheckpointError, match="hf://org/new: the hub cannot be reached"):
        push(tmp_path, "hf://org/new")


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'segplug-backbones\[hub\]'"):
        load("hf://org/model")


def test_a_model_of_transformers_comes_with_its_description_and_all_parts(server, tmp_path, monkeypatch):
    save_file = pytest.importorskip("safetensors.torch").save_file
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(names):
        save_file({f"w{number}": torch.full((2,), float(number))}, tmp_path / name)
    described = {"config.json": b'{"model_type": "x"}', "preprocessor_config.json": b"{}", "README.md": b"text"}
    parts = {name: (tmp_path / name).read_bytes() for name in names}
    Hub.files["org/large"] = described | parts | {"other.safetensors": b"?", "pytorch_model.bin": b"?"}
    path = checkpoint.locate("hf://org/large")
    assert path.name == names[0]
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(described | parts)
    assert list(checkpoint.load("hf://org/large")["state_dict"]) == ["w0", "w1"]
    offline(monkeypatch)
    assert checkpoint.locate("hf://org/large") == path
    (path.parent / names[1]).unlink()
    with pytest.raises(CheckpointError, match="a part of the model"):
        checkpoint.load(path)


def test_a_usual_name_of_weights_is_taken_among_several(server, tmp_path):
    Hub.files["org/copies"] = dict.fromkeys(("pytorch_model.bin", "pytorch_model.fp16.bin"), weights(tmp_path, 3))
    assert load("hf://org/copies") == [3, 3]
