"""Named configs of the zoo: found whole, looked up among a family's experiments, or composed from parts.

A name that is looked up nowhere is read as ``MODEL_SCHEDULE_DATA``, three parts that are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segkernel.config.layers import Layers, Source, packaged
from segkernel.config.marks import MarkedDict, MarkedList, brief
from segkernel.config.merge import unknown_key
from segkernel.config.zoo import LOCAL, Family, MissingPackageError, Zoo, provider, read_schedules
from segkernel.errors import ConfigError, Problem, did_you_mean

_PARTS = ("variant", "schedule", "data")


@dataclass(frozen=True)
class Experiment:
    """A name of the zoo, and the parts that it stands for.

    Args:
        name: As published, or MODEL_SCHEDULE_DATA.
        family: Where the model is; None for a whole config.
        variant: Key in the family's ``variants``; None for the bare base.
        schedule: Name of the schedule part, such as ``4xb2-80k``; None for none.
        data: Name of the data part; None for none.
        own: What the experiment itself says.
        source: The file of a whole config.
        place: Where it is listed.
    """

    name: str
    family: Family | None = None
    variant: Any = None
    schedule: str | None = None
    data: str | None = None
    own: MarkedDict | None = None
    source: Source | None = None
    place: str = ""

    @property
    def zoo(self) -> str:
        """The name of the zoo that lists it."""
        zoo = self.family.zoo if self.family else self.source.zoo if self.source else None
        return zoo.name if zoo else ""


def list_experiments(zoos: list[Zoo]) -> Iterator[Experiment]:
    """Yield whole configs and published experiments of every zoo, in the order of look-up."""
    for zoo in zoos:
        for name, path in zoo.files().items():
            source = Source.of(path, zoo)
            yield Experiment(name, source=source, place=source.label)
        for family in zoo.families():
            for name in family.section("experiments"):
                yield published(family, name)


def published(family: Family, name: str) -> Experiment:
    """Describe an entry of a family's ``experiments``; parts that it does not name are those of its name."""
    experiments = family.section("experiments")
    own = experiments[name]
    named = {key: own[key] for key in _PARTS if isinstance(own, MarkedDict) and _names_part(own, key)}
    implied = dict.fromkeys(_PARTS)
    if len(pieces := str(name).rsplit("_", 2)) == 3:
        model, implied["schedule"], implied["data"] = pieces
        implied["variant"] = family.models().get(model, model)
    parts = {**implied, **named}
    place = str(experiments.places.get(name) or "")
    return Experiment(str(name), family, **parts, own=own if isinstance(own, MarkedDict) else None, place=place)


def find_experiment(name: str, zoos: list[Zoo]) -> Experiment:
    """Return what ``name``, or ``distribution::name``, stands for; local configs win over packages.

    Raises:
        ConfigError: Nothing has this name, a part of it is unknown, or several packages have it.
    """
    if "::" in name:
        source = packaged(name, zoos)
        if source.path.is_file():
            return Experiment(source.path.stem, source=source, place=source.label)
        zoos, name = [zoo for zoo in zoos if zoo is source.zoo], name.split("::", 1)[1]
    found = [entry for entry in list_experiments(zoos) if entry.name == name] or list(_composed(name, zoos))
    if not found:
        raise ConfigError([*_unknown(name, zoos), *_broken(zoos)])
    if len(found) > 1 and found[0].zoo != LOCAL and len({entry.zoo for entry in found}) > 1:
        names = " or ".join(dict.fromkeys(f"{entry.zoo}::{name}" for entry in found))
        raise ConfigError(Problem(f"several packages have a config called {name}", hint=f"write {names}"))
    return found[0]


def add_layers(experiment: Experiment, layers: Layers) -> None:
    """Add an experiment's layers: data part, schedule part, family base, variant, and what it says itself.

    Raises:
        MissingPackageError: A part is not found and the package that brings it is not installed.
    """
    if experiment.source is not None:
        return layers.add_file(experiment.source)
    family = experiment.family
    assert family is not None
    layers.problems.extend(family.problems)
    source = Source.of(family.path, family.zoo)
    zoos = sorted(layers.zoos, key=lambda zoo: (zoo.name != LOCAL, zoo is not family.zoo))
    _add_data(experiment, layers, zoos)
    _add_schedule(experiment, layers, zoos)
    if "_meta_" in family.data:
        layers.add(_only(family.data, "_meta_"), source)
    layers.add(family.section("base"), source, (source,))
    if experiment.variant is not None:
        _add_variant(experiment.variant, experiment, layers, source)
    own = experiment.own or MarkedDict()
    layers.add(_without(own, [key for key in _PARTS if key in own and _names_part(own, key)]), source, (source,))
    return None


def _add_data(experiment: Experiment, layers: Layers, zoos: list[Zoo]) -> None:
    if experiment.data is None:
        return None
    for zoo in zoos:
        path = zoo.files("data").get(experiment.data)
        if path is not None:
            return layers.add_file(Source.of(path, zoo), experiment.place)
    names = [name for zoo in zoos for name in zoo.files("data")]
    raise _missing("data", experiment.data, names, zoos, experiment.place)


def _add_schedule(experiment: Experiment, layers: Layers, zoos: list[Zoo]) -> None:
    if experiment.schedule is None:
        return
    known: dict[str, tuple[Any, MarkedDict]] = {}
    for zoo in reversed(zoos):
        known |= read_schedules(zoo, layers.problems)
    names = _tokens(experiment.schedule, known)
    if names is None:
        raise _missing("schedule", experiment.schedule, list(known), zoos, experiment.place)
    for key, group in (known[name] for name in names):
        fragment = group[key]
        if isinstance(fragment, MarkedDict):
            layers.add(fragment, None)
        else:
            message = f"a schedule part must be a mapping, not {brief(fragment)}"
            layers.problems.append(Problem(message, str(key), str(group.places.get(key) or "")))


def _tokens(text: str, known: Any) -> list[str] | None:
    """Split ``4xb2-amp-80k`` at dashes into known names, the longest first; None if it cannot be done."""
    if text in known:
        return [text]
    for end in range(len(text) - 1, 0, -1):
        if text[end] == "-" and text[:end] in known:
            rest = _tokens(text[end + 1 :], known)
            if rest is not None:
                return [text[:end], *rest]
    return None


def _add_variant(
    name: Any, experiment: Experiment, layers: Layers, source: Source, chain: tuple[Any, ...] = (), asked: str = ""
) -> None:
    family = experiment.family
    assert family is not None
    variants = family.section("variants")
    if name not in variants:
        what = f"{family.name} has no variant {name!r}"
        layers.problems.append(unknown_key(name, variants, "variants", asked or experiment.place, what))
        return
    place = str(variants.places.get(name) or "")
    if name in chain:
        circle = " -> ".join(str(link) for link in (*chain[chain.index(name) :], name))
        layers.problems.append(Problem(f"a variant includes itself: {circle}", f"variants.{name}", asked))
        return
    fragment = variants[name]
    if fragment is None:
        return
    if not isinstance(fragment, MarkedDict):
        layers.problems.append(Problem(f"must be a mapping, not {brief(fragment)}", f"variants.{name}", place))
        return
    bases = fragment.get("_base_", MarkedList())
    siblings = [base for base in (bases if isinstance(bases, MarkedList) else [bases]) if base in list(variants)]
    for base in siblings:
        _add_variant(base, experiment, layers, source, (*chain, name), str(fragment.places.get("_base_") or ""))
    layers.add(_without(fragment, ["_base_"]) if siblings else fragment, source, (source, *[source] * len(chain)))


def _composed(name: str, zoos: list[Zoo]) -> Iterator[Experiment]:
    if len(pieces := name.rsplit("_", 2)) < 3:
        return
    model, schedule, data = pieces
    for zoo in zoos:
        for family in zoo.families():
            if model in family.models():
                yield Experiment(name, family, family.models()[model], schedule, data, place=f"config {name}")


def _unknown(name: str, zoos: list[Zoo]) -> list[Problem]:
    if not any(zoo.name != LOCAL for zoo in zoos):
        raise MissingPackageError(
            Problem(f"no config is called {name!r}, and no package with configs is installed", hint=_pip("model"))
        )
    hints = []
    if near := did_you_mean(name, [entry.name for entry in list_experiments(zoos)]):
        hints.append(f"did you mean {' or '.join(near)}?")
    elif len(pieces := name.rsplit("_", 2)) == 3:
        models = [model for zoo in zoos for family in zoo.families() for model in family.models()]
        near = did_you_mean(pieces[0], models)
        hints.append(f"no model is called {pieces[0]!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    return [Problem(f"no config is called {name!r}", hint="\n".join([*hints, "seg-kernel models lists them"]))]


def _broken(zoos: list[Zoo]) -> list[Problem]:
    return [problem for zoo in zoos for family in zoo.families() for problem in family.problems]


def _missing(kind: str, name: str, known: list[str], zoos: list[Zoo], place: str) -> ConfigError:
    message = f"there is no {kind} part {name!r}"
    if provider(kind) not in [zoo.name for zoo in zoos]:
        return MissingPackageError(Problem(message, place=place, hint=_pip(kind)))
    return ConfigError(unknown_key(name, sorted(known), "", place, message))


def _pip(kind: str) -> str:
    return f"pip install {provider(kind)}"


def _names_part(own: MarkedDict, key: str) -> bool:
    """Tell ``data: cityscapes-512x1024``, a part, from ``data: {...}``, a section."""
    return key in own and (own[key] is None or isinstance(own[key], str))


def _only(mapping: MarkedDict, key: str) -> MarkedDict:
    return MarkedDict({key: mapping[key]}, places={key: mapping.places[key]}, place=mapping.place)


def _without(mapping: MarkedDict, keys: list[str]) -> MarkedDict:
    kept = {key: value for key, value in mapping.items() if key not in keys}
    return MarkedDict(kept, places={key: mapping.places[key] for key in kept}, place=mapping.place)
