from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segkernel.checkpoint import locate
from segkernel.errors import CheckpointError
from segplug_backbones.weight_formats import downloads
from segplug_backbones.weight_formats.downloads import fetch

CONTENT = b"weights" * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    served: list[str] = []  # noqa: RUF012

    def log_message(self, *arguments: object) -> None: ...

    def do_GET(self) -> None:
        type(self).served.append(self.path)
        if self.path == "/short.pth":
            self.send_response(200)
            self.send_header("Content-Length", "9999")
            self.end_headers()
            self.wfile.write(b"cut off")
            return
        super().do_GET()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("plain.pth", f"good-{SUM[:8]}.pth", "bad-0123abcd.pth"):
        (folder / name).write_bytes(CONTENT)
    monkeypatch.setenv("SEGKERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    Quiet.served = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_is_downloaded_once(server: str) -> None:
    first, second = fetch(f"{server}/plain.pth", SUM), fetch(f"{server}/plain.pth", SUM)
    assert first == second
    assert first.read_bytes() == CONTENT
    assert Quiet.served == ["/plain.pth"]


@pytest.mark.parametrize(("name", "sha256"), [(f"good-{SUM[:8]}.pth", ""), ("plain.pth", SUM)])
def test_the_right_checksum_passes(server: str, name: str, sha256: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_DIGITS", len(sha256) or 8)  # the server has no https
    assert fetch(f"{server}/{name}", sha256=sha256).is_file()


@pytest.mark.parametrize(("name", "sha256"), [("bad-0123abcd.pth", "0123abcd" + "f" * 56), ("plain.pth", "f" * 64)])
def test_a_wrong_checksum_is_refused_and_nothing_kept(server: str, tmp_path: Path, name: str, sha256: str) -> None:
    with pytest.raises(CheckpointError, match=r"has the checksum .* it was not kept"):
        fetch(f"{server}/{name}", sha256=sha256)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["plain.pth", f"good-{SUM[:8]}.pth", f"plain.pth#sha256={SUM[:32]}"])
def test_plain_http_needs_a_whole_checksum(server: str, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"\.pth: http does not prevent .* add #sha256= and all 64 digits"):
        fetch(f"{server}/{name}")
    assert Quiet.served == []


def test_a_file_in_the_cache_is_checked_again(server: str) -> None:
    path = fetch(f"{server}/plain.pth", SUM)
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(CheckpointError, match="is not what was downloaded"):
        fetch(f"{server}/plain.pth", SUM)


@pytest.mark.parametrize("name", ["..%2f..%2f..%2fevil.pth", "..%5c..%5cevil.pth", "%2e%2e%2fevil.pth"])
def test_an_address_does_not_lead_out_of_the_cache(server: str, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch(f"{server}/{name}", SUM)
    new = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - before}
    assert new
    assert all(path.startswith("cache") for path in new)


def test_a_file_cut_short_is_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch(f"{server}/short.pth", SUM)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_what_is_not_there_says_where_to_put_it(server: str) -> None:
    with pytest.raises(CheckpointError, match=r"HTTP 404[\s\S]*put it at .*cache.*missing.pth"):
        fetch(f"{server}/missing.pth", SUM)


def test_no_network_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKERNEL_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch("https://127.0.0.1:9/weights.pth")


def test_an_address_may_hold_its_checksum(server: str) -> None:
    with pytest.raises(CheckpointError, match=r"not f{64}; it was not kept"):
        fetch(f"{server}/good-{SUM[:8]}.pth#sha256={'f' * 64}")
    assert fetch(f"{server}/plain.pth#sha256={SUM}").name == "plain.pth"


def test_a_name_of_the_table_is_its_address(server: str, tmp_path: Path) -> None:
    (tmp_path / "local_configs").mkdir()
    lines = [
        f"house://short: {server}/plain.pth#sha256={SUM}",
        f"house://long: {{url: {server}/plain.pth, sha256: {SUM}}}",
    ]
    (tmp_path / "local_configs" / "weights.yaml").write_text("\n".join(lines))
    assert locate("house://short").read_bytes() == CONTENT
    assert locate("house://long") == locate(f"{server}/plain.pth#sha256={SUM}")


def test_an_unknown_name_offers_near_ones(server: str, tmp_path: Path) -> None:
    (tmp_path / "local_configs").mkdir()
    (tmp_path / "local_configs" / "weights.yaml").write_text(f"house://resnet50: {server}/plain.pth")
    with pytest.raises(CheckpointError, match="did you mean house://resnet50"):
        locate("house://resnet5")
