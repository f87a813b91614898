"""The shortest form of imported sections: a packaged config as the base, and what differs from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segkernel.config import load_config
from segkernel.config.marks import MarkedDict, mark
from segkernel.errors import SegKernelError
from segplug_heads.configs.zoo import Family, Zoo, read_schedules
from segplug_heads.moving_in.canonical import canonical
from segplug_heads.moving_in.marking import as_list, kind_of, section, types_in

COMPARED = ("model", "data", "optim", "schedule", "engine", "hooks", "evaluate", "seed", "load_from", "work_dir")
"""The sections that an import writes."""

VARIABLES = ("num_classes", "crop_size", "align_corners")
"""Keys of ``data`` that packaged configs refer to."""

_MOST_MODELS = 24  # of one pair of backbone and head


def with_base(name: str, sections: MarkedDict) -> MarkedDict:
    """Return ``_base_: name`` and what differs from it.

    Raises:
        SegKernelError: The base cannot be loaded, or the result would not mean the same as the sections.
    """
    plain = _over(name, MarkedDict(), sections)
    given = _variables(sections)
    base = load_config(name)["data"]
    changed = mark({key: value for key, value in given.items() if base.get(key) != value})
    layer = plain
    if changed and plain:
        referred = _over(name, mark({"data": changed}), sections)
        layer = referred if "num_classes" in changed or size(referred) < size(plain) else plain
    return MarkedDict({"_base_": name, **layer}, places=layer.places)


def means_the_same(layer: Mapping[str, Any], sections: Mapping[str, Any]) -> bool:
    """Whether a config with a base, resolved, means the same as the sections."""
    return same(canonical(compared(load_config(layer))), canonical(compared(sections)))


def compared(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that are compared, without those that are empty or name no value."""
    found = {key: sections[key] for key in COMPARED if sections.get(key)}
    if "data" in found:
        found["data"] = {key: value for key, value in found["data"].items() if key not in VARIABLES}
    if "engine" in found:
        found["engine"] = {key: value for key, value in found["engine"].items() if (key, value) != _ENGINE}
    return {key: value for key, value in found.items() if value}


_ENGINE = ("type", "DDPEngine")  # the engine without a type


def size(layer: Any) -> int:
    """Return the number of values in a layer."""
    if isinstance(layer, Mapping):
        return sum(map(size, layer.values())) + bool(layer)
    return sum(map(size, layer)) + 1 if isinstance(layer, list) else 1


def closest(sections: MarkedDict, zoos: list[Zoo]) -> MarkedDict | None:
    """Return the sections over the packaged parts that leave least to write; None if none leaves less."""
    data = _closest_data(sections, zoos)
    alone = [data] if data and _same_set(data, sections) else []
    return least(sections, [*(_composed(sections, zoos, data) if data else ()), *alone])


def least(sections: MarkedDict, names: Iterable[str]) -> MarkedDict | None:
    """Return the sections over one of some packaged configs, which leaves least to write; None if none leaves less."""
    best: MarkedDict | None = None
    for name in names:
        try:
            layer = with_base(name, sections)
            if size(layer) < size(best or sections) and means_the_same(layer, sections):
                best = layer
        except SegKernelError:
            continue
        if best is not None and size(best) == 2:  # only the base
            break
    return best


def _same_set(name: str, sections: MarkedDict) -> bool:
    kinds = [(config["data"].get("train") or {}).get("type") for config in (load_config(name), sections)]
    return kinds[0] == kinds[1]


def _closest_data(sections: MarkedDict, zoos: list[Zoo]) -> str:
    """Return the name of the data part that leaves least to write, as a file of its package."""
    names = [f"{zoo.name}::data/{name}.yaml" for zoo in zoos for name in zoo.files("data") if "::" not in zoo.name]
    own = MarkedDict({key: sections[key] for key in ("data", "evaluate") if key in sections})
    sizes = {}
    for name in names if "data" in own else ():
        try:
            sizes[name] = size(with_base(name, own))
        except SegKernelError:
            continue
    return min(sizes, key=sizes.__getitem__, default="")


def _composed(sections: MarkedDict, zoos: list[Zoo], data: str) -> Iterator[str]:
    """Yield MODEL_SCHEDULE_DATA for every model with the same backbone and head."""
    part = Path(data).stem
    backbone, head = (kind_of(section(section(sections, "model"), key)) for key in ("backbone", "decode_head"))
    schedule = _schedule(sections, zoos)
    families = [family for zoo in zoos for family in zoo.families(backbone)] if schedule and backbone and head else []
    fitting = [family for family in families if _has_model(family, backbone, head)]
    models = [f"{family.name}_{name}" for family in fitting for name in family.section("variants")]
    yield from (f"{model}_{schedule}_{part}" for model in models[:_MOST_MODELS])


def _has_model(family: Family, backbone: str, head: str) -> bool:
    """Whether a family has this backbone, and this head as its decode head."""
    found = list(types_in(family.data))
    heads = {str(spec["type"]) for path, spec in found if "decode_head" in path.rpartition(".")[2]}
    return head in heads and backbone in {str(spec["type"]) for _, spec in found}


def _schedule(sections: MarkedDict, zoos: list[Zoo]) -> str:
    """Return the schedule part with the same batch size and length, or the nearest."""
    batch, length = section(sections, "optim").get("batch_size"), section(sections, "schedule").get("iterations")
    batch, length = batch if isinstance(batch, int) else 8, length if isinstance(length, int) else 80_000
    parts = {name: part for zoo in zoos for name, part in read_schedules(zoo, []).items()}
    batches = {name: part.get("optim", {}).get("batch_size") for name, part in parts.items()}
    # Of parts that can be combined, one has the batch size and the other the length.
    layouts = {name: size for name, size in batches.items() if size and "schedule" not in parts[name]}
    counted = {name: section(part, "schedule").get("iterations") for name, part in parts.items()}
    lengths = {name: count for name, count in counted.items() if count and not batches[name]}
    if not (layouts and lengths):
        return ""
    layout = min(layouts, key=lambda name: (abs(layouts[name] - batch), not name.startswith("4x")))
    return f"{layout}-{min(lengths, key=lambda name: abs(lengths[name] - length))}"


def _variables(sections: MarkedDict) -> dict[str, Any]:
    """Return the values that packaged configs refer to, as far as the sections name them."""
    data = section(sections, "data")
    head = next(reversed(as_list(section(sections, "model").get("decode_head"))), None)
    head = head if isinstance(head, Mapping) else {}
    found = {key: head[key] for key in ("num_classes", "align_corners") if key in head}
    crops = [step.get("crop_size") for step in data.get("train_transforms") or () if isinstance(step, Mapping)]
    crop = next(filter(None, (section(data, "preprocess").get("size"), *crops)), None)
    return found | ({"crop_size": list(crop)} if isinstance(crop, (list, tuple)) else {})


def _over(name: str, changes: MarkedDict, sections: MarkedDict) -> MarkedDict:
    """Return ``changes`` and what differs, with them, from a packaged config."""
    config = load_config({"_base_": name, **changes})
    ours, base = compared(sections), compared(config)
    base = {key: value for key, value in base.items() if key in ours or key in ("hooks", "engine")}
    layer = difference(mark_like(sections, ours), base, canonical(ours), canonical(base), config.raw)
    _pin_roots(layer.get("data") or {}, ours.get("data") or {}, config.raw.get("data") or {})
    result = MarkedDict({**changes, **layer}, places={**changes.places, **layer.places})
    if "data" in changes:
        result["data"] = MarkedDict({**changes["data"], **layer.get("data", {})})
    return result


def _pin_roots(layer: Any, ours: Any, raw: Any) -> None:
    """Write the folders of validation and test data where those of the base follow a training set that changes."""
    for part in ("val", "test") if "train" in layer else ():
        mine, other = ours.get(part), raw.get(part)
        if not (isinstance(mine, Mapping) and isinstance(other, Mapping) and mine.get("type") == other.get("type")):
            continue
        if "${" in str(other.get("data_root")) and "data_root" in mine:
            layer.setdefault(part, MarkedDict())["data_root"] = mine["data_root"]


def mark_like(sections: MarkedDict, chosen: dict[str, Any]) -> MarkedDict:
    """Return chosen sections with the places they had."""
    places = {key: place for key, place in sections.places.items() if key in chosen}
    return MarkedDict(chosen, places=places)


def difference(ours: Any, base: Any, ours_canonical: Any, base_canonical: Any, raw: Any) -> MarkedDict:
    """Return the layer that makes of ``base`` what means the same as ``ours``; both are mappings.

    Args:
        ours: What is wanted.
        base: The resolved base.
        ours_canonical: The canonical form of ``ours``.
        base_canonical: That of ``base``.
        raw: The base with its references, over which the layer is laid.
    """
    layer = MarkedDict(place=getattr(ours, "place", None))
    for key in {**ours_canonical, **base_canonical}:
        if key in ours_canonical and key in base_canonical and same(ours_canonical[key], base_canonical[key]):
            continue
        if key not in ours and key not in ours_canonical:
            layer[f"~{key}"] = None
            continue
        mine, other = ours.get(key, ours_canonical.get(key)), base.get(key)
        place = getattr(ours, "places", {}).get(key)
        under = raw.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping) and isinstance(under, Mapping):
            layer[key] = _changed(mine, other, ours_canonical.get(key), base_canonical.get(key), under)
        else:
            layer[key] = mine
        if place is not None:
            layer.places[key] = place
    return layer


def _changed(mine: Any, other: Any, mine_canonical: Any, other_canonical: Any, raw: Any) -> Any:
    """Return the layer of a mapping, or the whole mapping where that drops what the base has."""
    if mine.get("type") != other.get("type"):
        return mine if "type" in mine and "type" in other else MarkedDict({"_delete_": True, **mine})
    if not (isinstance(mine_canonical, Mapping) and isinstance(other_canonical, Mapping)):
        return MarkedDict({"_delete_": True, **mine})
    return difference(mine, other, mine_canonical, other_canonical, raw)


def same(one: Any, other: Any) -> bool:
    """Whether two canonical values are equal, and true is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
