"""Pages that are followed from top to bottom: each block runs as it stands, in the order of the page.

A page begins with ``<!-- starts with: NAME -->``: the files in the reader's folder, made by `sample_folders.MAKERS`.
YAML and Python blocks whose first line names a file, ``# my.yaml``, are written to it; other Python runs in one
namespace; lines of shell blocks that call ``seg-kernel`` are run, and training is cut to two steps; a sweep checks its
configs and starts no runs. ``pip install ./FOLDER`` installs a package that the page has made, for this page only.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_folders import MAKERS

from segkernel.catalog import _scan_installed
from segkernel.cli import cli
from segkernel.config import load_config
from segkernel.experiment import check
from segplug_heads.reference.troubleshooting import PAGE as TROUBLESHOOTING
from segplug_heads.reference.troubleshooting import page_address, sections

DOCS = Path(__file__).parents[2] / "docs"
MARK = re.compile(r"^<!-- starts with: ([\w ]+) -->$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHORT = ["schedule.iterations=2", "schedule.val_interval=2", "optim.batch_size=2", "data.workers=0"]
"""Added to commands that train."""
SMALL = """
model:
  backbone: {num_stages: 1, strides: [1], dilations: [1], out_indices: [0]}
  decode_head: {in_channels: [32, 32], in_index: [0, 1], decoder_channels: [32]}
"""
"""Added to the config of `init` on a page that exports several times: the first stage of starter's model."""


def pages() -> Iterator[Any]:
    """Yield the pages that have a mark, as parameters of a test."""
    for page in sorted(DOCS.rglob("*.md")):
        if MARK.search(page.read_text("utf-8")):
            name = page.relative_to(DOCS).with_suffix("").as_posix()
            yield pytest.param(page, id=name)


@pytest.fixture
def without_installs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the packages that a page has installed."""
    yield
    has_installed = Path("site").exists()
    monkeypatch.undo()
    if has_installed:
        _scan_installed.cache_clear()


@pytest.mark.usefixtures("without_installs")
@pytest.mark.parametrize("page", list(pages()))
@pytest.mark.filterwarnings("ignore")
def test_a_page_can_be_followed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = types.ModuleType("segkernel_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("segplug_training.sweep._run", no_run)
    for file in re.findall(r"^# (\w+)\.py$", text, re.MULTILINE):
        monkeypatch.delitem(sys.modules, file, raising=False)  # another page's module of that name
    MAKERS[MARK.findall(text)[0]](tmp_path)
    for match in BLOCK.finditer(text):
        where = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
        try:
            follow(match[1], match[2], where, module.__dict__, SMALL if text.count("seg-kernel export ") > 1 else "")
        except Exception as error:
            raise AssertionError(f"{where}: {error}") from error


def no_run(entry: Any, folder: Path, measure: bool) -> None:
    """Stand for a run of a sweep, which is a process."""
    folder.mkdir(parents=True, exist_ok=True)


def follow(language: str, text: str, where: str, namespace: dict[str, Any], model: str = "") -> None:
    """Do what a reader does with a block; ``model`` is added to the config that `init` writes."""
    file = re.match(r"# (\S+\.(?:yaml|py))\b", text)
    if file and language in ("yaml", "python"):
        Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(file[1]).write_text(text, "utf-8")
        whole = language == "yaml" and not file[1].startswith("local_configs/")
        config = load_config(file[1]) if whole else {}
        problems = check(config) if "model" in config else []  # others are parts
        assert not problems, "; ".join(map(str, problems))
    elif language == "python":
        exec(compile(text, where, "exec", dont_inherit=True), namespace)
    elif language == "yaml":
        raise ValueError("a config begins with its file's name: # my.yaml")
    elif language in ("bash", "console"):
        for line in text.replace("\\\n", " ").splitlines():
            if folder := re.fullmatch(r"pip install (\./\S+)", line):
                install(folder[1])
            elif line.removeprefix("$ ").startswith("seg-kernel "):
                call(words := shlex.split(line.removeprefix("$ "), comments=True)[1:])
                if model and words[0] == "init":
                    Path("my.yaml").write_text(Path("my.yaml").read_text("utf-8") + model, "utf-8")


def install(folder: str) -> None:
    """Install a package into a folder of this page; the test takes it off ``sys.path``."""
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", "site", folder], check=True)
    sys.path.insert(0, str(Path("site").resolve()))
    _scan_installed.cache_clear()


def call(words: list[str]) -> None:
    """Run a command in this process; ``--launch`` and ``--dry-run`` only check what they are given."""
    if "--launch" in words:
        at = words.index("--launch")
        words = [*words[:at], *words[at + 2 :]]
    trains = words[0] in ("run", "find-lr", "dry-run")
    if "--dry-run" in words:
        words = ["dry-run", *(word for word in words if word != "--dry-run")]
    words = [*words, *(SHORT if trains else []), *(["--steps", "10"] if words[0] == "find-lr" else [])]
    try:
        code = cli.main(args=words, standalone_mode=False)
    except SystemExit as error:
        code = error.code
    assert not code, f"seg-kernel {' '.join(words)} ended with {code}"


def test_ohem_of_the_recipes_leaves_out_pixels_of_a_crop_of_starter() -> None:
    kept = re.findall(r"min_kept: (\d+)", (DOCS / "recipes.md").read_text("utf-8"))
    height, width = load_config("starter")["data"]["crop_size"]
    assert [int(number) < height * width / 4 for number in kept] == [True]


def test_the_messages_of_the_page_exist() -> None:
    """Headings of troubleshooting.md in lower case are messages of the code, with … for what differs."""
    folders = [DOCS.parent / "kernel/src", *DOCS.parent.glob("plugins/*/src")]
    sources = "\n".join(path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py"))
    headings = re.findall(r"^## ([a-z…].*)$", TROUBLESHOOTING.read_text("utf-8"), re.MULTILINE)
    assert len(headings) > 10
    topics = set(re.findall(r"help: seg-kernel explain ([a-z-]+) \(docs: (.+?)\)", sources))
    assert topics
    assert topics <= {(name, page_address(name)) for name in sections()}
    parts = {heading: [part for part in heading.split("…") if part.strip(" ,'")] for heading in headings}
    assert [heading for heading in headings if not all(part in sources for part in parts[heading])] == []
