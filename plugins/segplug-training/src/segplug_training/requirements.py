"""The versions of the installed plugins and of all they require, as a file that ``pip install -r`` takes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


def locked(distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each distribution and of what it requires, at any depth, by name.

    Versions are public ones, ``2.13.0`` for ``2.13.0+cu130``, which package indexes have.
    """
    found: dict[str, str] = {}
    waiting = [(name, "") for name in distributions]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # an optional requirement of this environment
            continue
        found[canonicalize_name(name)] = _public(distribution.version)
        for needed in _required(distribution.requires or [], extra) - seen:
            seen.add(needed)
            waiting.append(needed)
    return dict(sorted(found.items()))


def to_text(versions: dict[str, str]) -> str:
    """Return a requirements file."""
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def read_text(text: str) -> dict[str, str]:
    """Return the versions in a file of `to_text`."""
    pairs = (line.partition("==") for line in text.split())
    return {name: version for name, _, version in pairs}


def _required(lines: Iterable[str], extra: str) -> set[tuple[str, str]]:
    """Return names and extras of the requirements that apply here."""
    found: set[tuple[str, str]] = set()
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # of an old package; pip ignores it as well
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found |= {(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)}
    return found


def _public(version: str) -> str:
    try:
        return Version(version).public
    except InvalidVersion:
        return version
