"""The weight format of folders of transformers: which file has the weights, and what lies beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkernel.errors import ConfigError
from segkernel.interfaces.model import WeightFormat
from segplug_heads.hugging_face.folder import SUFFIXES, is_folder, read_folder

log = logging.getLogger(__name__)


class HuggingFaceFolder(WeightFormat):
    """Locates the weights in a folder, and describes them by its other files: config, classes, preprocessing."""

    def locates(self, source: str) -> bool:
        return "://" not in source and is_folder(Path(source))

    def locate(self, source: str) -> Path:
        return read_folder(Path(source)).weights

    def describe(self, path: Path) -> Mapping[str, Any]:
        if path.suffix not in SUFFIXES or not is_folder(path.parent):
            return {}
        try:
            folder = read_folder(path.parent)
            config = folder.config()
        except ConfigError as error:  # the weights may still be of use, for a backbone
            return {"config": {"model": {"type": "EncoderDecoder"}, "_meta_": {"unavailable": str(error)}}}
        return {"config": config} | ({"classes": folder.classes} if "num_classes" in config["data"] else {})
