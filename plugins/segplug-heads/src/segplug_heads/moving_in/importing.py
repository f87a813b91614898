"""A config file of MMSegmentation as one of ours.

imported = import_config(Path("configs/my_config.py"))
imported.layer              # {"_base_": "segformer_mit-b0_...", "data": ...}, imported.notes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkernel.catalog import GROUPS, Catalog
from segkernel.config import load_config
from segkernel.config.marks import MarkedDict
from segplug_heads.configs.experiments import list_experiments
from segplug_heads.configs.zoo import Zoo, find_zoos
from segplug_heads.former_names import MOVED
from segplug_heads.moving_in.files import FormerConfig, read_config
from segplug_heads.moving_in.former import modernize
from segplug_heads.moving_in.limits import refused
from segplug_heads.moving_in.marking import section, types_in, where
from segplug_heads.moving_in.notes import Notes
from segplug_heads.moving_in.recognition import SECTIONS, is_former
from segplug_heads.moving_in.sections import NO_SECTIONS, translate_config
from segplug_heads.moving_in.shortest import closest, least
from segplug_heads.moving_in.training import devices_of


@dataclass
class Imported:
    """An imported config.

    Args:
        source: What was read.
        version: ``0.x`` or ``1.x``.
        sections: All sections it sets.
        layer: The same in its shortest form.
        notes: What could not be carried over.
    """

    source: FormerConfig
    version: str
    sections: MarkedDict
    layer: MarkedDict
    notes: Notes

    @property
    def base(self) -> str:
        """The packaged config that it stands on; "" for none."""
        return str(self.layer.get("_base_", ""))


def import_config(
    path: Path, catalog: Catalog | None = None, devices: int | None = None, folder: Path | None = None
) -> Imported:
    """Read a config of MMSegmentation without running it, and translate it.

    Args:
        path: A file in Python, YAML or JSON.
        catalog: Whose zoos and components are known.
        devices: Number of devices of the run it was written for; None reads it from a name with ``8xb2``.
        folder: MMSegmentation's folder of configs, for bases that are not beside the file.

    Raises:
        ConfigError: It cannot be read, with file, line and reason.
    """
    catalog = catalog or Catalog.discover()
    zoos = find_zoos(catalog)
    source, notes = read_config(path, folder, lambda stem: next(iter(published_names(stem, zoos)), "")), Notes()
    former = is_former(source.config)
    config = modernize(source.config, notes) if former else source.config
    if not any(isinstance(config.get(name), (dict, list)) for name in SECTIONS):
        hint = f"MMSegmentation's have {', '.join(SECTIONS[:-1])} or, in 0.x, data and optimizer"
        raise refused("holds none of the sections of a config of MMSegmentation", path, hint)
    _unread(source, former, notes)
    count = devices or _devices(path.stem, zoos) or _devices_unknown(config, notes)
    sections = translate_config(config, count, notes)
    _unknown_types(sections, catalog, notes)
    if source.packaged:
        layer = MarkedDict({"_base_": source.packaged[-1], **sections}, places=sections.places)
    else:
        layer = shorten(sections, _experiments_in(source), zoos)
    return Imported(source, "0.x" if former else "1.x", sections, layer, notes)


def _experiments_in(source: FormerConfig) -> list[str]:
    """Return the names of the file and of its bases, without the parts that those are composed of."""
    paths = [Path(name) for name in source.texts]
    return [path.stem for path in paths if "_base_" not in path.parts]


def shorten(sections: MarkedDict, files: list[str], zoos: list[Zoo]) -> MarkedDict:
    """Return the sections over the packaged config that leaves least to write, or as they are.

    Args:
        sections: All sections.
        files: Names of the file and of those that it stands on; a packaged experiment of such a name comes first.
        zoos: Where packaged parts are.
    """
    for stem in files:
        layer = least(sections, published_names(stem, zoos))
        if layer is not None:
            return layer
    return closest(sections, zoos) or sections


def published_names(stem: str, zoos: list[Zoo]) -> list[str]:
    """Return the packaged experiments that were published under a name of 1.x or 0.x."""
    if not stem.isascii() or not stem:
        return []
    before = f"/{stem}/"  # weights were published under the names of 0.x
    entries = [entry for entry in list_experiments(zoos, stem) if entry.family]
    exact = [entry.name for entry in entries if entry.name == stem]
    aliases = [family.section("aliases").get(stem) for zoo in zoos for family in zoo.families(stem)]
    former = [entry.name for entry in entries if before in str(entry.own.get("_meta_"))]
    return exact or [str(name) for name in aliases if name] or former


def _devices(stem: str, zoos: list[Zoo]) -> int | None:
    """Return the number of devices that a name tells, or that of the experiment published under it."""
    return devices_of(stem) or next(filter(None, map(devices_of, published_names(stem, zoos))), None)


def _unread(source: FormerConfig, is_former: bool, notes: Notes) -> None:
    """Note the mappings with a ``type`` that neither a section nor an expression refers to."""
    known = {*MOVED, *SECTIONS, *NO_SECTIONS, *(("optimizer", "data") if is_former else ())}
    for key, value in source.config.items():
        has_type = isinstance(value, MarkedDict) and "type" in value
        if has_type and key not in known and key not in source.used:
            notes.lost(source.config, key, "this name is no section of MMSegmentation and is not read")


def _devices_unknown(config: MarkedDict, notes: Notes) -> int:
    loader = section(config, "train_dataloader")
    if "batch_size" in loader:
        what = f"train_dataloader.batch_size={loader['batch_size']}"
        why = "taken as the total of all devices; with several: seg-kernel import --devices N, or optim.batch_size"
        notes.say(what, why, where(loader, "batch_size"))
    return 1


def _unknown_types(sections: MarkedDict, catalog: Catalog, notes: Notes) -> None:
    """Note the components that no installed package offers."""
    known = {name for group in GROUPS for name in catalog.names(group)}
    foreign: list[str] = []
    for path, spec in types_in(sections):
        name = str(spec["type"])
        if name == "Albu":
            foreign.append(path)  # the transforms inside are those of albumentations
        if name in known or ":" in name or _is_layer(path) or path.startswith(tuple(foreign)):
            continue
        why = catalog.moved(name) or (
            "no installed package offers it: install the package that does, make one of its module with seg-kernel "
            "new-plugin NAME --from FILE (docs: moving-in-plugins/), or write type: MODULE:CLASS for a class that is "
            "built on segkernel"
        )
        notes.say(f"{path}.type={name}", why, where(spec, "type"))


def _is_layer(path: str) -> bool:
    """Whether a type is that of a norm, activation or convolution, or torch's own optimiser."""
    return (
        path == "optim.optimizer" or path.endswith("_cfg") or path.rpartition(".")[2] in ("dropout_layer", "upsample")
    )


def resolved(imported: Imported) -> Any:
    """Return the whole config, with its base."""
    return load_config(imported.layer)
