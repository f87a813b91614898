"""NYU Depth V2: depth of rooms (Silberman et al., 2012), in the edition for depth estimation (Lee et al., BTS, 2019).

That download has ``nyu_train.txt`` and ``nyu_test.txt``, lines of image, depth and focal length, and folders of scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from segkernel.errors import DataError
from segplug_datasets.prepare.core import Converter, Part, Rule, left_to_more
from segplug_datasets.prepare.output import Job, Output
from segplug_datasets.prepare.sources import SourceFile


def _copy(file: SourceFile, target: str, output: Output) -> None:
    output.copy(target, file)


def _listed(files: Sequence[SourceFile]) -> Iterator[Job]:
    """Yield a copy of each file that a list names: ``cafe_0001a/rgb_00001.jpg`` becomes ``cafe_0001a_00001.jpg``."""
    lists = [file for file in files if file.name.endswith(".txt")]
    for split in ("train", "test"):
        index = next((file for file in lists if file.name.endswith(f"nyu_{split}.txt")), None)
        if index is None:
            raise DataError(f"the download has no nyu_{split}.txt")
        folder = index.name.removesuffix(f"nyu_{split}.txt")
        there = {file.name.removeprefix(folder): file for file in files}
        for line in index.read().decode("utf-8").splitlines():
            for name in line.split()[:2]:
                path = name.strip("/")
                if path not in there:
                    raise DataError(f"names {path}, which is not in the download", index.name)
                short = path.replace("/rgb", "").replace("/sync_depth", "")
                kind = "images" if path.endswith(".jpg") else "annotations"
                target = f"{kind}/{split}/{short}"
                yield Job(target, there[path].stamp, partial(_copy, there[path], target))


CONVERTER = Converter(
    name="nyu",
    title="NYU Depth V2: depth of rooms, 24231 images to train and 654 to test",
    homepage="cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    terms="for research; see the homepage",
    download="nyu.zip with nyu_train.txt, nyu_test.txt and the folders of scenes",
    reads="NYUDataset",
    rules=(
        Rule("list of files", r"nyu_(?:train|test)\.txt", left_to_more),
        Rule("images", r"[^/]+/rgb_\d+\.jpg", left_to_more),
        Rule("depth", r"[^/]+/sync_depth_\d+\.png", left_to_more),
    ),
    parts=(
        Part("train", "images/train", (24231,), ("annotations/train",), (".jpg", ".png")),
        Part("test", "images/test", (654,), ("annotations/test",), (".jpg", ".png")),
    ),
    more=_listed,
)
