"""The Medical Segmentation Decathlon: ten tasks of CT and MR volumes (Antonelli et al., 2022).

Homepage: medicaldecathlon.com. CC BY-SA 4.0. Needs nibabel: ``pip install "segplug-datasets[medical]"``.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segkernel.annotations import FileName, NonNegativeInt
from segkernel.errors import DataError
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.listing import find_named, read_text, resolve
from segplug_datasets.mapping import Metainfo, choose_classes
from segplug_datasets.volumes import Axis, Volumes


class DecathlonDataset(Volumes):
    """A task of the decathlon, slice by slice or whole: files, classes and modalities come from its ``dataset.json``.

    Args:
        data_root: Folder of the task, ``Task01_BrainTumour``.
        ann_file: The description, under ``data_root``.
        test_mode: Whether to read the test volumes, which have no labels, instead of the training ones.
        metainfo: Some of the classes instead of all, or colours for them.
        axis: Axis along which volumes are sliced.
        window: Lowest and highest intensity, mapped to 0 and 255, uint8; None keeps the values, float32.
        modality: Names of the modalities to read, such as ``FLAIR``, in this order; all when None.
        context: Neighbouring slices on each side that become additional channels.
        whole: Whether samples are volumes instead of slices.

    Raises:
        DataError: When the description or a file in it is missing or damaged.
        ExtraMissingError: When nibabel is missing, on the first read of a volume.
    """

    conformance_exceptions: ClassVar = (
        {} if importlib.util.find_spec("nibabel") else {"constructs": "nibabel is missing"}
    )

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny task into ``folder`` and return the arguments that read it."""
        import nibabel

        rng = np.random.default_rng(0)
        for name, values in (("imagesTr", rng.normal(size=(6, 5, 3, 2))), ("labelsTr", rng.integers(0, 2, (6, 5, 3)))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), folder / name / "a_1.nii.gz")
        description = {
            "modality": {"0": "T1", "1": "T2"},
            "labels": {"0": "background", "1": "tumour"},
            "training": [{"image": "./imagesTr/a_1.nii.gz", "label": "./labelsTr/a_1.nii.gz"}],
            "test": [],
        }
        (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
        return [{"data_root": str(folder)}, {"data_root": str(folder), "modality": ["T2"], "window": [-1, 1]}]

    def __init__(
        self,
        data_root: str | Path,
        ann_file: FileName = "dataset.json",
        test_mode: bool = False,
        metainfo: Metainfo | None = None,
        axis: Axis = "z",
        window: Sequence[float] | None = None,
        modality: Sequence[str] | None = None,
        context: NonNegativeInt = 0,
        whole: bool = False,
    ) -> None:
        root = resolve(data_root)
        self.data_root, path = str(root), resolve(root, ann_file)
        description = _read(path)
        try:
            values = {int(value): name for value, name in description["labels"].items()}
            entries = description["test" if test_mode else "training"]
            pairs = [(one, None) if isinstance(one, str) else (one["image"], one["label"]) for one in entries]
            channels = None if modality is None else _channels(description["modality"], modality, path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a description of a decathlon task: {error!r}", path) from error
        super().__init__(
            _files(root, pairs, path),
            choose_classes(_labels(values), metainfo or {}),
            axis=axis,
            window=window,
            channels=channels,
            context=context,
            whole=whole,
        )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_text(path, "the description"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"the description is damaged: {error}", path) from error
    if not isinstance(content, dict):
        raise DataError("the description must be a mapping", path)
    return content


def _labels(values: Mapping[int, str]) -> LabelSpec:
    order = sorted(values)
    return LabelSpec(tuple(values[value] for value in order), values={value: i for i, value in enumerate(order)})


def _channels(modalities: Mapping[str, str], wanted: Sequence[str], path: Path) -> list[int]:
    numbers = {name.lower(): int(number) for number, name in modalities.items()}
    missing = [name for name in wanted if name.lower() not in numbers]
    if missing:
        raise DataError(f"no modality is called {missing[0]!r}: there are {', '.join(modalities.values())}", path)
    return [numbers[name.lower()] for name in wanted]


def _files(root: Path, pairs: Sequence[tuple[str, str | None]], path: Path) -> list[tuple[str, str, str | None]]:
    """Return (name, image, labels) of the volumes; all files must exist."""
    named = [name for pair in pairs for name in pair if name is not None]
    if not named:
        raise DataError("the description lists no volumes", path)
    places = dict(zip(named, find_named(root, named, str(path))))
    return [
        (Path(image).name.partition(".")[0], places[image], None if label is None else places[label])
        for image, label in pairs
    ]
