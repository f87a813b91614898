"""Named configs of the zoo: whole files, published experiments of a family, or ``MODEL_SCHEDULE_DATA``.

Parts are looked up by name; no number is ever read out of a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkernel.config.layers import Layers
from segkernel.config.marks import MarkedDict, MarkedList, as_list, mark, place_of
from segkernel.config.packaged import LOCAL
from segkernel.config.text import read_file
from segkernel.errors import ConfigError, MissingPackageError, Problem, did_you_mean, suggest
from segplug_heads.configs.zoo import PROVIDERS, Family, Zoo, label_of, packaged, read_schedules

_PARTS = ("variant", "schedule", "data")


@dataclass(frozen=True)
class Experiment:
    """A name of the zoo and the parts it is made of.

    Args:
        name: As published, or MODEL_SCHEDULE_DATA.
        zoo: The zoo that lists it.
        place: File and entry that list it.
        path: The file: a whole config, or a family.
        family: Family of the model; None for a whole config.
        variant: Key in the family's ``variants``; None for the bare base.
        schedule: Name of the schedule part, such as ``4xb2-80k``; None for none.
        data: Name of the data part; None for none.
        own: Settings of the experiment itself.
    """

    name: str
    zoo: Zoo
    place: str
    path: Path
    family: Family | None = None
    variant: Any = None
    schedule: str | None = None
    data: str | None = None
    own: MarkedDict = field(default_factory=MarkedDict)

    def meta(self) -> dict[str, Any]:
        """Return its published metadata: paper, licence, metrics."""
        family = self.family.section("_meta_") if self.family else MarkedDict()
        source = self.own if self.family else read_file(self.path, self.place, []) or MarkedDict()
        own = source.get("_meta_")
        return {**family, **(own if isinstance(own, MarkedDict) else {})}


def list_experiments(zoos: Iterable[Zoo], holding: str = "") -> Iterator[Experiment]:
    """Yield whole configs and published experiments of every zoo, in the order of look-up.

    Args:
        zoos: Zoos to search.
        holding: Leaves out the family files that do not hold this text.
    """
    for zoo in zoos:
        for name, path in zoo.files().items():
            yield Experiment(name, zoo, label_of(path, [zoo]), path)
        for family in zoo.families(holding):
            experiments = family.section("experiments")
            for name, value in experiments.items():
                own = value if isinstance(value, MarkedDict) else MarkedDict()
                named = {key: own[key] for key in _named_parts(own)}
                named |= {key: str(part) for key, part in named.items() if key != "variant" and part is not None}
                parts = _parts(str(name), family) | named
                yield Experiment(str(name), zoo, place_of(experiments, name), family.path, family, own=own, **parts)


def find_experiment(name: str, zoos: list[Zoo], asked: str = "") -> Experiment | None:
    """Return what ``name``, or ``distribution::name``, is made of; local configs win over packages.

    Args:
        name: Published, or MODEL_SCHEDULE_DATA.
        zoos: Zoos to search.
        asked: The place that names it, for errors.

    Raises:
        ConfigError: Several packages have this name.
        MissingPackageError: The distribution is not installed.
    """
    if "::" in name:
        zoo, path = packaged(name, zoos, asked)
        if path.is_file() or path.suffix == ".yaml":
            return Experiment(path.stem, zoo, label_of(path, zoos), path)
        zoos, name = [zoo], name.split("::", 1)[1]
    aliases = [family.section("aliases").get(name) for zoo in zoos for family in zoo.families(name)]
    name = next((alias for alias in aliases if isinstance(alias, str)), name)
    found = [entry for entry in list_experiments(zoos, name) if entry.name == name] or list(_composed(name, zoos))
    if not found:
        return None
    if found[0].zoo.name != LOCAL and len({entry.zoo for entry in found}) > 1:
        names = " or ".join(dict.fromkeys(f"{entry.zoo.name}::{name}" for entry in found))
        raise ConfigError(Problem(f"several packages have a config called {name}", hint=f"write {names}"))
    return found[0]


def add_layers(experiment: Experiment, layers: Layers, zoos: list[Zoo]) -> None:
    """Add an experiment's layers: data part, schedule part, family base, variant, and its own settings.

    Raises:
        ConfigError: A part is not found; `MissingPackageError` if the package that brings it is not installed.
    """
    family = experiment.family
    if family is None:
        raise ValueError(f"{experiment.path} is a whole config")
    layers.problems.extend(family.problems)
    zoos = sorted(zoos, key=lambda zoo: (zoo.name != LOCAL, zoo != experiment.zoo))
    if experiment.data is not None:
        files = {name: path for zoo in reversed(zoos) for name, path in zoo.files("data").items()}
        if experiment.data not in files:
            raise _missing("data", experiment.data, experiment.data, files, experiment, zoos)
        layers.add_file(files[experiment.data], experiment.place)
    if experiment.schedule is not None:
        known = {name: part for zoo in reversed(zoos) for name, part in read_schedules(zoo, layers.problems).items()}
        for piece in _pieces(experiment.schedule, known):
            if piece not in known:
                raise _missing("schedule", experiment.schedule, piece, known, experiment, zoos)
            layers.add(known[piece])
    layers.add(family.data.without("base", "variants", "aliases", "experiments"))
    layers.add(family.section("base"), (family.path,))
    if experiment.variant is not None:
        _add_variant(experiment.variant, family, layers, experiment.place)
    layers.add(experiment.own.without(*_named_parts(experiment.own)), (family.path,))


def _add_variant(name: Any, family: Family, layers: Layers, asked: str, chain: tuple[Any, ...] = ()) -> None:
    """Add a variant after those that its ``_base_`` names."""
    variants = family.section("variants")
    if name in chain:
        circle = " -> ".join(str(link) for link in (*chain[chain.index(name) :], name))
        layers.problems.append(Problem(f"a variant includes itself: {circle}", f"variants.{name}", asked))
    elif name not in list(variants):
        problem = Problem(f"{family.name} has no variant {name!r}", "", asked, suggest(name, variants))
        layers.problems.append(problem)
    elif isinstance(fragment := variants[name], MarkedDict):
        for index, base in enumerate(bases := as_list(fragment, "_base_")):
            _add_variant(base, family, layers, place_of(bases, index), (*chain, name))
        layers.add(fragment.without("_base_"), (family.path,) * (len(chain) + 1))


def _pieces(text: str, known: Iterable[str]) -> list[str]:
    """Split ``4xb2-amp-80k`` at dashes, but not inside a known name: the longest that fits comes first."""
    ends = [end for end in range(len(text), 0, -1) if text[end : end + 1] in ("", "-") and text[:end] in known]
    end = ends[0] if ends else (text + "-").index("-")
    return [text[:end], *(_pieces(text[end + 1 :], known) if end < len(text) else [])]


def _composed(name: str, zoos: list[Zoo]) -> Iterator[Experiment]:
    for zoo in zoos:
        for family in zoo.families():
            parts = _parts(name, family)
            if parts and parts["variant"] in family.section("variants"):
                yield Experiment(name, zoo, f"config {name}", family.path, family, own=_windows(family, parts), **parts)


def _windows(family: Family, parts: Mapping[str, Any]) -> MarkedDict:
    """Return a stride of the crop size if the family sets one, which is for its own data's crops."""
    for part in (family.section("base"), family.section("variants")[parts["variant"]]):
        model = part.get("model") if isinstance(part, MarkedDict) else None
        if "stride" in ((model or {}).get("test_cfg") or {}):
            return mark({"model": {"test_cfg": {"stride": "${data.crop_size}"}}})
    return MarkedDict()


def _parts(name: str, family: Family) -> dict[str, Any]:
    """Return the parts of ``MODEL_SCHEDULE_DATA``; empty if the name has not three parts."""
    if len(pieces := name.rsplit("_", 2)) < 3:
        return {}
    return {"variant": family.models().get(pieces[0], pieces[0]), "schedule": pieces[1], "data": pieces[2]}


def _named_parts(own: MarkedDict) -> list[str]:
    """Return which parts are named, as in ``data: cityscapes-512x1024``; ``data: {...}`` is a section."""
    return [key for key in _PARTS if key in own and not isinstance(own[key], (MarkedDict, MarkedList))]


def unknown(name: str, zoos: list[Zoo]) -> list[Problem]:
    """Return the problem of an unknown name, with similar names, and the problems of family files."""
    if "::" in name:
        distribution, _, name = name.partition("::")
        zoos = [packaged(f"{distribution}::", zoos)[0]]
    families = [family for zoo in zoos for family in zoo.families()]
    names = [entry.name for entry in list_experiments(zoos)]
    names += [f"{name}.yaml"] if Path(f"{name}.yaml").is_file() else []
    model = name.rsplit("_", 2)[0]
    models = did_you_mean(model, [known for family in families for known in family.models()])
    before = f"/{name}/"  # weights were published under the names that experiments had before
    published = [entry.name for entry in list_experiments(zoos, before) if before in str(entry.own.get("_meta_"))]
    near = published[:2] or with_all_words(name, names)[:2] or did_you_mean(name, names)
    near = near or [name.replace(model, known, 1) for known in models if model != name]
    hint = f"did you mean {' or '.join(near)}?\n" if near else ""
    problem = Problem(f"no config is called {name!r}", hint=f"{hint}seg-kernel models lists them")
    return [problem, *(problem for family in families for problem in family.problems)]


def with_all_words(name: str, names: Iterable[str]) -> list[str]:
    """Return the names that hold every word of ``name``, shortest first: segformer_b0 is in segformer_mit-b0_..."""
    words = _words(name.replace("+", "plus"))
    return sorted((known for known in names if words and words <= _words(known)), key=len)


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9]+", name.lower()) if word}


def _missing(
    kind: str, name: str, piece: str, known: Iterable[str], experiment: Experiment, zoos: list[Zoo]
) -> ConfigError:
    message = f"unknown {kind} part {name!r}"
    hint = suggest(piece, sorted(known))
    if PROVIDERS[kind] not in [zoo.name for zoo in zoos]:
        return MissingPackageError(Problem(message, "", experiment.place, f"pip install {PROVIDERS[kind]}\n{hint}"))
    return ConfigError(Problem(message, "", experiment.place, hint))
