"""The config source of folders of transformers: ``seg-kernel config show FOLDER``, or ``_base_: FOLDER``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segkernel.catalog import Catalog
from segkernel.config.layers import Layers
from segkernel.config.marks import Place
from segkernel.errors import CheckpointError, ConfigError, Problem
from segplug_heads.hugging_face.folder import CONFIG, Folder, is_folder, read_folder

SCHEME = "hf://"


@dataclass(frozen=True)
class FoundFolder:
    """A folder, by its ``config.json``."""

    folder: Folder

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.path.resolve().name

    @property
    def path(self) -> Path:
        """The file ``config.json``."""
        return self.folder.path / CONFIG

    @property
    def place(self) -> str:
        """The same file, for messages."""
        return str(self.path)


class HuggingFaceModels:
    """Reads folders and addresses ``hf://org/name`` as configs; the weights are those to start from, ``load_from``.

    Args:
        catalog: Not used; a model's folder says everything.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def find(self, name: str, asked: str = "") -> FoundFolder | None:
        """Return the folder; None for what is neither one nor an address of one.

        Raises:
            ConfigError: The model cannot be downloaded, or a file is damaged.
        """
        path = self._downloaded(name, asked) if name.startswith(SCHEME) else Path(name)
        folder = path.parent if path.is_file() and (path.name == CONFIG or name.startswith(SCHEME)) else path
        return FoundFolder(read_folder(folder)) if is_folder(folder) else None

    def add_layers(self, found: FoundFolder, layers: Layers) -> None:
        """Add the config of the folder, with its weights as ``load_from``."""
        config, weights = found.folder.config(), str(found.folder.weights)
        config["load_from"] = config["_meta_"]["weights"] = weights
        config.places["load_from"] = Place(found.place)
        layers.add(config)

    def names(self) -> Iterator[str]:
        """Return nothing: folders are not listed."""
        return iter(())

    def unknown(self, name: str) -> list[Problem]:
        """Return nothing: other names are none of this source."""
        return []

    def label(self, path: Path) -> str:
        """Return "", as folders have their paths as names."""
        return ""

    def _downloaded(self, address: str, asked: str) -> Path:
        from segkernel.checkpoint import locate

        try:
            return locate(address)
        except CheckpointError as error:
            raise ConfigError(Problem(str(error), "", asked)) from error
