"""Everything a user can cause, as one hierarchy of exceptions.

    SegKernelError                 exit code 1
    ├── UsageError                 2   a wrong argument on the command line or in a call
    ├── ConfigError                2   one or several problems of a config, each with its place
    │   └── MissingPackageError    3   it names what comes with a package that is not installed
    ├── ComponentError
    │   ├── UnknownComponentError       2   no distribution offers the name
    │   ├── AmbiguousComponentError     2   two distributions offer it
    │   ├── DisabledPluginError         3   installed, but hidden by SEGKERNEL_DISABLE
    │   ├── NotInstalledError           3   known, but its package is not installed
    │   ├── BrokenPluginError           3   installed, but importing it raised
    │   └── IncompatiblePluginError     3   installed, but made for another kernel
    ├── DataError                  1   an image, a mask, a folder
    ├── CheckpointError            1   a weights file
    ├── UntrustedError             1   a config from a weights file that names code or other files
    ├── TrainingError              1   a run that cannot continue
    ├── PeerError                  1   another rank of the run has failed
    ├── ExportError                1   a model that cannot be exported, or whose export returns other values
    └── Interrupted                130 or 143   SIGINT, SIGTERM

An exception keeps its data as attributes and builds its message from them.
"""

from __future__ import annotations

import copyreg
import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb


class SegKernelError(Exception):
    """What went wrong, where, and what to do, in one message.

    In a run of several ranks, ``on_all_ranks`` is true when every rank raises it at the same point, and ``reported``
    when another rank prints the message.
    """

    exit_code = 1
    on_all_ranks = False
    reported = False

    def __reduce__(self) -> tuple[object, ...]:  # data-loader workers send exceptions through pickle
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class SegKernelRemovedIn04Warning(DeprecationWarning):
    """A deprecated public name that seg-kernel 0.4 removes."""


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that ``old`` was renamed to ``new``, at the caller of the function that calls this."""
    warnings.warn(f"{old} is deprecated and will be removed in 0.4; use {new}", SegKernelRemovedIn04Warning, stacklevel)


class UsageError(SegKernelError):
    """An invalid argument of a command or a call."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One error in a config.

    Args:
        message: What is wrong.
        path: The dotted key, ``model.decode_head.channels``.
        place: Where it was written, ``my.yaml:14:7``, or ``command line``; empty when unknown.
        hint: What to do, or other places involved.
        error: The exception behind it, when there is one.
    """

    message: str
    path: str = ""
    place: str = ""
    hint: str = ""
    error: BaseException | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        head = " ".join(part for part in (self.place, f"{self.path}:" if self.path else "", self.message) if part)
        return head + "".join(f"\n    {line}" for line in self.hint.splitlines())


class ConfigError(SegKernelError):
    """A config that cannot be used; ``problems`` lists every error found, not only the first.

    The exit code is 3 instead if every problem is a missing, broken or incompatible plugin.
    """

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if self.problems and all(getattr(problem.error, "exit_code", 2) == 3 for problem in self.problems):
            self.exit_code = 3
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MissingPackageError(ConfigError):
    """A config names something that comes with a package that is not installed."""

    exit_code = 3


class ComponentError(SegKernelError):
    """A named component is not available.

    Args:
        group: The kind, without prefix: ``heads``; empty when a whole distribution is meant.
        name: The requested name.
        message: What is wrong and what to do.
        distribution: The distribution that offers it.
    """

    exit_code = 3

    def __init__(self, group: str, name: str, message: str, distribution: str = "") -> None:
        self.group, self.name, self.distribution = group, name, distribution
        super().__init__(message)


class UnknownComponentError(ComponentError):
    """No distribution offers this name; ``moved`` is a hint about what other frameworks call so."""

    exit_code = 2

    def __init__(
        self, group: str, name: str, near: Sequence[str] = (), searched: Sequence[str] = (), moved: str = ""
    ) -> None:
        self.near, self.searched = tuple(near), tuple(searched)
        hint = f"; did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        hint = f"\n    {moved}" if moved else hint
        places = ", ".join(self.searched) or "nothing, no plugin is installed"
        super().__init__(group, name, f"no {group} component is called {name!r}{hint}\n    searched: {places}")


class AmbiguousComponentError(ComponentError):
    """Several entry points offer this name, and none is preferred.

    Args:
        group: The kind.
        name: The requested name, or a file's suffix.
        candidates: What to write for each: ``distribution/Name``, or import paths where one distribution has several.
    """

    exit_code = 2

    def __init__(self, group: str, name: str, candidates: Sequence[str]) -> None:
        self.candidates = tuple(candidates)
        message = f"{group} component {name!r} is offered {len(self.candidates)} times"
        hint = f"write type: {' or '.join(self.candidates)}, or set plugins.prefer"
        super().__init__(group, name, f"{message}\n    {hint}")


class DisabledPluginError(ComponentError):
    """Installed, but SEGKERNEL_DISABLE hides the distribution."""

    def __init__(self, group: str, name: str, distribution: str) -> None:
        message = f"{name!r} is in {distribution}, which is disabled\n    remove it from SEGKERNEL_DISABLE"
        super().__init__(group, name, message, distribution)


class NotInstalledError(ComponentError):
    """A known component whose distribution is not installed."""

    def __init__(self, group: str, name: str, distribution: str) -> None:
        message = f"{name!r} needs a package that is not installed\n    pip install {distribution}"
        super().__init__(group, name, message, distribution)


class BrokenPluginError(ComponentError):
    """Importing an installed component raised; the original error is chained as ``__cause__``."""

    def __init__(self, group: str, name: str, distribution: str, value: str, cause: BaseException) -> None:
        label = f"{distribution}/{name} ({value})" if distribution else value
        hint = f"\n    seg-kernel plugins show {distribution}" if distribution else ""
        super().__init__(group, name, f"{label} failed to import: {type(cause).__name__}: {cause}{hint}", distribution)
        self.__cause__ = cause


class IncompatiblePluginError(ComponentError):
    """A distribution that does not accept the running kernel, or was written for older contracts; not imported.

    Args:
        group: Component group, empty when the whole distribution is meant.
        name: Component name, or empty.
        distribution: The incompatible distribution.
        requires: The kernel versions it accepts, as a specifier.
        running: The version of the kernel.
        contract: The first kernel version with the current contracts, when ``requires`` admits older ones.
    """

    def __init__(
        self, group: str, name: str, distribution: str, requires: str, running: str, contract: str = ""
    ) -> None:
        self.requires, self.contract = requires, contract
        why = f": written for contracts before {contract}" if contract else f", but {running} is running"
        cure = f"port it and require seg-kernel>={contract}" if contract else "install a compatible seg-kernel"
        message = f"{distribution} accepts seg-kernel {requires or 'of any version'}{why}; it was not imported"
        hint = f"pip install --upgrade {distribution}, or {cure}"
        super().__init__(group, name, f"{message}\n    {hint}", distribution)


class DataError(SegKernelError):
    """An image, a mask, a folder or a label that cannot be used.

    Args:
        message: What is wrong and what to do.
        path: The file or folder.
    """

    def __init__(self, message: str, path: str | Path | None = None) -> None:
        self.path = None if path is None else str(path)
        super().__init__(f"{self.path}: {message}" if path is not None else message)


class CheckpointError(SegKernelError):
    """A weights file that is missing, damaged, refused or does not fit the model."""


class UntrustedError(SegKernelError):
    """A config from a weights file names code or another file, although such files are treated as data.

    Args:
        what: The code or file.
        path: The config key that refers to it, if known.
    """

    def __init__(self, what: str, path: str = "") -> None:
        message = f"the config in this weights file names {what}{path and f' ({path})'}, which was neither run nor read"
        super().__init__(f"{message}\n    if you trust the source of the file: --trust, or trust=True")


class TrainingError(SegKernelError):
    """A run that cannot continue, for example because the loss is not finite."""


class PeerError(SegKernelError):
    """Another rank of the run has failed or exited, so this one cannot continue.

    Args:
        message: That rank's error message, or that it exited.
        reported: Whether another rank prints it.
    """

    def __init__(self, message: str, reported: bool = True) -> None:
        self.reported = reported
        super().__init__(message)


class ExportError(SegKernelError):
    """A model that cannot be exported, or whose exported file returns other values."""


class Interrupted(SegKernelError):
    """SIGINT or SIGTERM arrived; the step was finished and a checkpoint saved."""

    def __init__(self, signal_number: int, saved: Path | str | None = None, reported: bool = False) -> None:
        self.reported = reported
        self.exit_code = 128 + signal_number
        super().__init__(f"interrupted by signal {signal_number}" + (f"; saved {saved}" if saved else ""))


def worker_crash_of(error: BaseException) -> DataError | None:
    """Return the error to report when ``error`` is torch's notice that a data-loader worker has exited.

    Torch raises it from a signal handler, so any statement may raise it, for example one that writes a checkpoint.
    While a tensor is fetched from the worker, the closed connection may be noticed first.
    """
    text = str(error) or type(error).__name__
    if isinstance(error, SegKernelError) and text.startswith("Caught "):  # raised in a worker, with its traceback
        return DataError(text.rpartition(f"segkernel.errors.{type(error).__name__}: ")[2].rstrip())
    fetching = any("resource_sharer" in frame.filename for frame in extract_tb(error.__traceback__))
    if not (fetching or (isinstance(error, RuntimeError) and text.startswith("DataLoader worker"))):
        return None
    hint = "perhaps by the out-of-memory killer; rerun with data.workers=0 to see an error of the data set itself"
    return DataError(f"a data-loader worker was killed: {text.splitlines()[0]}\n    {hint}")


def did_you_mean(name: object, known: Iterable[object], limit: int = 2) -> list[str]:
    """Return the names of ``known`` that look like ``name``, nearest first."""
    names = {str(entry).lower(): str(entry) for entry in known}
    return [names[match] for match in difflib.get_close_matches(str(name).lower(), list(names), n=limit, cutoff=0.6)]


def suggest(name: object, known: object, otherwise: str = "available: ") -> str:
    """Return a hint: the names of ``known`` closest to ``name``, or else the first few of them.

    The hint is empty if ``known`` is a string or not a container.
    """
    names = list(dict.fromkeys(map(str, known))) if isinstance(known, Iterable) and not isinstance(known, str) else []
    if near := did_you_mean(name, names):
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"{otherwise}{', '.join(names[:12])}{', ...' * (len(names) > 12)}" if otherwise and names else ""
