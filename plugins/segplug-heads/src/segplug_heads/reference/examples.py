"""An example of a component in YAML: the shortest complete use in a packaged config, or its required arguments."""

from __future__ import annotations

import functools
import types
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from segkernel.annotations import Positive
from segkernel.catalog import Catalog, Row
from segkernel.config.marks import to_builtin
from segkernel.config.packaged import folders
from segkernel.config.text import read_file
from segkernel.interfaces.spec import Spec
from segkernel.signature import (
    LISTS,
    MAPPINGS,
    UNIONS,
    Parameter,
    bare,
    choices_of,
    group_of,
    is_record,
    signature,
    unwrap,
)
from segplug_heads.reference.yaml_text import block

PLACES: dict[str, tuple[str, ...]] = {
    "segmentors": ("model",),
    "backbones": ("model", "backbone"),
    "necks": ("model", "neck"),
    "heads": ("model", "decode_head"),
    "losses": ("model", "decode_head", "loss_decode"),
    "datasets": ("data", "train"),
    "samplers": ("data", "sampler"),
    "transforms": ("data", "train_transforms", "-"),
    "metrics": ("evaluate", "metrics", "-"),
    "engines": ("engine",),
    "optimizers": ("optim", "optimizer"),
    "parameter_groups": ("optim", "paramwise"),
    "schedules": ("schedule", "lr", "-"),
    "hooks": ("hooks", "-"),
    "default_hooks": ("hooks", "-"),
    "exporters": ("export", "-"),
}
"""Where a config names a component of a group; a dash stands for an item of a list."""

GIVEN = {"optimizers": ("params",), "schedules": ("optimizer",)}
"""Arguments that the run passes, not the config."""

SHOWN = 2
"""Optional arguments in the example of a component that has no required ones and occurs in no packaged config."""

_USUAL = {
    "in_channels": 512, "channels": 128, "num_classes": 19, "embed_dims": 64, "classes": ["background", "crack"],
    "images": "images", "masks": "masks", "data_root": "data", "size": [512, 512], "scale": [2048, 512],
    "crop_size": [512, 512], "degree": 10.0,
}  # fmt: skip
_NESTED: dict[str, dict[str, Any]] = {
    "losses": {"type": "CrossEntropyLoss"},
    "datasets": {"type": "FolderDataset", "images": "images", "masks": "masks", "classes": ["background", "crack"]},
    "transforms": {"type": "RandomFlip", "prob": 0.5},
    "backbones": {"type": "ResNetV1c", "depth": 50},
    "heads": {"type": "FCNHead", "in_channels": 2048, "channels": 512, "num_classes": 19},
    "samplers": {"type": "BalancedSampler"},
    "optimizers": {"type": "SGD", "lr": 0.01},
}


def example_of(group: str, row: Row, target: Any, catalog: Catalog) -> Any:
    """Return the spec ``{type: NAME, ...}`` of a component, complete and valid; references of packaged configs stay."""
    parameters = {name: p for name, p in signature(target).items() if name not in GIVEN.get(group, ())}
    required = {name for name, parameter in parameters.items() if parameter.required}
    used = [spec for spec in _used(row.name) if required <= spec.keys() <= {"type", *parameters}]
    used = [spec for spec in used if "${data.train" not in str(spec)]  # what a test set takes from the training set
    if used:
        return _usual(used)
    simple = [name for name, p in parameters.items() if isinstance(p.default, (bool, int, float, str, tuple))]
    shown = {name: parameters[name].default for name in simple[:SHOWN]} if not required else {}
    values = {name: _value(parameters[name], catalog) for name in parameters if name in required}
    return {"type": row.name or row.value, **values, **shown}


def used_at(path: str, kinds: tuple[type, ...]) -> Any:
    """Return the usual value of a key in the packaged configs, or None; a section is that of the config ``starter``."""
    *above, key = path.split(".")
    found = []
    for file, text in _packaged().items():
        if f"{key}:" not in text or (not above and file.stem != "starter"):
            continue
        for node in _mappings(_content(file)) if above else [_content(file)]:
            for step in above:
                node = node.get(step) if isinstance(node, Mapping) else None
            value = node.get(key) if isinstance(node, Mapping) else None
            found += [value] if isinstance(value, kinds) and value not in ({}, []) else []
    return _usual(found) if found else None


def _usual(values: list[Any]) -> Any:
    """Return the most frequent value, of equally frequent ones the shortest."""
    texts = [str(value) for value in values]
    counts = Counter(texts)
    return values[texts.index(min(counts, key=lambda text: (-counts[text], len(text))))]


def placed(group: str, spec: Any) -> str:
    """Return the text of an example at its place in a config."""
    for key in reversed(PLACES.get(group, ())):
        spec = [spec] if key == "-" else {key: spec}
    return block(spec)


def value_of(annotation: Any, name: str, catalog: Catalog) -> Any:
    """Return a value that an annotation allows."""
    kind, constraints = unwrap(annotation)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        arms = [arm for arm in arguments if arm is not types.NoneType]
        return value_of(arms[0], name, catalog)
    if choices := choices_of(kind):
        return choices[0]
    if group := group_of(bare(arguments[0]) if origin is Spec else kind):
        return {**_NESTED.get(group, {"type": next(iter(catalog.names(group)), "NAME")})}
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return [value_of(each, name, catalog) for each in arguments]
    if (origin or kind) in LISTS:
        return [value_of(arguments[0], name, catalog)] if arguments else []
    if is_record(kind):
        return {key: value_of(each.annotation, key, catalog) for key, each in signature(kind).items() if each.required}
    if (origin or kind) in MAPPINGS:
        return {}
    number = {bool: False, int: 2, float: 0.5}.get(kind)
    return (1.0 if constraints and annotation == Positive else number) if number is not None else name


def _value(parameter: Parameter, catalog: Catalog) -> Any:
    value = value_of(parameter.annotation, parameter.name, catalog)
    usual = _USUAL.get(parameter.name)
    return usual if type(usual) is type(value) else value


def _used(name: str) -> Iterator[dict[str, Any]]:
    """Yield every mapping of the packaged configs whose type is ``name``."""
    for path, text in _packaged().items():
        if name in text:
            yield from (spec for spec in _mappings(_content(path)) if spec.get("type") == name)


@functools.cache
def _packaged() -> dict[Path, str]:
    """Return the texts of the packaged config files."""
    paths = [path for folder in folders().values() for path in sorted(folder.rglob("*.yaml"))]
    return {path: path.read_text("utf-8") for path in paths}


@functools.cache
def _content(path: Path) -> Any:
    return to_builtin(read_file(path, str(path), []) or {})


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, Mapping):
        yield dict(value)
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _mappings(item)
