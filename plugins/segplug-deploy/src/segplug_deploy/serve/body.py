"""The image in the body of a request, or two: the body itself, or the files of a multipart form, within limits."""

from __future__ import annotations

import asyncio

from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from segplug_deploy.serve.refusal import Limits, Refusal

FIELD = "image"
"""Name of the file in a form; with another name, the form's only file is taken."""
SECOND = "second"
"""Name of the second file, for a model that compares two images."""


async def read_images(request: Request, limits: Limits, count: int = 1) -> list[bytes]:
    """Return the bytes of the image that a request sends, or of two.

    Raises:
        Refusal: 408 when the client takes too long, 413 for too many bytes, 422 for a form without the images.
    """
    try:
        data = await asyncio.wait_for(_read(request, limits), limits.seconds)
    except asyncio.TimeoutError:
        text = f"the image did not arrive within {limits.seconds:g} s: send a smaller file, or raise --timeout"
        raise Refusal(408, text, {"Connection": "close"}) from None
    form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    if form:
        return await _files_of(request, data, count)
    if count == 2:
        raise Refusal(422, f"the model compares two images: send a form with the files {FIELD!r} and {SECOND!r}")
    return [data]


async def _read(request: Request, limits: Limits) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.bytes:
        raise _too_large(limits)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limits.bytes:
            raise _too_large(limits)
    return bytes(data)


def _too_large(limits: Limits) -> Refusal:
    hint = "send a smaller or stronger compressed image, or raise --max-megabytes of the server"
    return Refusal(413, f"the request is larger than the limit of {limits.megabytes:g} MB: {hint}")


async def _files_of(request: Request, data: bytes, count: int) -> list[bytes]:
    """Return the file in a form that was read into memory, or two."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            raise ClientDisconnect
        sent = True
        return {"type": "http.request", "body": data, "more_body": False}

    single = f"send one file in the field {FIELD!r}, or the bytes of the file as the body"
    wanted = single if count == 1 else f"send two files in the fields {FIELD!r} and {SECOND!r}"
    try:
        async with Request(request.scope, replay).form(max_files=4, max_fields=16) as form:
            files = {name: value for name, value in form.multi_items() if not isinstance(value, str)}
            if count == 1 and len(files) == 1:
                files = {FIELD: next(iter(files.values()))}
            for name in (FIELD, SECOND)[:count]:
                if name not in files:
                    raise Refusal(422, f"the form has {len(files) or 'no'} files, none is called {name!r}: {wanted}")
            return [await files[name].read() for name in (FIELD, SECOND)[:count]]
    except (HTTPException, FormParserError) as error:  # which of them depends on Starlette's version
        reason = error.detail if isinstance(error, HTTPException) else error
        raise Refusal(422, f"the form cannot be read ({reason}): {wanted}") from error
