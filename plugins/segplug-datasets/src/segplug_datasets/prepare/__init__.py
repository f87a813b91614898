"""Converters from a published data set's download to the layout that its data set class reads.

    seg-kernel data prepare potsdam downloads/potsdam data/potsdam

One module per data set, each with its `Converter` as ``CONVERTER``; nothing is ever downloaded.
"""

from __future__ import annotations

import importlib

from segkernel.errors import UsageError, suggest
from segplug_datasets.prepare.core import Converter, Part, Report, Rule, prepare

NAMES = (
    *("chase_db1", "cityscapes", "coco_stuff10k", "coco_stuff164k", "drive", "hrf", "isaid", "levircd", "loveda"),
    *("mapillary", "nyu", "pascal_context", "potsdam", "refuge", "stare", "synapse", "vaihingen", "voc_aug"),
)
"""The data sets that have a converter."""

__all__ = ["NAMES", "Converter", "Part", "Report", "Rule", "find", "prepare"]


def find(name: str) -> Converter:
    """Return the converter of a data set.

    Raises:
        UsageError: When none has this name.
    """
    wanted = name.lower().replace("-", "_")
    if wanted not in NAMES:
        hint = f"{suggest(wanted, NAMES)}\n    seg-kernel data prepare --list"
        raise UsageError(f"no converter is called {name!r}: {hint}")
    converter: Converter = importlib.import_module(f"{__name__}.{wanted}").CONVERTER
    return converter
