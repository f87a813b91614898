"""Folders as transformers saves them, made of golden cases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newmodels import Case, load
from safetensors.torch import save_file

from segkernel.building import build
from segkernel.config import load_config
from segkernel.interfaces.model import Segmentor
from segplug_heads.hugging_face.folder import Folder

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def folder_of(case: Case, path: Path, processor: Mapping[str, Any] | None = None, **changes: Any) -> Path:
    """Write a folder with the case's config, weights by the names in files, and an image processor; return it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(values_of(case) | changes))
    save_file({key: value.contiguous().clone() for key, value in case.file().items()}, path / "model.safetensors")
    if processor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(dict(processor)))
    return path


def values_of(case: Case) -> dict[str, Any]:
    """Return the ``config.json`` of a case."""
    build = case.facts["build"]
    count = build["config"].get("num_labels", 2)
    labels = {str(index): f"class {index}" for index in range(count)}
    return {**build["config"], "architectures": [build["cls"].rpartition(".")[2]], "id2label": labels}


def model_of(name: str) -> tuple[Case, Segmentor]:
    """Return a case, and our model of its config."""
    case = load(name)
    config = load_config(Folder(Path("."), values_of(case), {}).config())
    return case, build("segmentors", config["model"], path="model")
