"""Config files of MMSegmentation with all their bases: Python read by its syntax tree, YAML and JSON.

read_config(Path("configs/my_config.py")).config["model"]
"""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segkernel.config.marks import MarkedDict, Place
from segkernel.config.text import read_mapping
from segkernel.errors import ConfigError, Problem
from segplug_heads.former_names import OTHER_SCOPES
from segplug_heads.moving_in.evaluator import Evaluator, parse
from segplug_heads.moving_in.limits import MOST_BYTES, MOST_FILES, Budget, Refusal, refused
from segplug_heads.moving_in.marking import plain
from segplug_heads.moving_in.merging import merge
from segplug_heads.moving_in.recognition import OURS

_BASE = "_base_"
_PACKAGES = ("mmseg", *OTHER_SCOPES)
_HINT = (
    "its bases come with MMSegmentation: pip download --no-deps mmsegmentation==1.2.2 (0.30.0 for 0.x), unpack "
    "the wheel, and give its folder mmseg/.mim/configs: seg-kernel import --configs FOLDER"
)


@dataclass
class FormerConfig:
    """A config of MMSegmentation, read.

    Args:
        path: The file.
        config: All its names, laid over those of its bases.
        texts: The text of every file, by the name it has in places.
        packaged: Bases that are not on disk, whose experiments the packaged zoo has, lowest first.
        used: Names that an expression of a file refers to.
    """

    path: Path
    config: MarkedDict = field(default_factory=MarkedDict)
    texts: dict[str, str] = field(default_factory=dict)
    packaged: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def line(self, place: Place) -> str:
        """Return the line that a place means, "" if it is not in these files."""
        lines = self.texts.get(place.file, "").splitlines()
        return lines[place.line - 1].strip() if 0 < place.line <= len(lines) else ""


def read_config(path: Path, folder: Path | None = None, names: Any = ()) -> FormerConfig:
    """Read a config and its bases.

    Args:
        path: The file.
        folder: MMSegmentation's ``configs``, for ``mmseg::`` names and bases that are missing beside the file; None
            takes those of an installed mmsegmentation. Names of other packages, ``mmpretrain::``, are always those of
            an installed one.
        names: Returns the experiment of the packaged zoo that a missing base means, by its stem; "" for none.

    Raises:
        ConfigError: A file is missing, too large, or has something that is not read, with its line.
    """
    return _Reader(path, folder, names or (lambda stem: "")).read()


class _Reader:
    def __init__(self, path: Path, folder: Path | None, names: Any) -> None:
        self.found, self.folder, self.names = FormerConfig(path), folder, names
        self.budget, self.files, self.bytes = Budget(), 0, 0

    def read(self) -> FormerConfig:
        config = self.file(self.found.path, ())
        try:
            self.budget.weigh(config)
        except Refusal as error:
            raise refused(str(error), self.found.path) from None
        self.found.config = plain(config)
        return self.found

    def file(self, path: Path, chain: tuple[Path, ...]) -> MarkedDict:
        """Return the names of a file, laid over its bases."""
        real, label = self.entered(path, chain), str(path)
        text = self.text(path)
        if path.suffix == ".py":
            return self.python(path, text, (*chain, real))
        problems: list[Problem] = []
        config = read_mapping(text, label, problems)
        if config is None or problems:
            raise ConfigError(problems)
        for key in (key for key in OURS if key in config):
            raise refused(f"{key} is no section of a config of MMSegmentation, but of ours", config.places[key])
        base = self.bases(config.get(_BASE), path, (*chain, real), config.places.get(_BASE, Place(label)))
        return self.laid(base, config.without(_BASE), label)

    def entered(self, path: Path, chain: tuple[Path, ...]) -> Path:
        real = Path(os.path.abspath(path))
        if real in chain:
            raise refused("a base includes itself", path)
        return real

    def text(self, path: Path) -> str:
        """Return the text of a file after checking what it is."""
        self.files += 1
        if self.files > MOST_FILES:
            raise refused(f"has more than {MOST_FILES} bases", self.found.path)
        if not path.is_file():
            raise refused(f"{'is not a regular file' if path.exists() else 'no such file'}", path)
        self.bytes += path.stat().st_size
        if self.bytes > MOST_BYTES:
            raise refused(f"is larger than {MOST_BYTES:,} bytes with its bases: not a config", path)
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise refused(f"is not UTF-8 text (byte {error.start})", path) from None
        except OSError as error:
            raise refused(f"cannot be read: {error.strerror}", path) from None
        self.found.texts[str(path)] = text
        return text

    def python(self, path: Path, text: str, chain: tuple[Path, ...]) -> MarkedDict:
        tree, base = parse(text, str(path)), MarkedDict()
        statement = next((node for node in tree.body if isinstance(node, ast.Assign) and _names_base(node)), None)
        if statement is not None:
            value = self.evaluator(path, chain, {}).value(statement.value)
            base = self.bases(value, path, chain, Place(str(path), statement.lineno, 1))
        evaluator = self.evaluator(path, chain, {_BASE: base})
        evaluator.run([node for node in tree.body if node is not statement])
        return self.laid(base, evaluator.config(), str(path))

    def evaluator(self, path: Path, chain: tuple[Path, ...], names: dict[str, Any]) -> Evaluator:
        def load_names(module: str, level: int, place: Place) -> Evaluator:
            package, _, inside = module.partition(".configs.")
            if level and module:
                base = "../" * (level - 1) + module.replace(".", "/")
            elif package in _PACKAGES and inside:
                base = f"{package}::{inside.replace('.', '/')}"
            else:
                raise refused("a base is a file beside this one, or one of mmseg.configs", place)
            file = self.found_file(f"{base}.py", path, place)
            loaded = self.evaluator(file, (*chain, self.entered(file, chain)), {})
            loaded.run(parse(self.text(file), str(file)).body)
            return loaded

        full = Path(os.path.abspath(path))
        fields = {"fileDirname": str(full.parent), "fileBasename": full.name, "fileExtname": full.suffix}
        fields["fileBasenameNoExtension"] = full.stem
        return Evaluator(str(path), self.budget, names, fields, self.found.used, load_names)

    def bases(self, value: Any, path: Path, chain: tuple[Path, ...], place: Place) -> MarkedDict:
        """Return all bases that ``_base_`` names, laid one over the other."""
        result = MarkedDict()
        names = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        for name in names:
            if not isinstance(name, str) or not name:
                raise refused(f"a base is a path or a name, not {name!r}"[:200], place)
            known = self.names(Path(name).stem) if name.partition("::")[0] not in OTHER_SCOPES else ""
            file = self.found_file(name, path, place, known)
            if file is not None:
                result = self.laid(result, self.file(file, chain), str(path))
            else:
                self.found.packaged.append(known)
        return result

    def found_file(self, name: str, path: Path, place: Place, known: str = "") -> Any:
        """Return the file of a base: beside the file that names it, or in the configs of MMSegmentation or its kin.

        None if it is neither, but the packaged zoo has it.
        """
        scope, _, inside = name.rpartition("::")
        parts = [part for part in Path(inside).parts if part not in ("..", ".", "/")]
        parts = parts[parts.index("_base_") :] if "_base_" in parts else parts  # of a checkout, from elsewhere
        files = [] if scope else [Path(os.path.normpath(path.parent / inside))]
        files += [Path(folder, *parts) for folder in self.folders(scope or "mmseg")]
        for file in files:
            if file.is_file():
                return file
        if known:
            return None
        hint = f"it is read if {scope} is installed" if scope in OTHER_SCOPES else _HINT
        raise refused(f"the base {name} is not there", place, hint)

    def folders(self, package: str) -> list[Path]:
        """Return the folders of a package's configs, without importing it."""
        if package == "mmseg" and self.folder:
            return [self.folder]
        spec = find_spec(package) if package in _PACKAGES else None
        roots = (spec.submodule_search_locations or []) if spec else []
        return [Path(root, folder) for root in roots for folder in (".mim/configs", "configs")]

    def laid(self, base: MarkedDict, over: MarkedDict, label: str) -> MarkedDict:
        try:
            self.budget.weigh(over)
        except Refusal as error:
            raise refused(str(error), label) from None
        return merge(base, over)


def _names_base(node: ast.Assign) -> bool:
    return any(isinstance(to, ast.Name) and to.id == _BASE for to in node.targets)
