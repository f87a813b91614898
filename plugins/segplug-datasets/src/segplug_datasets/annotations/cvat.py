"""CVAT's XML, "CVAT for images 1.1" (docs.cvat.ai, XML annotation format)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import DataError
from segkernel.labels import Color
from segkernel.sample import Sample, Size
from segplug_datasets.annotations.raster import Region, as_points, ellipse, line, rectangle
from segplug_datasets.annotations.records import Records
from segplug_datasets.annotations.rle import from_cvat
from segplug_datasets.annotations.shapes import (
    EXAMPLE,
    AnnotationIndex,
    Shape,
    ShapeDataset,
    ShapeOptions,
    example_images,
    require_declared,
)
from segplug_datasets.left_out import LeftOut
from segplug_datasets.listing import NamedFiles, resolve

_SHAPES = ("polygon", "mask", "box", "ellipse", "polyline")
_OTHERS = ("points", "skeleton", "cuboid")
_SKIPPED = "They are skipped: their pixels are background."


class CvatDataset(ShapeDataset):
    """Images with a CVAT file: the classes are the background and the task's labels, in their order and colours.

    Polygons, masks, boxes (also rotated ones), ellipses and polylines are read; tags, points, skeletons and cuboids
    have no pixels and are skipped. Overlapping shapes are ordered by ``z_order``, then by their order in the file. Only
    file offsets are kept in memory; the shapes of an image are read with it.

    Args:
        ann_file: The XML file, ``annotations.xml``, under ``data_root``.
        images: Folder of the images, under ``data_root``, to which the file's image names are relative; or to its
            subfolder of their subset.
        data_root: Folder to which the other paths are relative.
        line_width: Width of polylines in pixels.
        options: Classes, overlap and so on: the arguments of `ShapeDataset`.

    Raises:
        DataError: When files are missing or damaged, or the file is of a video.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        example_images(folder / "images", EXAMPLE)
        (folder / "annotations.xml").write_text(
            '<?xml version="1.0" encoding="utf-8"?><annotations><meta><task><labels><label><name>cat</name>'
            "<color>#ff0000</color></label></labels></task></meta>"
            '<image id="0" name="0.png" width="16" height="12">'
            '<polygon label="cat" points="1,1;9,1;9,8" z_order="0"/></image>'
            '<image id="1" name="1.png" width="20" height="9"/></annotations>'
        )
        return [{"data_root": str(folder), "ann_file": "annotations.xml", "images": "images"}]

    def __init__(
        self,
        ann_file: str | Path,
        images: str | Path = "",
        data_root: str | Path | None = None,
        line_width: PositiveInt = 10,
        **options: Unpack[ShapeOptions],
    ) -> None:
        root = resolve(data_root)
        self.data_root, self._line_width = str(root), line_width
        self._where = resolve(root, ann_file), resolve(root, images)
        super().__init__(**options)

    def _source(self) -> Path:
        return self._where[0]

    def _open(self) -> AnnotationIndex:
        path, images = self._where
        scan = _Scan(path)
        self._records = Records(path, scan.starts, scan.lengths)
        labels = {name: color for name, color in scan.labels if name} | {
            name: None for name in scan.used if name not in dict(scan.labels)
        }
        colors = [_color(color) for color in labels.values()]
        files = NamedFiles(images)
        inside = [f"{subset}/{name}" if subset else name for name, subset in zip(scan.names, scan.subsets)]
        return AnnotationIndex(
            images,
            [longer if files.find(longer) else name for name, longer in zip(scan.names, inside)],
            np.arange(len(scan.names)),
            scan.annotated,
            list(labels),
            str(path),
            [color for color in colors if color] if all(colors) else (),
            [LeftOut("shapes-without-pixels", scan.passed, "shapes are points, skeletons or cuboids", _SKIPPED)],
        )

    def _shapes(self, sample: Sample, key: Any) -> Iterable[Shape]:
        where = f"{self._records.path}, image {sample.meta['name']}"
        try:
            element = ElementTree.fromstring(self._records.read([key])[0])
        except ElementTree.ParseError:
            raise DataError("the file has changed since the data set was opened", self._records.path) from None
        require_declared(sample, [_whole(element, name, where) for name in ("height", "width")], where)
        return (self._shape(shape, sample.size, where) for shape in element if shape.tag in _SHAPES)

    def _shape(self, shape: ElementTree.Element, size: Size, where: str) -> Shape:
        label = shape.get("label", "")
        if label not in self._ids:
            raise DataError(f"label {label!r} is not defined in the file", where)
        try:
            region, layer = self._region(shape, size, where), int(shape.get("z_order") or 0)
        except (ValueError, OverflowError):
            raise DataError(f"a {shape.tag} of {label!r} has a non-numeric attribute", where) from None
        return Shape(label, region, layer)

    def _region(self, shape: ElementTree.Element, size: Size, where: str) -> Region:
        if shape.tag in ("polygon", "polyline"):
            pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
            points = as_points(np.array(pairs, np.float64), where)
            return (
                self._polygon(points, size, where) if shape.tag == "polygon" else line(points, self._line_width, size)
            )
        if shape.tag == "mask":
            left, top, width, height = (int(float(value)) for value in _several(shape, "left top width height", where))
            return from_cvat(shape.get("rle", ""), left, top, width, height, size)
        degrees = float(shape.get("rotation") or 0)
        if shape.tag == "box":
            box = [float(value) for value in _several(shape, "xtl ytl xbr ybr", where)]
            return rectangle(box[0], box[1], box[2], box[3], size, degrees)
        x, y, radius_x, radius_y = (float(value) for value in _several(shape, "cx cy rx ry", where))
        return ellipse(x, y, radius_x, radius_y, size, degrees)


class _Scan:
    """The byte range of each image of a file, and the labels it declares."""

    def __init__(self, path: Path) -> None:
        self.names: list[str] = []
        self.subsets: list[str] = []
        self.starts: list[int] = []
        self.lengths: list[int] = []
        self.annotated: list[bool] = []
        self.labels: list[list[str]] = []
        self.used: dict[str, None] = {}
        self._open: list[str] = []
        self._is_video = False
        self._path = path
        self.passed = 0
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.buffer_text = True
        self._parser.XmlDeclHandler = self._declared
        self._feed(path)
        if self._is_video and not self.names:
            raise DataError("an export of a video: choose the format CVAT for images 1.1", path)
        if not self.names:
            raise DataError("not a 'CVAT for images 1.1' file: it has no <image>", path)

    def _feed(self, path: Path) -> None:
        try:
            self._whole = path.read_bytes()
            self._parser.Parse(self._whole, True)
        except OSError as error:
            raise DataError(f"the annotations cannot be read: {error.strerror or error}", path) from error
        except expat.ExpatError as error:
            raise DataError(f"damaged XML: {error}", path) from None

    def _declared(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
            raise DataError(f"the annotations are {encoding}: save them as UTF-8", self._path)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._open.append(tag)
        if tag == "image":
            self.names.append(attributes.get("name", ""))
            self.subsets.append(attributes.get("subset", ""))
            self.starts.append(self._parser.CurrentByteIndex)
            self.annotated.append(False)
        elif tag in _SHAPES and self._open[-2:-1] == ["image"]:
            self.annotated[-1] = True
            self.used[attributes.get("label", "")] = None
        elif tag in _OTHERS and self._open[-2:-1] == ["image"]:
            self.passed += 1
        elif tag == "track":
            self._is_video = True
        elif tag == "label":
            self.labels.append(["", ""])

    def _end(self, tag: str) -> None:
        self._open.pop()
        if tag == "image":
            end = self._parser.CurrentByteIndex  # after <image/>, but before </image>
            if self._whole.startswith(b"</image", end):
                end = self._whole.index(b">", end) + 1
            self.lengths.append(end - self.starts[-1])

    def _text(self, text: str) -> None:
        if self._open[-2:] == ["label", "name"]:
            self.labels[-1][0] += text
        elif self._open[-2:] == ["label", "color"]:
            self.labels[-1][1] += text


def _color(text: str | None) -> Color | None:
    """Return the colour ``#rrggbb``; None if the text is not one."""
    try:
        value = bytes.fromhex((text or "").strip().lstrip("#"))
    except ValueError:
        return None
    return (value[0], value[1], value[2]) if len(value) == 3 else None


def _several(shape: ElementTree.Element, names: str, where: str) -> list[str]:
    missing = [name for name in names.split() if shape.get(name) is None]
    if missing:
        raise DataError(f"a {shape.tag} lacks {missing[0]!r}", where)
    return [shape.get(name, "") for name in names.split()]


def _whole(element: ElementTree.Element, name: str, where: str) -> int | None:
    text = element.get(name)
    if text is not None and not text.isdecimal():
        raise DataError(f"the {name} of an image is {text!r}", where)
    return None if text is None else int(text)
