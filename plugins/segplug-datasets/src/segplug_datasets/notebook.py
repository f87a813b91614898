"""How predictions, samples, data sets and configs show themselves in a notebook: a picture, a table.

`show` is what their ``_repr_html_`` calls; pictures are data URIs of at most `SIDE` pixels a side.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.config import Config
from segkernel.errors import SegKernelError
from segkernel.image import opencv
from segkernel.labels import IGNORE, Color, default_palette
from segkernel.sample import Prediction, Sample
from segplug_datasets.image import as_rgb, overlay, read

SIDE = 640
"""Most pixels a side of a picture; larger ones are reduced."""
SHOWN = 4
"""Samples of a data set that are drawn."""


def show(value: Any) -> str | None:
    """Return an object as HTML; None for other kinds.

    Args:
        value: A `Prediction`, a `Sample`, a `Config`, or a data set.
    """
    if isinstance(value, Config):
        return _config(value)
    if isinstance(value, Prediction):
        return _prediction(value)
    if isinstance(value, Sample):
        return _sample(value)
    return _dataset(value) if hasattr(value, "classes") and hasattr(value, "__getitem__") else None


def _config(config: Config) -> str:
    lines = config.to_yaml().splitlines()
    starts = [index for index, line in enumerate(lines) if not line.startswith((" ", "-"))]
    sections = (lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)]))
    blocks = (
        f"<details><summary><code>{escape(head)}</code></summary><pre>{escape(chr(10).join(rest))}</pre></details>"
        if rest
        else f"<code>{escape(head)}</code><br>"
        for head, *rest in sections
    )
    return f"<b>Config {escape(config.name)}</b> <small>{escape(config.source)}</small>{''.join(blocks)}"


def _prediction(prediction: Prediction) -> str | None:
    labels, known = prediction.get("seg"), prediction.meta.get("labels")
    if not hasattr(labels, "shape"):  # not a map
        return None
    array = np.asarray(labels.detach().cpu())
    palette = known.palette if known else default_palette(IGNORE)
    picture = _picture(_image_of(prediction, array.shape[-2:]), array, palette)
    rows = _shares(array, known.classes if known else (), palette)
    return f"{picture}{_table(('', 'class', 'pixels'), rows)}"


def _image_of(prediction: Prediction, size: tuple[int, ...]) -> np.ndarray:
    """Return the predicted image; black when it is not known, or has changed since."""
    image = prediction.meta.get("image")
    try:
        pixels = read(image) if isinstance(image, str | Path) else getattr(image, "image", image)
        pixels = None if pixels is None else as_rgb(pixels)
    except SegKernelError:
        pixels = None
    return pixels if pixels is not None and pixels.shape[:2] == tuple(size) else np.zeros((*size, 3), np.uint8)


def _sample(sample: Sample, classes: Sequence[str] = (), palette: Sequence[Color] = ()) -> str:
    label = sample.get("seg")
    palette = palette or default_palette(IGNORE)
    array = None if label is None else _planes(label.array)
    fields = [("image", f"{sample.image.shape} {sample.image.dtype}")]
    fields += [
        (name, f"{type(field).__name__} {field.array.shape} {field.array.dtype}")
        for name, field in sample.fields.items()
    ]
    shares = "" if array is None else _table(("", "class", "pixels"), _shares(array, classes, palette))
    name = escape(str(sample.meta.get("name", "")))
    rows = [(escape(key), escape(text)) for key, text in fields]
    return (
        f"<b>{name}</b><br>{_picture(as_rgb(sample.image), array, palette)}{_table(('field', 'values'), rows)}{shares}"
    )


def _planes(labels: np.ndarray) -> np.ndarray:
    """Return labels for `overlay`: a multi-label map (H, W, K) has its classes first there."""
    return np.moveaxis(labels, 2, 0) if labels.ndim == 3 else labels


def _dataset(dataset: Any) -> str:
    classes, palette = tuple(dataset.classes), tuple(dataset.palette)
    head = f"<b>{escape(type(dataset).__name__)}</b>: {len(dataset)} samples, {len(classes)} classes"
    cells = "".join(
        f"<td style='text-align:center'>{_thumbnail(dataset, index, palette)}</td>"
        for index in range(min(SHOWN, len(dataset)))
    )
    names = [(_square(color), escape(str(name))) for name, color in zip(classes, palette)]
    return f"{head}<table><tr>{cells}</tr></table>{_table(('', 'class'), names)}"


def _thumbnail(dataset: Any, index: int, palette: Sequence[Color]) -> str:
    try:
        sample = dataset[index]
        label = sample.get("seg")
        array = None if label is None else _planes(label.array)
        caption = str(sample.meta.get("name", index))
        return f"{_picture(as_rgb(sample.image), array, palette, SIDE // 3)}<br><small>{escape(caption)}</small>"
    except (SegKernelError, OSError) as error:
        return f"<small>{escape(str(error))}</small>"


def _picture(image: np.ndarray, labels: np.ndarray | None, palette: Sequence[Color], side: int = SIDE) -> str:
    """Return an image with labels over it as ``<img>``, reduced to ``side`` pixels."""
    cv2, factor = opencv(), min(side / max(image.shape[:2]), 1)
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if labels is not None:
        rows = (np.arange(size[1]) * image.shape[0] // size[1])[:, None]
        small = overlay(small, labels[..., rows, np.arange(size[0]) * image.shape[1] // size[0]], palette)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    data = base64.b64encode(encoded.tobytes()).decode()
    return f"<img width='{size[0]}' height='{size[1]}' src='data:image/jpeg;base64,{data}'>"


def _shares(labels: np.ndarray, classes: Sequence[str], palette: Sequence[Color]) -> list[tuple[str, str, str]]:
    """Return a row for each class that occurs: colour, name and share of the pixels, the largest first."""
    if labels.dtype.kind == "f":
        return []
    planes: Mapping[int, int]
    if labels.ndim == 3:
        planes = {index: int((plane == 1).sum()) for index, plane in enumerate(labels)}
    else:
        planes = dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True))))
    total = max(labels.shape[-1] * labels.shape[-2], 1)
    found = sorted(((count, index) for index, count in planes.items() if count), reverse=True)
    names = dict(enumerate(classes)) | {IGNORE: "(ignored)"} if labels.ndim == 2 else dict(enumerate(classes))
    colors = dict(enumerate(palette[:IGNORE]))
    return [
        (_square(colors.get(index)), escape(str(names.get(index, f"class {index}"))), f"{count / total:.1%}")
        for count, index in found
    ]


def _square(color: Color | None) -> str:
    if color is None:
        return ""
    shade = ",".join(map(str, color))
    return f"<span style='display:inline-block;width:1em;height:1em;background:rgb({shade})'></span>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return cells, HTML already, as a table; nothing without rows."""
    if not rows:
        return ""
    lines = ["".join(f"<th>{cell}</th>" for cell in head), *("".join(f"<td>{c}</td>" for c in row) for row in rows)]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
