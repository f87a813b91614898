"""The server process: uvicorn with deadlines for slow peers, and an orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from segkernel.errors import UsageError

PEER_SECONDS = 10.0
"""Time to send the head of a request, to finish a body that is not wanted any more, and to go on reading an answer."""
KEEP_ALIVE_SECONDS = 5
"""Time for the next request on a connection."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine, to which a server that only it can reach answers."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at an address, which listens when the server runs; port 0 is a free one.

    Raises:
        UsageError: When the address is taken, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot serve on {host} port {port}: {reason}; --port 0 takes a free one") from error
    return found


def address_of(bound: socket.socket) -> str:
    """Return the address of a socket for a browser."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: Starlette, bound: socket.socket, started: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGINT or SIGTERM, answer what was received, and return the exit code.

    Args:
        app: See `segplug_deploy.serve.app.create_app`.
        bound: See `bind`.
        started: Called when the server listens.
    """
    server = uvicorn_server(app, started)
    server.run([bound])
    return 128 + server.signal_number if server.signal_number else 0


def uvicorn_server(app: Starlette, started: Callable[[], None] = lambda: None) -> _Server:
    """Return the server that `serve` runs; in a thread, ``should_exit`` ends it."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        # An upload, and then its answer, may each take this long.
        timeout_graceful_shutdown=int(2 * app.state.service.limits.seconds) + 5,
    )
    return _Server(config, app, started)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: Starlette, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._started, self.signal_number = app, started, 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal; unlike uvicorn's, do not raise it again, which would end the process without its code."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signal_number = sig
        self._app.state.service.stopping = True
        super().handle_exit(sig, frame)


class _Protocol(H11Protocol):
    """Closes connections whose peer stops: in the head of a request, in a body after its answer, in an answer."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._sending, self._reading = _Deadline(self.loop, transport.abort), _Deadline(self.loop, transport.abort)
        self._sending.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sending.stop()
        self._reading.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._sending.stop()  # the application has its own limit for the body
        else:
            self._sending.start()

    def on_response_complete(self) -> None:
        self._sending.stop()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading.start()

    def resume_writing(self) -> None:
        self._reading.stop()
        super().resume_writing()


class _Deadline:
    """Calls ``end`` when it is not stopped in time; starting it again does not move it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> None:
        self._loop, self._end = loop, end
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(PEER_SECONDS, self._end)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
