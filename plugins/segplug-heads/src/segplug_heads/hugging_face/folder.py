"""A folder that transformers has saved: its files, and the config that they amount to.

folder = read_folder(Path("segformer-b0-finetuned-ade-512-512"))
folder.config()                      # the sections model, data and _meta_
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from segkernel.config.marks import MarkedDict, Place
from segkernel.errors import CheckpointError, ConfigError, Problem
from segplug_heads.hugging_face import FAMILIES
from segplug_heads.hugging_face.image_processor import preprocessing_of

log = logging.getLogger(__name__)

CONFIG, PROCESSOR, CARD = "config.json", "preprocessor_config.json", "README.md"
SUFFIXES = (".safetensors", ".bin")
USUAL = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights of a model that transformers has saved, the best first."""
NUM_CLASSES = "data.num_classes"
CLASS = "_model_class"
"""Key of the configs of segmentation_models_pytorch."""
_MOST_BYTES = 20_000_000  # far above any config


@dataclass(frozen=True)
class Folder:
    """The files of one model, except its weights.

    Args:
        path: The folder.
        values: Content of ``config.json``.
        processor: Content of ``preprocessor_config.json``; None without that file.
    """

    path: Path
    values: Mapping[str, Any]
    processor: Mapping[str, Any] | None

    @property
    def model_type(self) -> str:
        """The name of the family in transformers; ``smp`` for segmentation_models_pytorch."""
        return "smp" if CLASS in self.values else str(self.values["model_type"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes, from ``id2label``; one that occurs twice has its number appended."""
        count = self.values.get("num_labels", max(2, self.values.get("classes", 1)))
        names = self.values.get("id2label") or {str(index): f"LABEL_{index}" for index in range(count)}
        classes: list[str] = []
        for index in sorted(names, key=int):
            name = str(names[index])
            classes.append(f"{name} {index}" if name in classes else name)
        return classes

    @property
    def weights(self) -> Path:
        """The file of weights: the best if there are several, the first of the parts of a large model.

        Raises:
            CheckpointError: There is none.
        """
        for pattern in (USUAL[0], "model-00001-of-*.safetensors", USUAL[1], "*.safetensors"):
            if found := sorted(self.path.glob(pattern)):
                return found[0]
        raise CheckpointError(f"{self.path}: has {CONFIG}, but no weights: {' or '.join(USUAL)}")

    @cached_property
    def card(self) -> dict[str, str]:
        """The plain entries at the top of the model card, such as ``license``."""
        try:
            text = (self.path / CARD).read_text("utf-8", "replace")[:20_000]
        except OSError:
            return {}
        header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        lines = re.findall(r"^(\w+):[ \t]*(\S.*)$", header[1], re.MULTILINE) if header else []
        return {key: value.strip().strip("\"'") for key, value in lines}

    def config(self) -> MarkedDict:
        """Return the sections ``model``, ``data`` and ``_meta_`` of a config, marked as written in ``config.json``.

        Raises:
            ConfigError: The model is none of those in `FAMILIES`, or a value in it has no counterpart here.
        """
        place = str(self.path / CONFIG)
        self._check_family(place)
        try:
            family = import_module(f"{__package__}.{self.model_type}")
            # A null stands for the default.
            model = family.segmentor({key: value for key, value in self.values.items() if value is not None})
            if self.model_type == "smp":  # which saves no image processor
                data = family.data(self.values)
            else:
                preprocess, transforms = preprocessing_of(self.processor, self.model_type)
                data = {"preprocess": preprocess, "eval_transforms": transforms}
            if NUM_CLASSES in str(model):  # depths have none
                data = {"num_classes": len(self.classes), **data}
        except ConfigError as error:
            raise ConfigError([Problem(p.message, p.path, p.place or place, p.hint) for p in error.problems]) from error
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            message = f"is not a valid config of model_type {self.model_type!r}: {type(error).__name__}: {error}"
            raise ConfigError(Problem(message, place=place)) from error
        return _marked({"model": model, "data": data, "_meta_": self._meta()}, Place(place))

    def _check_family(self, place: str) -> None:
        if self.model_type not in FAMILIES:
            hint = f"supported: {', '.join(sorted(FAMILIES))}"
            raise ConfigError(Problem(f"{self.model_type!r} is not supported", "model_type", place, hint))
        known, named = FAMILIES[self.model_type], self.values.get("architectures") or ()
        if named and not set(known) & set(named):
            hint = f"supported: {', '.join(known)}"
            raise ConfigError(Problem(f"{named[0]} is not supported", "architectures", place, hint))

    def _meta(self) -> dict[str, Any]:
        card = self.card
        licence = card.get("license_name") or card.get("license")
        link = card.get("license_link")
        facts: dict[str, Any] = {"model_type": self.model_type}
        facts |= {"licence": f"{licence} ({link})" if licence and link else licence or "not stated"}
        reduces = (self.processor or {}).get("do_reduce_labels", (self.processor or {}).get("reduce_labels"))
        return facts | ({"reduce_zero_label": True} if reduces else {})


def is_folder(path: Path) -> bool:
    """Whether a folder has the ``config.json`` of transformers or segmentation_models_pytorch; a damaged one counts,
    where weights of the usual name lie beside it."""
    if not (path / CONFIG).is_file():
        return False
    if (values := _read(path / CONFIG)) is None:
        return any((path / name).is_file() for name in USUAL)
    return isinstance(values.get("model_type"), str) or CLASS in values


def read_folder(path: Path) -> Folder:
    """Return the content of a folder, for which `is_folder` is true.

    Raises:
        ConfigError: A file is damaged.
    """
    values = _read(path / CONFIG)
    processor = _read(path / PROCESSOR) if (path / PROCESSOR).is_file() else None
    for name, content in {CONFIG: values, PROCESSOR: processor}.items():
        if content is None and (path / name).is_file():
            raise ConfigError(Problem("is not a JSON file with a mapping", place=str(path / name)))
    return Folder(path, values or {}, processor)


def _read(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file; None for anything else."""
    try:
        text = path.read_text("utf-8") if path.stat().st_size < _MOST_BYTES else ""
        values = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _marked(values: Mapping[str, Any], place: Place) -> MarkedDict:
    """Return a mapping whose values, deeply, were written at a place."""
    marked = {key: _marked(value, place) if isinstance(value, dict) else value for key, value in values.items()}
    return MarkedDict(marked, places=dict.fromkeys(values, place), place=place)
