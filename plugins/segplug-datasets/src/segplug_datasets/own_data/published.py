"""Published data sets by name: those of the packaged data configs, and the data set classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkernel.catalog import Catalog
from segkernel.config import load_config
from segkernel.config.packaged import folders
from segkernel.errors import DataError, UsageError, suggest
from segplug_datasets.doctor.parts import SETS, Part, open_part, parts_of_type

_GENERAL = re.compile(
    r"^(Folder|Coco|Cvat|Label|Yolo|Packed|Raster|Volume|Concat|Mix|Mapped|Repeat|Class|Cached|Indexed|Base|Multi|DSDL|Decathlon)"
)


def published_sets(name: str, root: str | None) -> list[Part]:
    """Return the sets of a published data set: ``camvid``, ``cityscapes``, ``StreetScenes``.

    Args:
        name: Name of a packaged data config, its part before the first hyphen, or a data set class.
        root: Folder of the data; None for that of the config.

    Raises:
        UsageError: When no published data set has this name.
        DataError: When the files are missing.
    """
    configs = {
        path.stem: (dist, path) for dist, place in folders().items() for path in sorted(place.glob("data/*.yaml"))
    }
    wanted = _plain(name)
    found = next((one for one in sorted(configs) if _plain(one) == wanted or _plain(one.split("-")[0]) == wanted), None)
    if found is not None:
        data = load_config(str(configs[found][1]))["data"]
        parts = [open_part(one, f"data.{one}", _rooted(data[one], root)) for one in SETS if data.get(one)]
        parts = parts[:-1] if len(parts) == 3 and parts[1].arguments == parts[2].arguments else parts
    else:
        parts = _of_class(name, wanted, root, [*configs])
    problem = next((part.problem for part in parts if part.problem), None)
    if problem:
        where = "pass the folder of the data with --root DIR; seg-kernel data prepare --list shows the converters"
        raise DataError(f"{name}: {problem}\n    {where}")
    return parts


def _of_class(name: str, wanted: str, root: str | None, configs: list[str]) -> list[Part]:
    classes = [row.name for row in Catalog.discover().rows_of("datasets") if not _GENERAL.match(row.name)]
    kind = next((one for one in classes if _plain(one).removesuffix("dataset") == wanted.removesuffix("dataset")), None)
    if kind is None:
        hint = suggest(name, [*dict.fromkeys(one.split("-")[0] for one in configs), *classes])
        raise UsageError(f"{name}: neither a folder nor a published data set; {hint}")
    parts = parts_of_type(kind, root, {})
    for part in parts:
        part.name = part.name if part.name in SETS else "train"
    return parts


def _rooted(spec: Mapping[str, Any], root: str | None) -> dict[str, Any]:
    return {**spec, **({"data_root": str(Path(root))} if root is not None and "data_root" in spec else {})}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
