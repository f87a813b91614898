"""Weights from URLs, or from names in the zoos' ``weights.yaml``: downloaded once, verified and cached.

Downloads().locate("https://host/resnet50-0676ba61.pth")       # a path in the cache
Downloads().locate("torchvision://resnet50")
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urldefrag, urlparse
from urllib.request import Request, urlopen

from segkernel.config.packaged import folders
from segkernel.config.text import read_file
from segkernel.errors import CheckpointError, Problem, did_you_mean
from segkernel.files import cache_folder, file_name, replacing
from segkernel.interfaces.model import WeightFormat

TABLE = "weights.yaml"
_CHUNK = 1 << 20
_DIGITS = 64  # of a SHA-256
log = logging.getLogger(__name__)


class Downloads(WeightFormat):
    """Files from the network; cached files need no network.

    A URL may end in ``#sha256=`` and the checksum or its first digits. A file name like ``resnet50-0676ba61.pth``
    contains the first digits too.
    """

    def locates(self, source: str) -> bool:
        if source.startswith(("http://", "https://")):
            return True
        table = known_weights()
        return source in table or ("://" in source and bool(did_you_mean(source, table)))

    def locate(self, source: str) -> Path:
        """Return the cached file.

        Raises:
            CheckpointError: When the file cannot be downloaded, is truncated or has another checksum (nothing is kept
                then), or no zoo has the name.
        """
        if source.startswith(("http://", "https://")):
            return fetch(source)
        table = known_weights()
        if source not in table:
            near = " or ".join(did_you_mean(source, table))
            raise CheckpointError(f"{source}: no weights have this name; did you mean {near}?")
        entry = table[source]
        return fetch(entry["url"], entry.get("sha256", "")) if isinstance(entry, Mapping) else fetch(str(entry))


def known_weights() -> dict[str, Any]:
    """Return the URLs, or mappings of ``url`` and ``sha256``, from all zoos' ``weights.yaml`` by name."""
    table: dict[str, Any] = {}
    for name, folder in reversed(folders().items()):
        problems: list[Problem] = []
        if (path := folder / TABLE).is_file():
            table |= read_file(path, f"{name}::{TABLE}", problems) or {}
    return table


def fetch(address: str, sha256: str = "") -> Path:
    """Return the cached file of a URL; download it first if it is missing.

    Args:
        address: An https URL, optionally with ``#sha256=...``; or an http URL with the complete SHA-256.
        sha256: First hexadecimal digits of the file's checksum.

    Raises:
        CheckpointError: When the file cannot be downloaded, is truncated or has another checksum (nothing is kept
            then); when the cached file has another checksum; when an http URL comes without the complete SHA-256.
    """
    url, fragment = urldefrag(address)
    last = unquote(urlparse(url).path).rpartition("/")[2]
    if not last:
        raise CheckpointError(f"{url}: names no file")
    target = cache_folder() / "weights" / hashlib.sha256(url.encode()).hexdigest()[:8] / file_name(last)
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", last)
    wanted = (sha256 or fragment.removeprefix("sha256=") or (found[1] if found else "")).lower()
    whole = len(wanted) == _DIGITS  # a file that matches a prefix, as in file names, can be forged in hours
    if not whole and url.startswith("http:"):
        message = f"http does not prevent tampering; use https, or add #sha256= and all {_DIGITS} digits"
        raise CheckpointError(f"{url}: {message}")
    if target.is_file():
        if not sha256_of(target).startswith(wanted):
            raise CheckpointError(f"{target}: is not what was downloaded, its checksum is not {wanted}; delete it")
        return target
    log.info("downloading %s\n    to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            with open(temporary, "wb") as file:
                digest = _download(url, file, whole)
            if not digest.startswith(wanted):
                raise CheckpointError(f"{url}: has the checksum {digest[:16]}..., not {wanted}; it was not kept")
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        reason = f"HTTP {error.code} {error.reason}" if isinstance(error, HTTPError) else _reason(error)
        message = f"{url}: cannot be downloaded: {reason}\n    or download it yourself and put it at {target}"
        raise CheckpointError(message) from error
    return target


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, file: IO[bytes], is_proven: bool) -> str:
    """Download a URL into ``file``; return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with urlopen(Request(url, headers={"User-Agent": "seg-kernel"}), timeout=30) as answer:
        if not is_proven and not answer.geturl().startswith("https:"):
            raise OSError(f"redirected to {answer.geturl()}, which is not https, and no full checksum is given")
        announced = int(answer.headers.get("Content-Length") or 0)
        while chunk := answer.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
    if announced and size != announced:
        raise OSError(f"only {size} of {announced} bytes were received")
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None)
    return str(getattr(inner, "strerror", None) or inner or getattr(error, "strerror", None) or error)
