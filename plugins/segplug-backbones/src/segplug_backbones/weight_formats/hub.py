"""Models on the Hugging Face hub, ``hf://org/name[@revision][/file]``.

HuggingFaceHub().locate("hf://my-org/my-model")       # a path in the cache of huggingface_hub
push("published/my-model", "hf://my-org/my-model")
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from segkernel.errors import CheckpointError
from segkernel.files import cache_folder
from segkernel.interfaces.model import WeightFormat
from segplug_backbones.weight_formats.downloads import sha256_of
from segplug_backbones.weight_formats.safetensors_files import PART, parts_of

log = logging.getLogger(__name__)

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*?))?(?:/([^@]+\.\w+))?")
_PREFERRED = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Suffixes of weights, the best first."""
_USUAL = ("model.safetensors", "pytorch_model.bin")
"""Weights of a model that transformers has saved; other files beside them are copies."""
_DESCRIPTION = ("config.json", "preprocessor_config.json", "README.md")
"""What describes such a model, and is downloaded with its weights."""


class Repository(NamedTuple):
    """A model on the hub.

    Args:
        name: ``org/name``.
        revision: Branch, tag or commit; None is the main branch.
        file: A file in it; None is its only file of weights.
    """

    name: str
    revision: str | None
    file: str | None


class HuggingFaceHub(WeightFormat):
    """Weights on the Hugging Face hub. Cached files need no network; ``HF_ENDPOINT`` is the address of another hub."""

    def locates(self, source: str) -> bool:
        return source.startswith(SCHEME)

    def locate(self, source: str) -> Path:
        """Return the cached file.

        Raises:
            CheckpointError: When huggingface_hub is not installed, the address is invalid, the hub cannot be reached
                and nothing is cached, there is no such model or several files of weights, or a checksum differs.
        """
        wanted, hub = repository(source), _library(source)
        with _errors(source):
            try:
                path = _download(hub, source, wanted)
            except _unreachable() as error:
                path = _cached(hub, source, wanted)
                log.warning("%s: the hub cannot be reached (%s); taking the cached %s", source, _line(error), path.name)
        _verify(source, path)
        return path


def repository(address: str) -> Repository:
    """Return the parts of an address.

    Raises:
        CheckpointError: When it is not of the form ``hf://org/name[@revision][/file]``.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or ".." in address:
        raise CheckpointError(f"{address}: write hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME/FILE")
    return Repository(*found.groups())


def push(folder: str | Path, address: str, force: bool = False) -> str:
    """Upload a published folder to the hub, as one commit; return the address of the commit.

    The repository is created when it does not exist. The token is that of ``hf auth login``, or ``HF_TOKEN``.

    Raises:
        CheckpointError: When the repository already contains other weights and ``force`` is false, or the upload fails.
    """
    wanted, hub = repository(address), _library(address)
    if wanted.file:
        raise CheckpointError(f"{address}: a folder is uploaded, leave out {wanted.file}")
    folder = Path(folder)
    api = hub.HfApi(endpoint=_endpoint())
    with _errors(address):
        api.create_repo(wanted.name, exist_ok=True)
        there = [] if force else _weights(_files(hub, wanted.name, None))
        if others := [name for name in there if not (folder / name).is_file()]:
            raise CheckpointError(f"{address}: already contains {others[0]}; --force replaces it")
        done = api.upload_folder(
            repo_id=wanted.name,
            folder_path=folder,
            revision=wanted.revision,
            commit_message=f"Publish {folder.name}",
            delete_patterns=["*.safetensors"] if force else None,
        )
    return str(done.commit_url)


def _library(address: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        hint = "pip install 'segplug-backbones[hub]'"
        raise CheckpointError(f"{address}: the Hugging Face hub needs a package\n    {hint}") from error
    return huggingface_hub


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _download(hub: Any, source: str, wanted: Repository) -> Path:
    common = {"revision": wanted.revision, "cache_dir": _cache(), "endpoint": _endpoint()}
    if wanted.revision and re.fullmatch(r"[0-9a-f]{40}", wanted.revision):  # a commit cannot change
        with suppress(CheckpointError):
            return _cached(hub, source, wanted)
    names = [wanted.file] if wanted.file else _files(hub, wanted.name, wanted.revision)
    name = wanted.file or _only(source, names)
    log.info("%s: taking %s", source, name)
    for other in [*_DESCRIPTION, *parts_of(name)[1:]] if _DESCRIPTION[0] in names else ():
        if other in names:
            _verify(source, Path(hub.hf_hub_download(wanted.name, other, **common)))
    return Path(hub.hf_hub_download(wanted.name, name, **common))


def _files(hub: Any, name: str, revision: str | None) -> list[str]:
    # Not list_repo_files, which tries for half a minute when there is no network.
    info = hub.HfApi(endpoint=_endpoint()).model_info(name, revision=revision)
    return [entry.rfilename for entry in info.siblings or ()]


def _cached(hub: Any, source: str, wanted: Repository) -> Path:
    """Return the file in the cache, without a request."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            hub.snapshot_download(
                wanted.name, revision=wanted.revision, cache_dir=_cache(), endpoint=_endpoint(), local_files_only=True
            )
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(f"{source}: the hub cannot be reached, and the model is not in {_cache()}") from error
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    path = folder / (wanted.file or _only(source, names))
    if not path.is_file():
        raise CheckpointError(f"{source}: the hub cannot be reached, and {wanted.file} is not in {_cache()}")
    return path


def _cache() -> Path:
    return cache_folder() / "hub"


def _weights(names: Iterable[str]) -> list[str]:
    """Return the files of weights with the preferred suffix that occurs."""
    names = sorted(names)
    found = ([name for name in names if name.endswith(suffix)] for suffix in _PREFERRED)
    return next((part for part in found if part), [])


def _only(source: str, names: Iterable[str]) -> str:
    found = _weights(names)
    if usual := [name for name in found if name in _USUAL or PART.fullmatch(name)]:
        return usual[0]
    if len(found) != 1:
        what = f"several files of weights, name one: {source}/{found[0]}" if found else "no file of weights"
        raise CheckpointError(f"{source}: has {what}")
    return found[0]


def _verify(source: str, path: Path) -> None:
    """Check the digits in a file's name, or the checksum by which the hub stores large files."""
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    blob = path.resolve().name
    wanted = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else named[1] if named else ""
    if wanted and not sha256_of(path).startswith(wanted):
        raise CheckpointError(f"{source}: {path} is damaged, its checksum is not {wanted[:16]}; delete it")


def _unreachable() -> tuple[type[Exception], ...]:
    """Return the errors of a missing network, in all versions of huggingface_hub."""
    from huggingface_hub import errors

    names = ("OfflineModeIsEnabled", "LocalEntryNotFoundError")
    found: list[type[Exception]] = [getattr(errors, name) for name in names if hasattr(errors, name)]
    return (*found, *_transport_errors(), ConnectionError, TimeoutError)


def _transport_errors() -> Iterator[type[Exception]]:
    """Yield the base errors of the HTTP libraries that are installed: huggingface_hub uses one of them."""
    for name, error in (("httpx2", "TransportError"), ("httpx", "TransportError"), ("requests", "ConnectionError")):
        try:
            module = __import__(name)
        except ImportError:
            continue
        yield getattr(module, error)


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into one clear message."""
    from huggingface_hub import errors

    try:
        yield
    except CheckpointError:
        raise
    except _unreachable() as error:
        raise CheckpointError(f"{address}: the hub cannot be reached: {_line(error)}") from error
    except errors.RepositoryNotFoundError as error:
        hint = "if it is private, log in: hf auth login"
        raise CheckpointError(f"{address}: the hub has no such model, or does not show it to you; {hint}") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.EntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(f"{address}: {_line(error)}") from error
    except (LookupError, TypeError, AttributeError) as error:  # of the library, on JSON of another form
        raise CheckpointError(f"{address}: the hub gave an unexpected answer: {error!r}") from error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
