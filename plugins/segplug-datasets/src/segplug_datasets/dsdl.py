"""Data sets described in DSDL, the data set description language of OpenDataLab.

The subset for semantic segmentation is supported: ``defs`` (also those of ``$import``), one struct with a field of
type ``Image`` and one of type ``LabelMap``, one class domain, and ``samples``, inline or in other files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from segkernel.annotations import FileName
from segkernel.errors import DataError
from segplug_datasets.example import write_example
from segplug_datasets.files import DataPrefix, ListedFiles
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.listing import find_named, read_text, resolve
from segplug_datasets.mapping import choose_classes

_SUPPORTED = "supported are samples with one Image and one LabelMap of one class domain"


class DSDLSegDataset(ListedFiles):
    """Images and label files listed in a DSDL description: 0 is the background, followed by its classes in order.

    Args:
        data_root: Root folder of the data set.
        data_prefix: Folders under ``data_root`` to which the description's paths are relative.
        ann_file: The description, a YAML or JSON file under ``data_root``.
        used_labels: Classes to use, in this order; pixels of others are ignored.

    Raises:
        DataError: When the description cannot be read or is not supported, or files are missing.
        UsageError: When ``used_labels`` names an unknown class.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        write_example(folder / "images", folder / "labels", (0, 1, 2, 255), ".jpg", ".png")
        domain = {"$def": "class_domain", "classes": ["cat", "dog"]}
        fields = {"image": "Image", "label_map": "LabelMap[dom=$cdom]"}
        struct = {"$def": "struct", "$params": ["cdom"], "$fields": fields}
        samples = [{"image": f"images/{i}.jpg", "label_map": f"labels/{i}.png"} for i in range(2)]
        description = {
            "$dsdl-version": "0.5.0",
            "defs": {"Pets": domain, "Pair": struct},
            "data": {"sample-type": "Pair[cdom=Pets]", "sample-path": "$local", "samples": samples},
        }
        (folder / "train.yaml").write_text(yaml.safe_dump(description))
        return [{"data_root": str(folder), "ann_file": "train.yaml"}]

    def __init__(
        self,
        data_root: str | Path,
        ann_file: FileName,
        data_prefix: DataPrefix | None = None,
        used_labels: Sequence[str] | None = None,
    ) -> None:
        root, prefix = resolve(data_root), data_prefix or DataPrefix(img_path="", seg_map_path="")
        self.data_root = str(root)
        classes, pairs = read_description(root / ann_file)
        images, masks = root / prefix.get("img_path", ""), root / (prefix.get("seg_map_path") or "")
        firsts = find_named(images, [first for first, _ in pairs], str(root / ann_file))
        seconds = find_named(masks, [second for _, second in pairs], str(root / ann_file))
        names = [str(Path(first).with_suffix("")) for first, _ in pairs]
        labels = LabelSpec(("background", *classes))
        chosen = choose_classes(labels, {"classes": used_labels} if used_labels else {})
        super().__init__(list(zip(names, firsts, seconds)), chosen)


def read_description(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the classes of a description, and the image and label path of each sample.

    Raises:
        DataError: When it cannot be read, or is not supported.
    """
    description = _load(path)
    definitions = _definitions(description, path)
    data = description.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("sample-type"), str):
        raise DataError("not a DSDL description: 'data' with a 'sample-type' is missing", path)
    struct, arguments = _parse_type(data["sample-type"])
    fields = _defined(definitions, struct, "struct", path).get("$fields") or {}
    types = {name: _parse_type(str(kind)) for name, kind in fields.items()}
    images, masks = ([n for n, (kind, _) in types.items() if kind == wanted] for wanted in ("Image", "LabelMap"))
    if len(images) != 1 or len(masks) != 1:
        shown = ", ".join(f"{name}: {kind}" for name, kind in fields.items())
        raise DataError(f"{struct} has the fields {shown or 'none'}; {_SUPPORTED}", path)
    domain = types[masks[0]][1].get("dom", "")
    domain = arguments.get(domain[1:], "") if domain.startswith("$") else domain
    classes = [_plain(name) for name in _defined(definitions, domain, "class_domain", path).get("classes") or ()]
    return classes, _pairs(_samples(data, path), images[0], masks[0], path)


def _load(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path, "the description")
        loaded = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"damaged: {error}", path) from error
    if not isinstance(loaded, dict):
        raise DataError(f"the description must be a mapping, not a {type(loaded).__name__}", path)
    return loaded


def _definitions(description: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the definitions of imported files, overridden by those of the description."""
    found: dict[str, Any] = {}
    for name in description.get("$import") or ():
        places = [path.parent / f"{name}.yaml", path.parent.parent / "defs" / f"{name}.yaml"]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise DataError(f"imports {name!r}, but neither {places[0]} nor {places[1]} exists", path)
        imported = _load(place)
        found |= imported.get("defs", imported)
    return found | (description.get("defs") or {})


def _defined(definitions: Mapping[str, Any], name: str, kind: str, path: Path) -> Mapping[str, Any]:
    found = definitions.get(name)
    if not isinstance(found, Mapping) or found.get("$def") != kind:
        raise DataError(f"no {kind} called {name!r} is defined; {_SUPPORTED}", path)
    return found


def _parse_type(text: str) -> tuple[str, dict[str, str]]:
    """Split ``LabelMap[dom=Pets]`` into its name and its arguments."""
    name, _, rest = text.partition("[")
    pairs = (part.split("=", 1) for part in rest.rstrip().removesuffix("]").split(",") if "=" in part)
    return name.strip(), {key.strip(): value.strip() for key, value in pairs}


def _plain(name: Any) -> str:
    """Return a class name without its parents: ``dog[animal]`` is ``dog``."""
    return re.sub(r"\[.*\]$", "", str(name)).strip()


def _samples(data: Mapping[str, Any], path: Path) -> list[Any]:
    where = data.get("sample-path", "$local")
    if where in ("local", "$local"):
        return list(data.get("samples") or ())
    places = [path.parent / one for one in ([where] if isinstance(where, str) else where)]
    files = [file for place in places for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    return [sample for file in files for sample in _load(file).get("samples") or ()]


def _pairs(samples: Sequence[Any], image: str, mask: str, path: Path) -> list[tuple[str, str]]:
    if not samples:
        raise DataError("the description lists no samples", path)
    for number, sample in enumerate(samples):
        if not isinstance(sample, Mapping) or not all(isinstance(sample.get(key), str) for key in (image, mask)):
            raise DataError(f"sample {number} has no paths for {image!r} and {mask!r}", path)
    return [(sample[image], sample[mask]) for sample in samples]
