"""The config source of Detectron's YAML files: ``seg-kernel run e2e_mask_rcnn_R-50-FPN_1x.yaml`` reads one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segkernel.catalog import Catalog
from segkernel.config.layers import YAML, Layers
from segkernel.config.marks import MarkedDict
from segkernel.config.text import read_file
from segkernel.errors import Problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectronFile:
    """A YAML file of Detectron or Detectron.pytorch."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)


class DetectronConfigs:
    """Reads YAML files with Detectron's sections, such as ``MODEL`` with a ``CONV_BODY``.

    Args:
        catalog: Not used.
    """

    def __init__(self, catalog: Catalog) -> None:
        del catalog

    def find(self, name: str, asked: str = "") -> DetectronFile | None:
        """Return the file; None for what is not YAML with sections of Detectron's."""
        from segplug_instances.moving_in.options import is_detectron

        path = Path(name)
        if path.suffix not in YAML or not path.is_file():
            return None
        mapping = read_file(path, str(path), [])
        return DetectronFile(path) if mapping is not None and is_detectron(mapping) else None

    def add_layers(self, found: DetectronFile, layers: Layers) -> None:
        """Add the translated config; options without effect are logged."""
        layer, notes = self.convert(found)
        for note in notes:
            log.warning("%s", note)
        layers.add(layer, (found.path.absolute(),))

    def convert(self, found: DetectronFile) -> tuple[MarkedDict, list[str]]:
        """Return the translated config, and a line for each option without effect."""
        from segplug_instances.moving_in.options import read_options
        from segplug_instances.moving_in.translate import translate

        options = read_options(found.path)
        return translate(options), options.notes()

    def names(self) -> Iterator[str]:
        """Return nothing: files are not listed."""
        return iter(())

    def unknown(self, name: str) -> list[Problem]:
        """Return nothing: other names are not files of this source."""
        return []

    def label(self, path: Path) -> str:
        """Return "", as files have their paths as names."""
        return ""
