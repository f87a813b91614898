"""A contact sheet: samples, overlays of their masks, and augmented versions.

write_sheet(rows(dataset, transforms, number=12, augmented=3), Path("sheet.html"), "CamVid")
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, SegKernelError
from segkernel.files import replacing
from segkernel.image import opencv
from segkernel.interfaces.data import Transform
from segkernel.labels import IGNORE, Color, default_palette
from segkernel.sample import LabelMap, RasterField, Sample
from segplug_datasets import image
from segplug_datasets.visualize import background_ids, draw

HEIGHT = 240
"""Height of a panel in pixels."""

WIDEST = 4
"""Highest aspect ratio of a panel, width over height."""


@dataclass(frozen=True)
class Strip:
    """Panels with labels of one field: the image, the image with its mask, augmented versions.

    Args:
        panels: Images and label maps as `panel` returns them.
        classes: Names for the legend.
        palette: One RGB colour per class.
    """

    panels: Sequence[tuple[np.ndarray, np.ndarray]]
    classes: Sequence[str] = ()
    palette: Sequence[Color] = ()


@dataclass(frozen=True)
class Row:
    """One sample on the sheet.

    Args:
        name: The sample's name.
        caption: Path, size and fields.
        strips: One per label field; none on an error.
        error: Why the sample could not be drawn.
    """

    name: str
    caption: str
    strips: Sequence[Strip] = ()
    error: str = ""

    @property
    def picture(self) -> np.ndarray | None:
        """All strips with their legends, (H, W, 3) uint8 RGB; None on an error."""
        drawn = [join(each.panels, each.classes, each.palette) for each in self.strips]
        return _stack_rows(drawn) if drawn else None


def rows(
    dataset: Any, transforms: Sequence[Transform] = (), number: int = 12, augmented: int = 0, seed: int = 0
) -> Iterator[Row]:
    """Yield evenly spaced samples of a data set.

    The augmented versions of a sample are exactly those of training with this seed in its first epochs.

    Args:
        dataset: Any `Dataset`.
        transforms: Training transforms.
        number: Number of samples.
        augmented: Number of augmented versions of each.
        seed: Seed of the run.
    """
    if not len(dataset):
        raise DataError("the data set is empty")
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int)).tolist()
    for index in chosen:
        try:
            yield _row(dataset, transforms, index, augmented, seed)
        except (SegKernelError, OSError) as error:
            yield Row(f"sample {index}", "", error=str(error))


def _row(dataset: Any, transforms: Sequence[Transform], index: int, augmented: int, seed: int) -> Row:
    sample = dataset[index]
    if (labels := sample.get("seg")) is not None and labels.array.ndim != 2:
        raise DataError("labels of task multilabel cannot be drawn: a sheet shows one class per pixel")
    images, maps = _arrays(sample)
    bands = sample.image.shape[2] if sample.image.ndim == 3 else 1
    drawn = [(images[-1], maps)] if maps else []
    for pixels, found in _augmented(dataset, transforms, index, augmented, seed):
        both = len(images) > 1 and pixels.shape[2] == len(images) * bands  # concatenated along the channels
        drawn += [(part, found) for part in (np.split(pixels, len(images), 2) if both else [pixels])]
    strips = []
    for name in maps or [""]:
        panels = [panel(pixels, None) for pixels in images] + [
            panel(pixels, found.get(name)) for pixels, found in drawn
        ]
        spec = getattr(dataset, "specs", {}).get(name) if name not in ("", "seg") else dataset
        strips.append(Strip(panels, getattr(spec, "classes", ()), getattr(spec, "palette", ())))
    height, width = sample.size
    caption = f"{height} x {width}, {bands} bands {sample.image.dtype}, {sample.meta.get('path', '')}"
    fields = f", from top to bottom: {', '.join(maps)}" if len(maps) > 1 else ""
    return Row(str(sample.meta.get("name", index)), caption + fields, strips)


def _arrays(sample: Sample) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Return the images of a sample, two for pairs, and its maps (H, W), label maps first."""
    rasters = {name: value.array for name, value in sample.fields.items() if isinstance(value, RasterField)}
    images = [array for array in rasters.values() if array.ndim == 3 and array.shape == sample.image.shape]
    maps = {name: array for name, array in rasters.items() if array.ndim == 2}
    order = sorted(maps, key=lambda name: (name != "seg", not isinstance(sample[name], LabelMap)))
    return [sample.image, *images], {name: maps[name] for name in order}


def _stack_rows(strips: Sequence[np.ndarray]) -> np.ndarray:
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    return np.concatenate(padded)


def _augmented(
    dataset: Any, transforms: Sequence[Transform], index: int, count: int, seed: int
) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Return a sample as drawn in the first epochs of training: its random seed is its position in the order."""
    if not count:
        return []
    from segkernel.data import Loader, draw_order

    loader = Loader(dataset, transforms, micro_batch=1, seed=seed)
    found = []
    for epoch in range(count):
        place = int(np.flatnonzero(draw_order(seed, epoch, len(dataset)) == index)[0])
        batch = next(loader.train_batches(position=epoch * len(dataset) + place))
        rasters = {name: value for name, value in batch.targets.fields.items() if hasattr(value, "numpy")}
        maps = {name: value[0].numpy() for name, value in rasters.items() if value.ndim == 3}
        found.append((batch.images[0].permute(1, 2, 0).numpy(), maps))
    return found


def panel(pixels: np.ndarray, ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return an image resized to `HEIGHT` and its label map; float maps replace the image, in grey.

    Without ``ids``, all labels are `IGNORE`.
    """
    if ids is not None and ids.dtype.kind == "f":
        pixels, ids = ids[..., None], None
    cv2, pixels = opencv(), image.as_rgb(pixels)
    width = min(max(round(pixels.shape[1] * HEIGHT / pixels.shape[0]), 1), WIDEST * HEIGHT)
    smaller = cv2.INTER_AREA if pixels.shape[0] > HEIGHT else cv2.INTER_NEAREST
    small = cv2.resize(pixels, (width, HEIGHT), interpolation=smaller)
    if ids is None:
        return small, np.full((HEIGHT, width), IGNORE, np.uint8)
    return small, cv2.resize(ids.astype(np.uint8), (width, HEIGHT), interpolation=cv2.INTER_NEAREST)


_GAP = 4  # white pixels between two panels


def join(
    panels: Sequence[tuple[np.ndarray, np.ndarray]], classes: Sequence[str], palette: Sequence[Color]
) -> np.ndarray:
    """Return panels side by side, with a legend of the classes that occur; ignored pixels are hatched."""
    pixels, ids = [], []
    for number, (part, labels) in enumerate(panels):
        if number:
            pixels.append(np.full((HEIGHT, _GAP, 3), 255, np.uint8))
            ids.append(np.full((HEIGHT, _GAP), IGNORE, np.uint8))
        pixels.append(_marked(part, labels))
        ids.append(labels)
    return draw(np.concatenate(pixels, 1), np.concatenate(ids, 1), classes=classes, palette=palette)


def _marked(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return an image hatched where labels are ignored; one without labels unchanged."""
    return hatched(pixels, labels) if (labels != IGNORE).any() else pixels


def hatched(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the image with white stripes on ignored pixels."""
    rows_, columns = np.indices(labels.shape)
    return np.where(((labels == IGNORE) & ((rows_ + columns) % 8 < 2))[..., None], np.uint8(255), pixels)


# ---------------------------------------------------------------- writing


def write_sheet(found: Iterator[Row], out: Path, title: str) -> tuple[int, int]:
    """Write rows to one HTML page, or PNG files into a folder; return the numbers of written and failed rows."""
    if out.suffix.lower() in (".html", ".htm"):
        return _write_page(found, out, title)
    written = refused = 0
    for number, row in enumerate(found):
        if (picture := row.picture) is None:
            refused += 1
            continue
        image.write(out / f"{number:03d}_{row.name.replace('/', '_')}.png", picture)
        written += 1
    return written, refused


def _write_page(found: Iterator[Row], out: Path, title: str) -> tuple[int, int]:
    all_rows = list(found)
    body = "\n".join(map(_section, all_rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(_PAGE.format(title=html.escape(title), body=body), encoding="utf-8")
    refused = sum(not row.strips for row in all_rows)
    return len(all_rows) - refused, refused


def _section(row: Row) -> str:
    head = f"<h2>{html.escape(row.name)}</h2><p>{html.escape(row.caption)}</p>"
    if not row.strips:
        return f"<section>{head}<pre>{html.escape(row.error)}</pre></section>"
    return f"<section>{head}{''.join(_strip(strip, row.name) for strip in row.strips)}</section>"


def _strip(strip: Strip, name: str) -> str:
    """Return panels that stand beside each other as far as the screen is wide, and their legend."""
    palette, plain = strip.palette or default_palette(IGNORE), background_ids(strip.classes)
    painted = [image.overlay(_marked(part, ids), ids, palette, unpainted=plain) for part, ids in strip.panels]
    present = sorted(set[int]().union(*(np.unique(ids).tolist() for _, ids in strip.panels)) - {IGNORE})
    legend = "".join(_legend(each, strip.classes, palette, each in plain) for each in present if each < len(palette))
    pictures = "".join(f'<img alt="{html.escape(name, quote=True)}" src="{_data_url(part)}">' for part in painted)
    return f'<div class="row">{pictures}</div><p class="row">{legend}</p>'


def _legend(index: int, classes: Sequence[str], palette: Sequence[Color], is_plain: bool) -> str:
    name = html.escape(classes[index]) if index < len(classes) else f"class {index}"
    square = f'<i style="background:#{bytes(palette[index]).hex()}"></i>'
    return f"<span>{name} (not painted)</span>" if is_plain else f"<span>{square}{name}</span>"


def _data_url(pixels: np.ndarray) -> str:
    cv2 = opencv()
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }}
h2 {{ font-size: 1rem; margin: 1.5rem 0 0; }}
p {{ margin: 0 0 .4rem; color: #555; font-size: .85rem; }}
h1, h2, p {{ overflow-wrap: anywhere; }}
.row {{ display: flex; flex-wrap: wrap; gap: 4px; margin: 0 0 .4rem; }}
.row span {{ margin-right: .8rem; }}
.row i {{ display: inline-block; width: .75rem; height: .75rem; margin-right: .3rem; border: 1px solid #5a5a5a; }}
img {{ max-width: 100%; height: auto; }}
pre {{ color: #a00; white-space: pre-wrap; }}
@media (max-width: 720px) {{ body {{ margin: .75rem; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
