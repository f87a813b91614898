"""Checks of image files: unreadable, different sizes, rotated by EXIF, 16 bits, transparent, tiny."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from segplug_datasets.doctor.findings import Finding
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import FileInfo, SampleInfo
from segplug_datasets.headers import SUFFIXES

SMALL = 16
"""An image with a side shorter than this, in pixels, is probably a mistake."""

WITHOUT = (
    "Repair them, or leave them out: seg-kernel data check ... --write-split FILE writes a list of the valid ones."
)


def check_image_files(part: Part, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    """Yield findings on the files of a set."""
    yield from _unreadable(part.name, samples)
    yield from _sizes(part.name, samples)
    yield from _turned(part.name, samples)
    yield from _drawn_on_stored(part.name, samples)
    yield from _bands(part.name, samples)
    yield from _pages(part.name, samples)
    yield from _empty_objects(part.name, samples)
    yield from _tiny(part.name, samples)
    yield from _suffixes(part.name, samples)


def is_sound(sample: SampleInfo) -> bool:
    """Whether both files of a sample can be read and have the same size."""
    masked = sample.mask is None or (not sample.mask.error and sample.mask.size == sample.image.size)
    return masked and not sample.error and not sample.image.error


def _unreadable(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for sample in samples:
        for kind, info in (("images", sample.image), ("masks", sample.mask)):
            if info is not None and info.error:
                groups[kind, info.error].append(info.path)
    for (kind, error), files in groups.items():
        what = f"{len(files)} {kind} cannot be read: {error}"
        yield Finding("error", f"unreadable-{kind}", where, what, WITHOUT, files)
    refused = [sample for sample in samples if sample.error]
    if refused:
        what = f"{len(refused)} samples cannot be loaded: {refused[0].error.splitlines()[0]}"
        yield Finding("error", "refused-samples", where, what, WITHOUT, [sample.name for sample in refused])


def _sizes(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    """Yield masks whose size is not the image's, grouped by the likely cause."""
    groups: dict[str, list[SampleInfo]] = defaultdict(list)
    for sample in samples:
        if sample.mask is not None and sample.mask.size != sample.image.size and _both_read(sample):
            groups[_mismatch(sample)].append(sample)
    for kind, found in groups.items():
        image, mask = found[0].image.size, found[0].mask.size if found[0].mask else (0, 0)
        what = f"{len(found)} masks differ in size from their image: {mask[0]} x {mask[1]} for {image[0]} x {image[1]}"
        yield Finding("error", kind, where, what, _MISMATCHES[kind], [p.mask.path for p in found if p.mask])


_MISMATCHES = {
    "mask-not-turned": (
        "The image is rotated by its EXIF orientation when it is read, as in viewers; the mask was drawn on it as "
        "stored. Rotate the masks, or store the images upright (exiftran -ai, or jpegtran), and re-annotate the wrong "
        "ones."
    ),
    "mask-transposed": "Height and width are exchanged: the masks were saved transposed. Save them as mask.T.",
    "size-mismatch": "Each pixel of an image needs its label: save the masks at the image's size, without smoothing.",
}


def _mismatch(sample: SampleInfo) -> str:
    mask = sample.mask.size if sample.mask else (0, 0)
    if mask != sample.image.size[::-1]:
        return "size-mismatch"
    turned = sample.mask is not None and (_orientation(sample.image) >= 5) != (_orientation(sample.mask) >= 5)
    return "mask-not-turned" if turned else "mask-transposed"


def _turned(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    turned = [p for p in samples if _both_read(p) and is_sound(p) and _orientations_differ(p)]
    if turned:
        why = (
            "Each file is rotated by its own EXIF orientation when read, and these differ. The sizes fit, "
            "so the masks may have been drawn on the rotated image; check some with seg-kernel data browse. "
            "Storing the images upright removes the ambiguity (exiftran -ai)."
        )
        what = f"{len(turned)} images differ from their masks in EXIF orientation"
        yield Finding("warning", "exif-orientation", where, what, why, [p.image.path for p in turned])


def _drawn_on_stored(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    """Yield annotated images that EXIF rotates: without a declared size, how they were annotated is unknown."""
    turned = [p.image.path for p in samples if p.mask and p.mask.classes and _orientation(p.image) > 1]
    if turned:
        why = (
            "Annotations are assumed to be made on the rotated image, as viewers show it. Those of a program that "
            "ignores EXIF are misplaced: check some with seg-kernel data browse. Storing the images upright removes "
            "the ambiguity."
        )
        what = f"{len(turned)} annotated images are rotated or mirrored by EXIF"
        yield Finding("warning", "exif-orientation", where, what, why, turned)


def _orientations_differ(sample: SampleInfo) -> bool:
    return (
        sample.mask is not None and not sample.mask.classes and _orientation(sample.image) != _orientation(sample.mask)
    )


def _orientation(info: FileInfo) -> int:
    return info.header.orientation


def _bands(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    images = [p.image for p in samples if not p.image.error]
    files = [info for info in images if not info.asked]
    clear = [info.path for info in files if info.header.alpha]
    if clear:
        why = "Transparency is dropped, so hidden pixels become visible. If that matters, add a background."
        yield Finding("warning", "transparent-images", where, f"{len(clear)} images have an alpha channel", why, clear)
    masks = [p.mask for p in samples if p.mask and not p.mask.error and not p.mask.classes]
    clear = [info.path for info in masks if info.header.alpha]
    if clear:
        why = "Transparency is dropped: labels that differ in alpha only are merged."
        yield Finding("warning", "transparent-masks", where, f"{len(clear)} masks have an alpha channel", why, clear)
    deep = [info.path for info in files if info.header.depth > 8 or info.header.floating]
    if deep:
        why = (
            "An ordinary image data set reads the upper 8 bits of each band: the lower ones are lost, and dark images "
            "become black. RasterDataset reads all bits; or convert them with a suitable stretch."
        )
        yield Finding("warning", "deep-images", where, f"{len(deep)} images have more than 8 bits per band", why, deep)
    yield from _grey_among_color(where, images)


def _grey_among_color(where: str, images: Sequence[FileInfo]) -> Iterator[Finding]:
    grey = [info.path for info in images if getattr(info, "grey", False)]
    if grey and len(grey) < len(images):
        why = "Both are read as RGB. If grey ones are from another source, check whether they belong here."
        what = f"{len(grey)} of {len(images)} images are grey, the others in colour"
        yield Finding("note", "grey-and-colour", where, what, why, grey)


def _pages(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    for kind in ("images", "masks"):
        infos = [sample.image if kind == "images" else sample.mask for sample in samples]
        several = [info for info in infos if info is not None and not info.error and info.header.pages > 1]
        if several:
            most = max(info.header.pages for info in several)
            what = f"{len(several)} {kind} have up to {most} pages or frames: only the first is read"
            why = "If the others are bands, RasterDataset stacks them."
            yield Finding("warning", f"further-pages-of-{kind}", where, what, why, [info.path for info in several])


def _empty_objects(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    count = sum(sample.empty_objects for sample in samples)
    if count:
        files = [sample.image.path for sample in samples if sample.empty_objects]
        why = "They are too small, or polygons of fewer than three points: they do not contribute to training."
        yield Finding("note", "objects-without-pixels", where, f"{count} objects have no pixels", why, files)


def _tiny(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    read = [sample.image for sample in samples if not sample.image.error and sample.image.size != (0, 0)]
    single = [info.path for info in read if min(info.size) <= 1]
    if single:
        what = f"{len(single)} images are one pixel high or wide"
        yield Finding("error", "one-pixel-images", where, what, WITHOUT, single)
    small = [info.path for info in read if 1 < min(info.size) < SMALL]
    if small:
        what = f"{len(small)} images have a side shorter than {SMALL} pixels"
        yield Finding("warning", "small-images", where, what, "Networks of stride 32 reduce them to nothing.", small)


def _suffixes(where: str, samples: Sequence[SampleInfo]) -> Iterator[Finding]:
    infos = [info for p in samples for info in (p.image, p.mask) if info is not None and info.header.format]
    wrong = [info for info in infos if _is_misnamed(info)]
    if wrong:
        first = wrong[0]
        what = f"{len(wrong)} files have a wrong suffix: {first.path} is {first.header.format.upper()}"
        why = "They are read by their content. Other tools may reject them, and masks stored as JPEG are damaged."
        yield Finding("warning", "wrong-suffix", where, what, why, [info.path for info in wrong])


def _is_misnamed(info: FileInfo) -> bool:
    known = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
    suffix = "." + info.path.rpartition(".")[2].lower()
    return suffix in known and suffix not in SUFFIXES[info.header.format]


def _both_read(sample: SampleInfo) -> bool:
    return not sample.image.error and sample.mask is not None and not sample.mask.error
