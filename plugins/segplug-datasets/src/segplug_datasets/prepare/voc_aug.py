"""Pascal VOC 2012 with the labels of more images by Hariharan et al. (Semantic Boundaries Dataset, 2011).

DEST is the folder ``VOCdevkit``. The 10582 images of ``trainaug.txt`` are VOC's 1464 and 9118 of SBD's, which
``aug.txt`` lists: all of SBD's that VOC has neither in train nor in val.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from segplug_datasets.prepare.core import Converter, Part, Rule, left_to_more
from segplug_datasets.prepare.matlab import load
from segplug_datasets.prepare.output import Job, Output
from segplug_datasets.prepare.sources import SourceFile
from segplug_datasets.prepare.steps import copy

_LISTS = "VOC2012/ImageSets/Segmentation"


def _labels(file: SourceFile, target: str, output: Output) -> None:
    output.mask(target, load(file)["GTcls"][0]["Segmentation"][0].astype(np.uint8))


def _lists(files: Sequence[SourceFile]) -> Iterator[Job]:
    """Yield VOC's own lists, and the two that take in SBD's images."""
    found = [file for file in files if file.name.endswith(".txt")]
    texts = {("voc" if "ImageSets" in file.name else "sbd", file.name.rpartition("/")[2]): file for file in found}
    names = {key: file.read().decode("utf-8").split() for key, file in texts.items()}
    train, val = (set(names.get(("voc", name), ())) for name in ("train.txt", "val.txt"))
    more = {name for (kind, _), listed in names.items() if kind == "sbd" for name in listed}
    lists = {name: listed for (kind, name), listed in names.items() if kind == "voc"}
    lists |= {"trainaug.txt": sorted((train | more) - val), "aug.txt": sorted(more - train - val)}
    stamp = " ".join(file.stamp for file in found)
    for name, listed in lists.items():
        target = f"{_LISTS}/{name}"
        yield Job(target, stamp, partial(Output.text, name=target, content="".join(f"{line}\n" for line in listed)))


CONVERTER = Converter(
    name="voc_aug",
    title="Pascal VOC 2012 and the labels of 9118 more images",
    homepage="host.robots.ox.ac.uk/pascal/VOC/voc2012",
    terms="the images are Flickr's, under their own terms; see the homepage",
    download="VOCtrainval_11-May-2012.tar and benchmark.tgz",
    reads="PascalVOCDataset",
    root="VOC2012",
    arguments="ann_file: ImageSets/Segmentation/train.txt",
    rules=(
        Rule("images", r"VOC2012/JPEGImages/([^/]+\.jpg)", lambda m: f"VOC2012/JPEGImages/{m[1]}", copy),
        Rule(
            "labels",
            r"VOC2012/SegmentationClass/([^/]+\.png)",
            lambda m: f"VOC2012/SegmentationClass/{m[1]}",
            copy,
        ),
        Rule(
            "further labels",
            r"dataset/cls/([^/]+)\.mat",
            lambda m: f"VOC2012/SegmentationClassAug/{m[1]}.png",
            _labels,
        ),
        Rule("lists", r"VOC2012/ImageSets/Segmentation/(?:train|val|trainval)\.txt", left_to_more),
        Rule("further lists", r"dataset/(?:train|val)\.txt", left_to_more),
    ),
    parts=tuple(
        Part(name, "VOC2012/JPEGImages", (count,), (f"VOC2012/{masks}",), (".jpg", ".png"), f"{_LISTS}/{name}.txt")
        for name, count, masks in (
            ("train", 1464, "SegmentationClass"),
            ("val", 1449, "SegmentationClass"),
            ("aug", 9118, "SegmentationClassAug"),
        )
    ),
    more=_lists,
    in_place=True,
)
