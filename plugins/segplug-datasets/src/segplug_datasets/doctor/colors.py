"""Checks of colour masks, and of masks with a palette."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segkernel.labels import IGNORE, Color, default_palette
from segplug_datasets.doctor.counts import MaskCounts
from segplug_datasets.doctor.findings import Finding, config_lines
from segplug_datasets.doctor.sample_info import MOST_COLORS
from segplug_datasets.label_spec import LabelSpec

BLACK: Color = (0, 0, 0)
VOID: Color = (224, 224, 192)  # colour of ignored borders in Pascal VOC

_USUAL: tuple[Color, ...] = (BLACK, *default_palette(255))

MOST_CLASSES = 40
"""Blurred masks with more frequent colours than this are probably images."""

FREQUENT = 0.2
"""A colour with at least this share of the pixels is a class: it is not ignored as the void of a published set."""

NEAR = 40
"""Colours that differ by less than this, summed over channels, from a known colour count as its blurred form."""


def check_colors(counts: MaskCounts) -> Iterator[Finding]:
    """Yield findings on colour masks and palettes."""
    colored = [mask for mask in counts.masks if mask.colors]
    if colored:
        yield from _colors(counts, [mask.path for mask in colored])
        numbers = [mask.path for mask in counts.numbers if len(mask.values) > 1]
        if numbers:
            what = f"{len(colored)} masks have colours, {len(numbers)} have numbers"
            why = "Both can be read together only when the numbers are class ids and the colours the palette's."
            yield Finding("warning", "mixed-masks", counts.where, what, why, numbers)
    yield from _palettes(counts)


def _colors(counts: MaskCounts, files: Sequence[str]) -> Iterator[Finding]:
    known = counts.parts[0].colors
    unknown = [color for color, _ in counts.colors.most_common() if color not in known]
    if not unknown:
        return
    blurred = any(mask.header.lossy or mask.distinct > MOST_COLORS for mask in counts.masks if mask.colors)
    if not known:
        yield _unexplained(counts, files, blurred)
        return
    near = [color for color in unknown if any(_distance(color, other) < NEAR for other in known)]
    if blurred or len(near) >= 8:
        what = f"{len(unknown)} colours are not in the palette, {len(near)} of them close to one that is"
        why = "The masks were saved as lossy JPEG or resized with interpolation: export them again as PNG."
        yield Finding("error", "lossy-masks", counts.where, what, why, _files_with(counts, unknown))
        return
    if counts.labels is not None and counts.labels.background is not None:
        return
    what = f"colours {_shown(unknown)} are not in the palette ({_share(counts, unknown):.1%} of the pixels)"
    why = "Add their classes and colours to 'classes' and 'palette', or ignore them, as these lines do."
    ignored = [list(color) for color, class_id in known.items() if class_id == IGNORE]
    fix = config_lines(counts.parts, {"ignore_colors": [*ignored, *map(list, unknown[:64])]})
    yield Finding("error", "unknown-colours", counts.where, what, why, _files_with(counts, unknown), fix=fix)


def _unexplained(counts: MaskCounts, files: Sequence[str], blurred: bool) -> Finding:
    """List the colours of masks without a palette, and guess their classes."""
    found = counts.colors
    if blurred:
        found = Counter({color: count for color, count in found.items() if count >= 0.005 * found.total()})
    if not 0 < len(found) <= MOST_CLASSES:
        what = "masks have hundreds of colours: are these images?"
        return Finding("error", "colour-masks", counts.where, what, "A mask has one value for each class.", files)
    changes, basis = _guess(found, counts)
    what = f"masks have colours, not class ids: {_shown([color for color, _ in found.most_common()], 8)}"
    fix = config_lines(counts.parts, changes) if changes else ""
    why = f"Colours need a palette. {basis}" if fix or not changes else "Colours need a palette."
    if blurred:
        why = "The masks were also saved as lossy JPEG: export them again as PNG first. " + why
    return Finding("error", "colour-masks", counts.where, what, why, files, fix=fix)


def _guess(found: Counter[Color], counts: MaskCounts) -> tuple[dict[str, Any], str]:
    """Return classes, palette and ignored colours for the colours found, and an explanation.

    A published palette is taken if most of its colours occur, and no other; or if it has all classes given by the user.
    These are kept, even if a published set has the same colours.
    """
    named = _named_classes(counts)
    for name, spec in _published().items():
        spare = [color for color in found if color not in spec.palette]
        colors = dict(zip(map(_plain, spec.classes), spec.palette))
        if not set(spare) <= {BLACK, VOID} or len(found) - len(spare) < min(2, len(found)):
            continue
        if not ({_plain(one) for one in named} <= set(colors) if named else _is_typical(found, spec.palette)):
            continue
        classes = named or spec.classes
        palette = [list(colors[_plain(one)]) for one in classes]
        ignored = [list(color) for color in found if list(color) not in palette]
        given = {"classes": list(classes), "palette": palette, **({"ignore_colors": ignored} if ignored else {})}
        return given, f"These lines have the palette of {name}, as most of its colours occur and no others."
    ordered = sorted(found, key=lambda c: (_USUAL.index(c) if c in _USUAL else len(_USUAL), -found[c]))
    if not named:
        common, count = found.most_common(1)[0]
        background = BLACK if BLACK in found else common if 2 * count > found.total() else None
        ordered.sort(key=lambda color: color != background)
        names = ["class_0" if background is None else "background"]
        names += [f"class_{place}" for place in range(1, len(ordered))]
        changes = {"classes": names, "palette": [list(color) for color in ordered]}
        return changes, "These lines list every colour once: put colours and names into the same order."
    left = [color for color in ordered if color != BLACK] if len(ordered) == len(named) + 1 else ordered
    if len(left) != len(named):
        rest = "and list the others in 'ignore_colors', or set 'background'"
        return {}, f"Give the colour of each of the {len(named)} classes in 'palette', {rest}."
    changes = {"classes": list(named), "palette": [list(color) for color in left]}
    if len(left) < len(ordered):
        changes["ignore_colors"] = [list(BLACK)]
    return changes, "These lines list every colour once: put colours and names into the same order."


def _is_typical(found: Counter[Color], palette: Sequence[Color]) -> bool:
    """Whether most colours of a palette occur, and the others found are rare.

    Black, red and green are in many palettes: a few colours in common do not tell which one it is.
    """
    rest = sum(count for color, count in found.items() if color not in palette)
    return 2 * len(set(palette) & set(found)) > len(palette) and rest < FREQUENT * found.total()


def published_palette(classes: Sequence[str]) -> str | None:
    """Return the name of the published set whose palette `_guess` takes with these classes; None if there is none."""
    return next((name for name, spec in _published().items() if tuple(classes) == tuple(spec.classes)), None)


def _named_classes(counts: MaskCounts) -> Sequence[str]:
    """Return the classes given by the user or the data set; empty for the defaults of a folder."""
    part = counts.parts[0]
    by_default = part.type == "FolderDataset" and "classes" not in part.arguments
    return () if counts.labels is None or by_default else counts.labels.classes


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


def _published() -> Mapping[str, LabelSpec]:
    """Return the label specifications whose colours are widely used, those with few colours first."""
    from segplug_datasets import ade20k, aerial, camvid, cityscapes, pascal

    return {
        "CamVid": camvid.LABELS,
        "Cityscapes": cityscapes.LABELS,
        "Pascal VOC": pascal.PascalVOCDataset.spec,
        "ISPRS Vaihingen and Potsdam": aerial.ISPRSDataset.spec,
        "LoveDA": aerial.LoveDADataset.spec,
        "iSAID": aerial.iSAIDDataset.spec,
        "ADE20K": ade20k.LABELS,
    }


def _palettes(counts: MaskCounts) -> Iterator[Finding]:
    """Yield a finding on masks with a palette, or on palettes that contradict each other."""
    masks = [mask for mask in counts.masks if mask.palette]
    if not masks:
        return
    first: dict[int, Color] = {}
    other = [mask for mask in masks if any(first.setdefault(v, color) != color for v, color in mask.palette.items())]
    if other:
        value, color = next((v, c) for v, c in other[0].palette.items() if first[v] != c)
        what = f"palettes differ: {value} is {first[value]} in {masks[0].path} and {color} in {other[0].path}"
        why = (
            "Indices are read, not colours, and each file numbers its own colours: one index is several classes. "
            "Save the masks as colours without a palette, and give 'palette'; or with one palette for all."
        )
        yield Finding("error", "palettes-differ", counts.where, what, why, [mask.path for mask in other])
    elif not counts.unknown:
        why = "The indices are read as class ids; the colours of the palette are for display only."
        yield Finding("note", "palette-masks", counts.where, f"{len(masks)} masks have a palette", why,
                      [mask.path for mask in masks])  # fmt: skip


def _files_with(counts: MaskCounts, colors: Sequence[Color]) -> list[str]:
    wanted = set(colors)
    return [mask.path for mask in counts.masks if not wanted.isdisjoint(mask.colors)]


def _share(counts: MaskCounts, colors: Sequence[Color]) -> float:
    return sum(counts.colors[color] for color in colors) / max(counts.colors.total() + counts.values.total(), 1)


def _distance(first: Color, second: Color) -> int:
    return sum(abs(a - b) for a, b in zip(first, second))


def _shown(colors: Sequence[Color], most: int = 5) -> str:
    more = f" and {len(colors) - most} more" if len(colors) > most else ""
    return ", ".join(f"({r}, {g}, {b})" for r, g, b in colors[:most]) + more
