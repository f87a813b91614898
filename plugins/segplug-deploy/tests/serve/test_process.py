"""The server as a process and at the level of connections: signals, slow and broken clients."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from toy_server import brightness, png_of, running, stripes

from segkernel.errors import NotInstalledError, UsageError
from segplug_deploy.serve import command, server

IMAGE = png_of(stripes())

MODULE = """
import os, time
from pathlib import Path
from segkernel.testing.toys import ToySegmentor

class Gated(ToySegmentor):
    def predict(self, images):
        while not Path("gate").exists():
            time.sleep(0.01)
        return super().predict(images)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start ``seg-kernel serve`` on a free port, with a model that computes while the file ``gate`` exists."""
    (tmp_path / "gated.py").write_text(MODULE)
    (tmp_path / "gated.yaml").write_text("model: {type: 'gated:Gated'}\n")
    (tmp_path / "gate").touch()
    call = "from segkernel.cli import main; main()"
    arguments = ["serve", "gated.yaml", "--random-weights", "--port", "0", "--threads", "1", "--timeout", "600"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [sys.executable, "-c", call, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    yield started
    started.kill()
    started.wait()


def test_a_signal_ends_the_process_after_it_has_answered_what_was_queued(process, tmp_path: Path) -> None:
    address = re.search(r"http://\S+", process.stdout.readline())[0]
    (tmp_path / "gate").unlink()
    with ThreadPoolExecutor(5) as threads, httpx.Client(base_url=address, timeout=120) as client:
        requests = [threads.submit(client.post, "/models/gated/predict", content=IMAGE) for _ in range(5)]
        while 'in_progress{model="gated"} 5' not in client.get("/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while accepts(address):
            assert time.monotonic() < deadline
        assert not any(request.done() for request in requests)
        (tmp_path / "gate").touch()
        assert [request.result().status_code for request in requests] == [200] * 5
    assert process.wait(120) == 128 + signal.SIGTERM
    assert process.stdout.read() == "stopped\n"


def accepts(address: str) -> bool:
    """Whether something listens at an address."""
    host, port = address.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except ConnectionRefusedError:
        return False
    time.sleep(0.01)
    return True


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A server with short deadlines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "PEER_SECONDS", 1)
        patch.setattr(server, "KEEP_ALIVE_SECONDS", 1)
        with running({"toy": brightness()}, seconds=0.5, megabytes=1) as found:
            yield found


def works(address: tuple[str, int]) -> bool:
    """Whether the server labels an image; its short deadlines may end single requests on a busy machine."""
    for _ in range(30):
        with suppress(httpx.TransportError):
            answer = httpx.post("http://{}:{}/models/toy/predict?format=json".format(*address), content=IMAGE)
            if answer.status_code == 200:
                return [each["pixels"] for each in answer.json()["classes"]] == [18, 18, 18]
        time.sleep(0.2)
    return False


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes, and return everything the server sends until it closes the connection."""
    answer = b""
    with suppress(ConnectionError), socket.create_connection(address, 60) as connection:
        connection.sendall(data)
        while part := connection.recv(65536):
            answer += part
    return answer


HEAD = b"POST /models/toy/predict HTTP/1.1\r\nHost: a\r\n"
SLOW = {
    "nothing": (b"", b""),
    "half a head": (HEAD, b""),
    "a second head": (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /hea", b'{"status":"ok"}'),
    "half a body": (HEAD + b"Content-Length: 1000\r\n\r\n" + IMAGE[:20], b"408"),
    "a body nobody wants": (HEAD.replace(b"toy", b"tay") + b"Content-Length: 1000\r\n\r\n12", b"404"),
}


def test_clients_that_stop_sending_are_closed(address) -> None:
    with ThreadPoolExecutor(len(SLOW)) as threads:
        answers = [*threads.map(lambda case: exchange(address, case[0]), SLOW.values())]
    cases = zip(SLOW, answers, (expected for _, expected in SLOW.values()))
    wrong = {name: got for name, got, want in cases if want not in got or bool(got) != bool(want)}
    assert wrong == {}
    assert works(address)


BROKEN = {
    "a giant head": b"GET / HTTP/1.1\r\nX: " + b"x" * 10**6,
    "a thousand headers": b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 30000 + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00" + bytes(range(256)),
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "a length that is no number": HEAD + b"Content-Length: 5e3\r\n\r\n",
    "broken chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_what_is_no_request_is_refused(address, sent: bytes) -> None:
    answer = exchange(address, sent)  # nothing, if it was closed while the client was still sending
    assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert works(address)


def test_a_client_that_sends_on_and_on_is_told_the_limit_and_closed(address) -> None:
    with socket.create_connection(address, 60) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000000000\r\n\r\n")
        answer = b""
        while b"limit of 1 MB" not in answer:
            part = connection.recv(65536)
            assert part, answer
            answer += part
        with pytest.raises(ConnectionError):
            send_on_and_on(connection, bytes(100_000))
    assert works(address)


def send_on_and_on(connection: socket.socket, data: bytes) -> None:
    while True:
        connection.sendall(data)


def test_a_client_that_leaves_frees_its_place(address) -> None:
    for _ in range(3):
        with socket.create_connection(address, 10) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + IMAGE[:20])
    deadline = time.monotonic() + 60
    while 'in_progress{model="toy"} 0' not in httpx.get("http://{}:{}/metrics".format(*address), timeout=60).text:
        assert time.monotonic() < deadline


def test_a_client_that_does_not_read_its_answers_is_closed(address) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.settimeout(60)
        with pytest.raises(ConnectionError):
            send_on_and_on(connection, 1000 * b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n")
    assert works(address)


def test_a_flood_is_answered_completely_by_labels_or_a_refusal_and_the_server_goes_on() -> None:
    with running({"toy": brightness()}, queue=2) as found:
        url = "http://{}:{}/models/toy/predict?format=json".format(*found)
        with ThreadPoolExecutor(30) as threads, httpx.Client(timeout=60) as client:
            answers = [*threads.map(lambda _: client.post(url, content=IMAGE), range(90))]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(answer.json().keys() & {"classes", "error"} for answer in answers)
        assert works(found)


def test_a_taken_port_is_an_error_before_models_are_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot serve on 127.0.0.1 port {port}: .*--port 0"):
            server.bind("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"cannot serve on no\.such\.host\.invalid"):
        server.bind("no.such.host.invalid", 0)


def test_the_command_says_how_to_install_what_it_needs(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match=r"pip install 'segplug-deploy\[serve\]'"):
        command.command.callback(**dict.fromkeys(parameter.name for parameter in command.command.params))


def test_the_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from segplug_deploy.serve.command import command\n"
        "command.main(['--help'], standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'starlette', 'uvicorn', 'asyncio'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
