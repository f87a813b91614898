"""COCO-Stuff, the first 10k images (Caesar, Uijlings and Ferrari, 2018), whose labels are MATLAB files.

These contain 0 for unlabelled pixels and COCO's ids 1 to 182, of which 11 are unused; they are written as 0 to 171, to
be read by `COCOStuffDataset` with ``reduce_zero_label: true``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from segkernel.errors import DataError
from segplug_datasets.prepare.coco_stuff164k import USED
from segplug_datasets.prepare.core import Converter, Part, Rule, left_to_more
from segplug_datasets.prepare.matlab import load
from segplug_datasets.prepare.output import Job, Output
from segplug_datasets.prepare.sources import SourceFile
from segplug_datasets.prepare.steps import map_values

_TABLE = {0: 0, **{number: place for place, number in enumerate(USED, 1)}}
_SUFFIXES = (".jpg", "_labelTrainIds.png")


def _write(picture: SourceFile, labels: SourceFile, split: str, name: str, output: Output) -> None:
    output.copy(f"images/{split}/{name}.jpg", picture)
    output.mask(f"annotations/{split}/{name}_labelTrainIds.png", map_values(load(labels)["S"], _TABLE))


def _listed(files: Sequence[SourceFile]) -> Iterator[Job]:
    """Yield the image and labels of each name in the lists of the two parts."""
    there = {file.name.rpartition("/")[2]: file for file in files}
    for split, index in (("train2014", "train.txt"), ("test2014", "test.txt")):
        if index not in there:
            raise DataError(f"the download has no imageLists/{index}")
        for name in there[index].read().decode("utf-8").split():
            missing = [file for file in (f"{name}.jpg", f"{name}.mat") if file not in there]
            if missing:
                raise DataError(f"names {missing[0]}, which is not in the download", there[index].name)
            picture, labels = there[f"{name}.jpg"], there[f"{name}.mat"]
            yield Job(
                f"{split}/{name}", f"{picture.stamp} {labels.stamp}", partial(_write, picture, labels, split, name)
            )


CONVERTER = Converter(
    name="coco_stuff10k",
    title="COCO-Stuff 10k: 9000 images to train, 1000 to test",
    homepage="github.com/nightrome/cocostuff10k",
    terms="annotations CC BY 4.0; the images are Flickr's, under their own terms",
    download="cocostuff-10k-v1.1.zip",
    reads="COCOStuffDataset",
    arguments="reduce_zero_label: true, data_prefix: {img_path: images/train2014, seg_map_path: annotations/train2014}",
    rules=(
        Rule("list of files", r"imageLists/(?:train|test)\.txt", left_to_more),
        Rule("images", r"images/COCO_[^/]+\.jpg", left_to_more),
        Rule("labels", r"annotations/COCO_[^/]+\.mat", left_to_more),
    ),
    parts=(
        Part("train", "images/train2014", (9000,), ("annotations/train2014",), _SUFFIXES),
        Part("test", "images/test2014", (1000,), ("annotations/test2014",), _SUFFIXES),
    ),
    more=_listed,
    in_place=True,
)
