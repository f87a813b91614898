"""Files from the network, kept in a cache: once there, no network is asked again. Imports no torch.

fetch("https://host/resnet50-0676ba61.pth")      # a path in the cache
locate("torchvision://resnet50")                 # a file, an address, or a name of a zoo's weights.yaml
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

from segkernel.errors import CheckpointError, Problem, did_you_mean
from segkernel.files import replacing

TABLE = "weights.yaml"
_CHUNK = 1 << 20
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return where downloads are kept: ``SEGKERNEL_CACHE``, else ``segkernel`` in the user's cache folder."""
    own = os.environ.get("SEGKERNEL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segkernel"


def locate(source: str | Path) -> Path:
    """Return the file that ``source`` stands for: a path, an address, or a name of a zoo's table of weights.

    Raises:
        CheckpointError: It is none of these, or cannot be downloaded.
    """
    text = str(source)
    if Path(source).exists():
        return Path(source)
    if text.startswith(("http://", "https://")):
        return fetch(text)
    table = known_weights()
    if text in table:
        entry = table[text]
        return fetch(entry["url"], sha256=entry.get("sha256")) if isinstance(entry, Mapping) else fetch(str(entry))
    if "://" not in text:
        return Path(source)  # whoever opens it says what is missing
    near = did_you_mean(text, list(table))
    hint = f"did you mean {' or '.join(near)}?" if near else "names are in the weights.yaml of packaged configs"
    raise CheckpointError(f"{text}: no weights have this name; {hint}")


def known_weights() -> dict[str, Any]:
    """Return the addresses, or mappings of ``url`` and ``sha256``, of all zoos' ``weights.yaml`` by name."""
    from segkernel.config.text import read_file
    from segkernel.config.zoo import find_zoos, label_of

    table: dict[str, Any] = {}
    for zoo in reversed(find_zoos()):
        problems: list[Problem] = []
        if (path := zoo.folder / TABLE).is_file():
            table |= read_file(path, label_of(path, [zoo]), problems) or {}
    return table


def fetch(url: str, *, sha256: str | None = None) -> Path:
    """Return the cached file of an address; download it first if it is not there.

    Args:
        url: With http or https.
        sha256: What the file's checksum begins with; None takes it from a name like ``resnet50-0676ba61.pth``.

    Raises:
        CheckpointError: It cannot be downloaded, is cut short, or has another checksum; nothing is kept.
    """
    name = unquote(Path(urlparse(url).path).name)
    if not name:
        raise CheckpointError(f"{url}: names no file")
    target = cache_folder() / "weights" / hashlib.sha256(url.encode()).hexdigest()[:8] / name
    if target.is_file():
        return target
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    wanted = (sha256 or (found.group(1) if found else "")).lower()
    log.info("downloading %s\n    to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            with open(temporary, "wb") as file:
                digest = _download(url, file)
            if not digest.startswith(wanted):
                raise CheckpointError(f"{url}: has the checksum {digest[:16]}..., not {wanted}; it was not kept")
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        reason = f"HTTP {error.code} {error.reason}" if isinstance(error, HTTPError) else _reason(error)
        message = f"{url}: cannot be downloaded: {reason}\n    or download it yourself and put it at {target}"
        raise CheckpointError(message) from error
    return target


def _download(url: str, file: IO[bytes]) -> str:
    """Copy what is at an address into ``file``; return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with urlopen(Request(url, headers={"User-Agent": "seg-kernel"}), timeout=30) as answer:
        announced = int(answer.headers.get("Content-Length") or 0)
        while chunk := answer.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
    if announced and size != announced:
        raise OSError(f"only {size} of {announced} bytes came")
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None)
    return str(getattr(inner, "strerror", None) or inner or getattr(error, "strerror", None) or error)
