"""The report as one self-contained HTML page, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from segkernel.labels import Color
from segplug_datasets.metrics.counts import areas, mean, per_class, percent, pixel_accuracy
from segplug_datasets.report.drawing import as_uri, confusion_svg
from segplug_datasets.report.slices import Slice

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1c2330;--soft:#667085;--line:#e2e5ea;--panel:#f6f7f9;--bar:#2563eb}
@media(prefers-color-scheme:dark){:root{--back:#14171c;--text:#e6e8ec;--soft:#98a1b0;--line:#2c323b;--panel:#1c2027;
--bar:#5b8def}}
body{margin:0 auto;max-width:1280px;padding:24px;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:24px;margin:0}h2{font-size:18px;margin:36px 0 10px}p,.soft{color:var(--soft);margin:4px 0 12px}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:110px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:4px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}
.bar{display:inline-block;width:120px;height:9px;background:var(--panel);border:1px solid var(--line);
border-radius:5px;overflow:hidden;vertical-align:middle}.bar i{display:block;height:100%;background:var(--bar)}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;vertical-align:-1px}
.image{margin:0 0 22px}.image figcaption{margin:0 0 4px}
.row{display:grid;grid-template-columns:repeat(4,1fr);gap:6px}.row div{font-size:12px;color:var(--soft)}
.row img{width:100%;display:block;border-radius:4px;margin-top:2px}svg{max-width:100%;height:auto}
h1{overflow-wrap:anywhere}
@media(max-width:720px){body{padding:12px}.row{grid-template-columns:repeat(2,1fr)}.wide svg{max-width:none}
.tile{min-width:80px;padding:8px 10px}.bar{display:none}
table{font-size:13px}th{white-space:normal}th,td{padding:4px 5px}}
"""


@dataclass
class Page:
    """Content of a report page.

    Args:
        title: Name of the run.
        subtitle: Model, data set and time of the evaluation.
        classes: Class names.
        palette: One RGB colour per class.
        confusion: (classes + 2, classes + 1) pixels, rows are true.
        metrics: All metrics of the evaluation, by name.
        bounds: Metric to (low, high), 0 to 1: ``mIoU``, ``aAcc`` and classes as ``IoU.NAME``.
        slices: Parts of the set.
        gallery: (caption, caption to panel) of images, the worst first.
    """

    title: str
    subtitle: str
    classes: Sequence[str]
    palette: Sequence[Color]
    confusion: np.ndarray
    metrics: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    slices: Sequence[Slice] = ()
    gallery: Sequence[tuple[str, Mapping[str, np.ndarray]]] = ()

    def html(self) -> str:
        """Return the page."""
        body = [f"<h1>{escape(self.title)}</h1><p>{escape(self.subtitle)}</p>", self._tiles(), self._classes()]
        body += [self._confusion(), self._slices(), self._gallery(), self._others()]
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        title = f"<title>{escape(self.title)}</title><style>{_STYLE}</style>"
        return f'<!doctype html><html lang="en"><head>{head}{title}</head><body>{"".join(body)}</body></html>\n'

    def _tiles(self) -> str:
        pixels = areas(self.confusion)
        metrics = per_class(pixels)
        tiles = [("mIoU", float(mean(metrics["IoU"]))), ("mAcc", float(mean(metrics["Acc"])))]
        tiles.insert(0, ("aAcc", float(pixel_accuracy(pixels))))
        tiles.append(("mDice", float(mean(metrics["Dice"]))))
        return '<div class="tiles">' + "".join(self._tile(name, value) for name, value in tiles) + "</div>"

    def _tile(self, name: str, value: float) -> str:
        return f'<div class="tile">{name}<b>{percent(value)}</b><span class="soft">{self._range(name)}</span></div>'

    def _range(self, name: str) -> str:
        if name not in self.bounds or math.isnan(self.bounds[name][0]):
            return ""
        low, high = self.bounds[name]
        return f"{percent(low)} to {percent(high)}"

    def _classes(self) -> str:
        pixels = areas(self.confusion)
        metrics, total = per_class(pixels), max(int(pixels[1].sum()), 1)
        header = [
            "class",
            "IoU",
            "",
            *(["interval"] if self.bounds else []),
            "Acc",
            "Precision",
            "Dice",
            "of all pixels",
        ]
        rows = []
        for place, name in enumerate(self.classes):
            value = float(metrics["IoU"][place])
            row = [self._swatch(place) + escape(name), percent(value), _bar(value)]
            row += [self._range(f"IoU.{name}")] if self.bounds else []
            row += [percent(float(metrics[kind][place])) for kind in ("Acc", "Precision", "Dice")]
            rows.append([*row, percent(pixels[1, place] / total)])
        return "<h2>Classes</h2><p>In percent; - is a class that neither occurs nor is predicted.</p>" + _table(
            header, rows
        )

    def _swatch(self, place: int) -> str:
        color = "#" + bytes(self.palette[place]).hex() if place < len(self.palette) else "transparent"
        return f'<span class="swatch" style="background:{color}"></span>'

    def _confusion(self) -> str:
        count = len(self.classes)
        text = "<h2>Confusion</h2><p>Rows are true classes, columns predicted ones; percent of the row's pixels.</p>"
        worst = _confused(self.confusion[:count], self.classes)
        table = _table(["true", "predicted as", "pixels", "of the class"], worst) if worst else ""
        return f'{text}<div class="wide">{confusion_svg(self.confusion, self.classes)}</div>{table}'

    def _slices(self) -> str:
        if not self.slices:
            return ""
        rows = [
            [
                escape(part.kind),
                escape(part.value),
                str(part.images),
                percent(part.miou),
                _bar(part.miou),
                percent(part.accuracy),
            ]
            for part in self.slices
        ]
        return "<h2>Slices</h2>" + _table(["by", "value", "images", "mIoU", "", "aAcc"], rows)

    def _gallery(self) -> str:
        if not self.gallery:
            return ""
        figures = []
        for caption, pictures in self.gallery:
            cells = [
                f'<div>{escape(name)}<img alt="{escape(name)}" src="{as_uri(picture)}"></div>'
                for name, picture in pictures.items()
            ]
            row = f'<div class="row">{"".join(cells)}</div>'
            figures.append(f'<figure class="image"><figcaption>{escape(caption)}</figcaption>{row}</figure>')
        text = "<p>The lowest mean IoU first. Wrong pixels are red, ignored ones dark.</p>"
        return f"<h2>Worst images</h2>{text}{''.join(figures)}"

    def _others(self) -> str:
        rows = [[escape(name), "-" if math.isnan(value) else f"{value:.4g}"] for name, value in self.metrics.items()]
        return "<h2>All metrics</h2>" + _table(["metric", "value"], rows) if rows else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of HTML cells."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _bar(value: float) -> str:
    return "" if math.isnan(value) else f'<span class="bar"><i style="width:{100 * value:.1f}%"></i></span>'


def _confused(counts: np.ndarray, classes: Sequence[str], most: int = 10) -> list[list[str]]:
    """Return the pairs of classes with the most confused pixels, as cells."""
    count = len(classes)
    wrong = counts[:, :count] * (1 - np.eye(count, dtype=np.int64))
    rows = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most].tolist():
        true, given = divmod(place, count)
        if wrong[true, given]:
            share = percent(wrong[true, given] / counts[true].sum())
            rows.append([escape(classes[true]), escape(classes[given]), f"{wrong[true, given]:,}", share])
    return rows
