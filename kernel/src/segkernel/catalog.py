"""Discovery: one scan of entry points, which imports nothing and does not depend on their order.

    catalog = Catalog.discover()
    PSPHead = catalog.load("heads", "PSPHead")            # or "segplug-heads/PSPHead", or "my_module:PSPHead"

A distribution that does not accept the running kernel, or accepts kernels older than `CONTRACT`, is listed as
incompatible and never imported.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

import importlib_metadata

import segkernel
from segkernel import errors, known

PREFIX = "segkernel."
KERNEL = "seg-kernel"
CONTRACT = "0.3"
"""The oldest kernel version whose plugins this one can run: before 1.0 a minor version may change a contract."""

GROUPS: dict[str, str] = {
    "segmentors": "segkernel.interfaces.model:Segmentor", "backbones": "segkernel.interfaces.model:Backbone",
    "necks": "segkernel.interfaces.model:Neck", "heads": "segkernel.interfaces.model:Head",
    "losses": "segkernel.interfaces.model:Loss", "outputs": "segkernel.interfaces.output:Output",
    "layers": "torch.nn.modules.module:Module", "parts": "", "datasets": "segkernel.interfaces.data:Dataset",
    "samplers": "segkernel.interfaces.data:Sampler", "transforms": "segkernel.interfaces.data:Transform",
    "metrics": "segkernel.interfaces.data:Metric", "engines": "segkernel.interfaces.model:Engine",
    "optimizers": "torch.optim.optimizer:Optimizer", "parameter_groups": "",
    "schedules": "segkernel.schedules:Schedule", "hooks": "", "default_hooks": "",
    "exporters": "segkernel.interfaces.model:Exporter", "weight_formats": "segkernel.interfaces.model:WeightFormat",
    "zoo": "", "config_sources": "", "former_names": "", "config_checks": "", "quick_checks": "", "predictors": "",
    "adapters": "", "displays": "", "optimizations": "", "commands": "click.core:Command",
}  # fmt: skip
"""Group name, without prefix, to the base class of its components; empty where there is none."""

USUAL = {"engines": ("DDPEngine", "LocalEngine"), "parameter_groups": ("Paramwise",)}
"""The components that a spec without ``type`` means, by group: the first that is installed."""

Status = Literal["ok", "incompatible", "disabled"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One entry point.

    Args:
        group: Without prefix: ``heads``.
        name: As in a config's ``type``.
        distribution: Normalised name; empty for an import path.
        version: The distribution's.
        value: ``module:attribute``.
        status: Whether it can be used.
        requires: The kernel versions its distribution accepts, as a specifier; empty when it declares none.
    """

    group: str
    name: str
    distribution: str
    version: str
    value: str
    status: Status = "ok"
    requires: str = ""

    @property
    def qualified(self) -> str:
        """The unambiguous name."""
        return f"{self.distribution}/{self.name}" if self.distribution else self.value


@dataclass(frozen=True)
class Catalog:
    """The installed components; immutable.

    Args:
        rows: Every entry point found, usable or not.
        preferred: Distributions that win when a short name is offered by several, best first.
        trusted: Whether names may be import paths, and arguments may name files and folders.
    """

    rows: tuple[Row, ...] = ()
    preferred: tuple[str, ...] = ()
    trusted: bool = True

    @classmethod
    def discover(cls, distributions: Iterable[importlib_metadata.Distribution] | None = None) -> Catalog:
        """Scan the installed distributions, once per process; or the ones given, every time.

        ``SEGKERNEL_DISABLE`` and ``SEGKERNEL_PREFER`` are comma-separated lists of distributions;
        ``SEGKERNEL_STRICT=1`` makes an unusable distribution fatal.

        Raises:
            IncompatiblePluginError, BrokenPluginError: In strict mode.
        """
        environment = tuple(os.environ.get(f"SEGKERNEL_{key}", "") for key in ("DISABLE", "PREFER", "STRICT"))
        return _scan_installed(*environment) if distributions is None else _scan(distributions, *environment)

    @classmethod
    def current(cls) -> Catalog:
        """Return the catalog of the enclosing `active` block, else that of the installed components."""
        return _active.get() or cls.discover()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this the `current` catalog, so that look-ups by components follow the same preferences."""
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    def prefer(self, distributions: Sequence[str]) -> Catalog:
        """Return a catalog that prefers these; those in ``SEGKERNEL_PREFER`` still come first."""
        return replace(self, preferred=tuple(dict.fromkeys([*self.preferred, *map(normalise, distributions)])))

    def refuse_untrusted(self, what: str, path: str = "") -> None:
        """Raise `UntrustedError` if names are not trusted: ``what``, at the key ``path`` of a config, is refused."""
        if not self.trusted:
            raise errors.UntrustedError(what, path)

    def rows_of(self, group: str) -> list[Row]:
        """Return the usable rows of a group, sorted by name and distribution."""
        _check_group(group)
        rows = [row for row in self.rows if row.group == group and row.status == "ok"]
        return sorted(rows, key=lambda row: (row.name, row.distribution))

    def names(self, group: str) -> list[str]:
        """Return the short names that can be used in a group."""
        return list(dict.fromkeys(row.name for row in self.rows_of(group)))

    def versions(self) -> dict[str, str]:
        """Return the versions of the kernel and of every installed plugin."""
        return dict(sorted({row.distribution: row.version for row in self.rows}.items()))

    def usual(self, group: str) -> str:
        """Return the component of `USUAL` that a spec without ``type`` means."""
        return next((name for name in USUAL[group] if name in self.names(group)), USUAL[group][-1])

    def find(self, group: str, name: str, path: str = "") -> Row:
        """Return the row for a name: short, ``distribution/Name``, or an import path ``module:Name``; ``path`` is the
        config key with the name.

        Raises:
            UnknownComponentError, AmbiguousComponentError, NotInstalledError, IncompatiblePluginError,
            DisabledPluginError: See each.
            UntrustedError: An import path, in a catalog that is not `trusted`.
        """
        _check_group(group)
        if ":" in name:
            self.refuse_untrusted(f"the import path {name}", path)
            return Row(group, name, "", "", name)
        prefix, slash, short = name.rpartition("/")
        distribution = normalise(prefix)
        rows = [row for row in self.rows if (row.group, row.name) == (group, short)]
        if slash:
            rows = [row for row in rows if row.distribution == distribution]
        if usable := self.settle([row for row in rows if row.status == "ok"], short):
            return usable
        if rows:
            raise unusable(rows[0])
        if group == "optimizers" and distribution in ("", "torch") and short in _torch_optimizers():
            return Row(group, short, "torch", importlib_metadata.version("torch"), f"torch.optim:{short}")
        raise self._missing(group, distribution, short)

    def load(self, group: str, name: str) -> Any:
        """Import and return the component that `find` finds.

        Raises:
            BrokenPluginError: When importing it raises; the original error is chained.
        """
        return self.load_row(self.find(group, name))

    def load_row(self, row: Row) -> Any:
        """Import and return the component of a row."""
        module_name, _, attribute = row.value.partition("[")[0].replace(" ", "").partition(":")
        if not row.distribution and not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())  # after installed packages; data-loader workers inherit it
        try:
            return pkgutil.resolve_name(f"{module_name}:{attribute}")
        except (Exception, SystemExit) as error:
            raise _why(row, module_name, attribute, error) from error

    def load_all(self, group: str) -> Iterator[tuple[Row, Any]]:
        """Import a group and yield each row with its component; a broken plugin is only logged."""
        for row in self.rows_of(group):
            try:
                yield row, self.load_row(row)
            except errors.BrokenPluginError as error:
                log.warning("%s", error)

    def choose(self, group: str, asked: str, fits: Callable[[Any], bool]) -> Any:
        """Return the component of a group that fits, or None; of several distributions, the preferred one's.

        Args:
            group: Without prefix: ``exporters``.
            asked: The request, for the message: ``.onnx``.
            fits: Tells whether a component fits.

        Raises:
            AmbiguousComponentError: When several fit and none is preferred.
        """
        found = {row: component for row, component in self.load_all(group) if fits(component)}
        row = self.settle(list(found), asked)
        return found[row] if row else None

    def settle(self, rows: Sequence[Row], asked: str) -> Row | None:
        """Return the only or the preferred row; None for no rows.

        Raises:
            AmbiguousComponentError: When the preferences leave several.
        """
        for distribution in self.preferred:
            rows = [row for row in rows if row.distribution == distribution] or rows
        if len(rows) > 1:
            names = list(dict.fromkeys(row.qualified for row in rows))
            names = names if len(names) > 1 else [row.value for row in rows]
            raise errors.AmbiguousComponentError(rows[0].group, asked, names)
        return rows[0] if rows else None

    def moved(self, name: object) -> str:
        """Return a hint on what replaces ``name`` of other frameworks, from plugins of ``former_names``, or ""."""
        return next(filter(None, (found(str(name)) for _, found in self.load_all("former_names"))), "")

    def why_none(self, group: str, asked: str) -> errors.ComponentError | None:
        """Return why no component of a group fits: its first-party package is missing, disabled or incompatible.

        None when that package is usable.
        """
        home = known.provider_of(group)
        rows = [row for row in self.rows if (row.group, row.distribution) == (group, home)]
        if not rows:
            return errors.NotInstalledError(group, asked, home) if home else None
        return None if rows[0].status == "ok" else unusable(replace(rows[0], name=asked))

    def _missing(self, group: str, distribution: str, short: str) -> Exception:
        """Return the error for a name that no distribution offers."""
        home = known.distribution_of(group, short)
        if home and home not in {row.distribution for row in self.rows} and distribution in ("", home):
            return errors.NotInstalledError(group, short, home)
        rows = self.rows_of(group)
        names = [row.name for row in rows] + (_torch_optimizers() if group == "optimizers" else [])
        near, asked = errors.did_you_mean(short, names), short
        if distribution:
            near = [row.qualified for row in rows if row.name == short or row.name in near]
            asked = f"{distribution}/{short}"
        elsewhere = [row for row in self.rows if row.name == short and row.status == "ok"]
        searched = [f"{row.qualified} is one of the {row.group}" for row in elsewhere]
        searched = searched or sorted({f"{row.distribution} {row.version}" for row in rows})
        return errors.UnknownComponentError(group, asked, near, searched, self.moved(short))


_active: ContextVar[Catalog | None] = ContextVar("catalog", default=None)


def display(value: Any) -> str | None:
    """Return a value as HTML for a notebook, as the first plugin (``displays``) that can draw it does; else None."""
    return next(filter(None, (draw(value) for _, draw in Catalog.current().load_all("displays"))), None)


def normalise(distribution: str) -> str:
    """Return a distribution's name as package indexes compare it: ``Segplug_Heads`` is ``segplug-heads``."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


@functools.cache
def _scan_installed(disable: str, prefer: str, strict: str) -> Catalog:
    return _scan(importlib_metadata.Distribution.discover(), disable, prefer, strict)


def _scan(distributions: Iterable[importlib_metadata.Distribution], disable: str, prefer: str, strict: str) -> Catalog:
    disabled, found = _names(disable), dict[str, list[Row]]()
    for distribution in distributions:
        if PREFIX not in (distribution.read_text("entry_points.txt") or ""):
            continue
        name, version, requirements = _headers(distribution)
        if name in found:  # Python imports the first one on sys.path
            continue
        found[name] = []
        requires, accepted = _handshake(requirements)
        status: Status = "disabled" if name in disabled else "ok" if accepted else "incompatible"
        try:
            entries = [entry for entry in distribution.entry_points if entry.group.startswith(PREFIX)]
        except Exception as error:  # a damaged file can make the parser raise anything
            _report(errors.BrokenPluginError("", "", name, "entry_points.txt", error), strict)
            continue
        if status == "incompatible":
            _report(unusable(Row("", "", name, version, "", status, requires)), strict)
        rows = (Row(e.group[len(PREFIX) :], e.name, name, version, e.value, status, requires) for e in entries)
        found[name] = list(dict.fromkeys(rows))
    # Sorted, as the order of a folder is arbitrary.
    return Catalog(tuple(row for name in sorted(found) for row in found[name]), tuple(_names(prefer)))


def _names(text: str) -> list[str]:
    return [normalise(part) for part in text.split(",") if part.strip()]


def _report(error: Exception, strict: str) -> None:
    if strict not in ("", "0"):
        raise error
    log.warning("%s", error)


def _headers(distribution: importlib_metadata.Distribution) -> tuple[str, str, list[str]]:
    """Return name, version and requirements: parsed line by line, ten times as fast as by the mail parser."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    header = [line.partition(":") for line in text.partition("\n\n")[0].splitlines()]
    single = {key: value.strip() for key, _, value in reversed(header)}
    requirements = [value.strip() for key, _, value in header if key == "Requires-Dist"]
    return normalise(single.get("Name", "unknown")), single.get("Version", "0"), requirements


def _handshake(requirements: Iterable[str]) -> tuple[str, bool]:
    """Return the kernel versions accepted, as a specifier, and whether the running one is among them."""
    from packaging.requirements import InvalidRequirement, Requirement

    asked = [line for line in requirements if re.match(r"seg[-_.]+kernel(?![\w.-])", line, re.IGNORECASE)]
    try:
        parsed = [Requirement(line) for line in asked]
    except InvalidRequirement:
        return asked[0], False
    # A requirement by URL has no specifier to compare.
    needed = [r for r in parsed if r.url is None and (r.marker is None or r.marker.evaluate({"extra": ""}))]
    accepted = all(r.specifier.contains(segkernel.__version__, prereleases=True) for r in needed)
    requires = ",".join(sorted((str(s) for r in needed for s in r.specifier), reverse=True))  # >= before <
    return requires, accepted and not (needed and _is_older(requires))


def _is_older(requires: str) -> bool:
    """Whether a specifier has no lower bound at `CONTRACT` or above: it was written for older contracts."""
    oldest = tuple(map(int, CONTRACT.split(".")))
    bounds = re.findall(r"(?:^|,)(?:>=|>|~=|==)\s*(\d+(?:\.\d+)*)", requires)
    return not any(tuple(map(int, bound.split("."))) >= oldest for bound in bounds)


def _check_group(group: str) -> None:
    if group not in GROUPS:
        near = errors.did_you_mean(group, GROUPS) or GROUPS
        raise errors.UsageError(f"no component group is called {group!r}; available: {', '.join(near)}")


def unusable(row: Row) -> errors.ComponentError:
    """Return the error for an installed component that cannot be used."""
    asked = row.group, row.name, row.distribution
    if row.status == "disabled":
        return errors.DisabledPluginError(*asked)
    contract = CONTRACT if _is_older(row.requires) else ""
    return errors.IncompatiblePluginError(*asked, row.requires, segkernel.__version__, contract)


def _torch_optimizers() -> list[str]:
    """Return the names of torch's own optimisers, which are found after all others, or as ``torch/AdamW``."""
    from torch import optim

    return [name for name, kind in vars(optim).items() if isinstance(kind, type) and issubclass(kind, optim.Optimizer)]


def _why(row: Row, module_name: str, attribute: str, error: BaseException) -> Exception:
    """Return the error of a failed import: the path does not exist, or the module raises."""
    if row.distribution:
        return errors.BrokenPluginError(row.group, row.name, row.distribution, row.value, error)
    if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
        where = f"the current directory {os.getcwd()} and the installed packages, for a module {module_name!r}"
        return errors.UnknownComponentError(row.group, row.name, searched=[where])
    module = sys.modules.get(module_name)  # absent when it raised while being imported
    if isinstance(error, AttributeError) and module is not None:
        near = [f"{module_name}:{name}" for name in errors.did_you_mean(attribute, vars(module))]
        searched = [getattr(module, "__file__", None) or module_name]
        return errors.UnknownComponentError(row.group, row.name, near, searched)
    return errors.BrokenPluginError(row.group, row.name, "", row.value, error)
