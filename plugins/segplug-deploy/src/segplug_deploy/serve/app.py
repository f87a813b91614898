"""The ASGI application: predictions over HTTP, a web page, health, metrics.

app = create_app(load({"street": "runs/first"}))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from segkernel.errors import SegKernelError, suggest
from segplug_deploy.serve import openapi
from segplug_deploy.serve.batcher import Batcher
from segplug_deploy.serve.body import read_images
from segplug_deploy.serve.encode import Answer, encode
from segplug_deploy.serve.images import decode
from segplug_deploy.serve.metrics import TEXT_TYPE, Metrics
from segplug_deploy.serve.models import ServedModel
from segplug_deploy.serve.refusal import Limits, Refusal, busy

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
}
"""Files of the page: address to name and media type."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""The browser lets the page load nothing from another host."""
CLIENT_LEFT = 499
"""Status in the metrics of a request whose client closed the connection, as nginx counts it."""

T = TypeVar("T")


def create_app(models: Mapping[str, ServedModel], limits: Limits | None = None, hosts: Sequence[str] = ()) -> Starlette:
    """Return the application; ``app.state.service`` is its `Service`.

    Args:
        models: By name, see `segplug_deploy.serve.models.load`.
        limits: What it accepts.
        hosts: Names in the header ``Host`` that it answers to; empty for any. A page of another site whose name is made
            to resolve to this machine sends that name.
    """
    service = Service(models, limits or Limits())
    handlers: dict[Any, Any] = {Refusal: _refused, HTTPException: _refused, Exception: _failed}
    guard = [Middleware(_HostCheck, hosts=hosts)] if hosts else []
    app = Starlette(
        routes=service.routes(), exception_handlers=handlers, middleware=guard, lifespan=lambda app: service.running()
    )
    app.state.service = service
    return app


class Service:
    """What the application answers, and its state.

    Args:
        models: By name.
        limits: What it accepts.
    """

    def __init__(self, models: Mapping[str, ServedModel], limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.stopping = False
        """Whether new requests are refused."""
        self.metrics = Metrics(
            {
                "segkernel_queue_length": ("Requests that wait for a batch.", self._of_each(lambda b: b.waiting)),
                "segkernel_requests_in_progress": ("Requests in progress.", self._of_each(lambda b: b.places)),
                "process_resident_memory_bytes": ("Memory of the process.", _memory),
            }
        )
        self._batchers: dict[str, Batcher] = {}
        folder = files("segplug_deploy.serve") / "page"
        self._page = {path: folder.joinpath(name).read_bytes() for path, (name, _) in PAGE.items()}
        self._description = openapi.document(version("segplug-deploy"), [*models], limits)

    def routes(self) -> list[Route]:
        """Return the addresses."""
        return [
            *(Route(path, self._file) for path in PAGE),
            Route("/models", self._list),
            Route("/models/{name}/predict", self._predict, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compute batches inside the block; the models share one thread, so that they do not compete for the cores."""
        with ThreadPoolExecutor(1, "compute") as compute, ThreadPoolExecutor(2, "images") as self._threads:
            for name, model in self.models.items():
                observe = partial(self.metrics.batch, name)
                self._batchers[name] = Batcher(model.compute, compute, self.limits, observe)
            tasks = [asyncio.create_task(batcher.run()) for batcher in self._batchers.values()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def _predict(self, request: Request) -> Response:
        start, name, status = time.perf_counter(), request.path_params["name"], 500
        try:
            response = await self._answer(request, name)
            status = response.status_code
        except ClientDisconnect:
            raise Refusal(status := CLIENT_LEFT, "the client closed the connection") from None
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            self.metrics.request(name if name in self.models else "", status, time.perf_counter() - start)
        return response

    async def _answer(self, request: Request, name: str) -> Response:
        if self.stopping:
            raise busy(503, "the server is shutting down: try again later, or another server")
        if name not in self.models:
            raise Refusal(404, f"no model has this name; {suggest(name, self.models)}")
        kind = request.query_params.get("format", "png")
        if kind not in openapi.KINDS:
            raise Refusal(422, f"unknown format; {suggest(kind, openapi.KINDS)}")
        model = self.models[name]
        with self._batchers[name].place():
            data = await read_images(request, self.limits, model.images)
            labels = await _unless_left(request, self._labels(model, data), self.limits.seconds)
        body, media_type = await self._in_thread(encode, labels, kind, name, model.labels)
        return Response(body, media_type=media_type)

    async def _labels(self, model: ServedModel, data: list[bytes]) -> Answer:
        try:
            pixels = [await self._decoded(data.pop(0), what) for what in ("", "the second image: ")[: model.images]]
            sample = await self._in_thread(model.prepare, *pixels)
            return await self._batchers[model.name].submit(sample, pixels[0].shape[:2])
        except SegKernelError as error:  # of this image: too small for the model, for instance
            raise Refusal(422, str(error)) from error

    async def _decoded(self, data: bytes, what: str) -> np.ndarray:
        """Return an image; ``what`` it is stands before the message of a refusal."""
        try:
            return await self._in_thread(decode, data, self.limits)
        except Refusal as refusal:
            raise Refusal(refusal.status, f"{what}{refusal.message}", refusal.headers) from refusal

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"models": [model.describe() for model in self.models.values()]})

    async def _file(self, request: Request) -> Response:
        path = request.url.path
        return Response(self._page[path], media_type=PAGE[path][1], headers=PAGE_HEADERS)

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self.stopping:
            raise busy(503, "the server is shutting down")
        return JSONResponse({"status": "ready"})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": TEXT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._description)

    def _of_each(self, value: Callable[[Batcher], float]) -> Callable[[], dict[str, float]]:
        return lambda: {name: value(batcher) for name, batcher in self._batchers.items()}


async def _unless_left(request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return the result of ``work``; stop it when the client closes the connection, or after some seconds."""
    tasks = task, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if left.done():
            raise ClientDisconnect
        raise busy(503, f"no answer within {seconds:g} s: send fewer requests at one time, or raise --timeout")
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _memory() -> dict[str, float]:
    """Return the resident memory in bytes, without a model's name; nothing where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError):
        return {}
    import resource

    return {"": pages * resource.getpagesize()}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"status": status, "message": message}}, status, headers)


def _refused(request: Request, error: Refusal | HTTPException) -> Response:
    if isinstance(error, Refusal):
        return _error(error.status, error.message, error.headers)
    text = {404: "nothing is at this address; /openapi.json describes the addresses"}.get(error.status_code)
    if error.status_code == 405:
        text = f"this address does not take {request.method}; /openapi.json describes the addresses"
    return _error(error.status_code, text or error.detail, error.headers)


def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "an error of the server, which its log describes")


class _HostCheck:
    """Refuses requests for another host name."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            given = Request(scope).headers.get("host", "").lower()
            name = given.rpartition(":")[0] if given.rpartition(":")[2].isdecimal() else given
            if name not in self._hosts:
                app = _error(421, f"this server answers to {', '.join(self._hosts)} only: use one of these addresses")
        await app(scope, receive, send)
