"""Mapillary Vistas 1.2 and 2.0: street scenes (Neuhold et al., 2017).

The label files' palette indices are the class ids, which are written as plain numbers; colours of edition 1.2, as
written by other tools, are converted to ids too. In edition 2.0 several classes share a colour, so its colours cannot
be converted.
"""

from __future__ import annotations

import re

from segkernel.errors import DataError
from segplug_datasets.mapillary import MapillaryDataset_v1
from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.output import Output
from segplug_datasets.prepare.sources import SourceFile
from segplug_datasets.prepare.steps import colors_to_ids, copy, read

_PALETTE = MapillaryDataset_v1.spec.palette
_NO_COLOR = (1, 1, 1)  # takes the place that unknown colours get


def _labels(file: SourceFile, target: str, output: Output) -> None:
    raw = read(file, raw=True)
    if raw.ndim == 3 and "/v2.0/" in target:
        message = "colours of edition 2.0, of which several classes share some: use the files as downloaded"
        raise DataError(message, file.name)
    if raw.ndim == 3:
        places = colors_to_ids(raw, (_NO_COLOR, *_PALETTE))
        if not places.all():
            raise DataError("colours that edition 1.2 does not have: use the files as downloaded", file.name)
        raw = places - 1
    output.mask(target, raw)


def _label_place(match: re.Match[str]) -> str:
    return f"{match[1].lower()}/{(match[2] or 'v1.2/').lower()}labels/{match[3]}"


def _folders(split: str) -> tuple[str, ...]:
    return tuple(f"{split}/{edition}/labels" for edition in ("v1.2", "v2.0"))


CONVERTER = Converter(
    name="mapillary",
    title="Mapillary Vistas: 25000 street scenes, editions 1.2 and 2.0",
    homepage="www.mapillary.com/dataset/vistas",
    terms="CC BY-NC-SA, for research; after registration",
    download="the archive of edition 1.2 or 2.0",
    reads="MapillaryDataset_v1, MapillaryDataset_v2",
    rules=(
        Rule(
            "images",
            r"(training|validation|testing)/images/([^/]+\.jpg)",
            lambda m: f"{m[1].lower()}/images/{m[2]}",
            copy,
        ),
        Rule("labels", r"(training|validation)/(v1\.2/|v2\.0/)?labels/([^/]+\.png)", _label_place, _labels),
    ),
    parts=(
        Part("train", "training/images", (18000,), _folders("training"), (".jpg", ".png")),
        Part("val", "validation/images", (2000,), _folders("validation"), (".jpg", ".png")),
        Part("test", "testing/images", (5000,), suffixes=(".jpg", ".png")),
    ),
)
