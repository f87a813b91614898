"""The blocks of README and docs are what they say: packages install, configs parse, components pass the kit."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from segkernel.catalog import Catalog
from segkernel.cli import cli
from segkernel.config import load_config
from segkernel.config.text import read_mapping
from segkernel.experiment import check, run
from segkernel.testing import check_object
from segplug_datasets import image
from segplug_heads.former_names import TOOLS
from segplug_heads.reference.troubleshooting import PAGE as TROUBLESHOOTING
from segplug_training.combinations import combinations

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    TROUBLESHOOTING,
]
WALKED = [page for page in PAGES if "<!-- starts with: " in page.read_text("utf-8")]
"""Pages that `test_walkthroughs` follows."""
OTHERS = [page for page in PAGES if page not in WALKED and page.parent.name != "zh"]
"""The other pages; `test_translations` compares the Chinese ones with the English."""
KINDS = {
    "Squares": "datasets", "Fog": "transforms", "PixelAccuracy": "metrics", "Patience": "hooks",
    "TwoConvs": "segmentors", "TraceExporter": "exporters", "EncoderNames": "weight_formats",
}  # fmt: skip
"""The classes that docs/plugins.md shows whole."""


def blocks(language: str, pages: Iterable[Path] = PAGES) -> list[Any]:
    """Return the blocks of a language, as parameters of a test that are named by page and line."""
    found = []
    for path in pages:
        text = path.read_text("utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{page_name(path)}:{line}"))
    return found


def page_name(path: Path) -> str:
    """Return the name of a page, that of a package's README being the package's."""
    return path.parent.name if path.stem == "README" and path.parent != ROOT else path.stem


def own_packages(text: str) -> bool:
    return "[project.entry-points" in text


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_package_installs_as_it_stands(text: str, tmp_path: Path) -> None:
    if not own_packages(text):
        pytest.skip("settings of another tool")
    (module,) = re.findall(r'= "([\w.]+):\w+"', text)
    file = tmp_path / Path(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    (tmp_path / "pyproject.toml").write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run([*pip, "--target", "site", "."], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (installed,) = distributions(path=[str(tmp_path / "site")])
    (point,) = installed.entry_points
    assert point.group.startswith("segkernel.")
    assert (tmp_path / "site" / file.relative_to(tmp_path)).exists()


PLACEHOLDERS = ("{...}", "started: 2024-01-31")
"""What only stands for something, or shows how values are written."""


@pytest.mark.parametrize("text", blocks("yaml", OTHERS))
def test_a_config_is_in_order(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, block in named_blocks():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(block, "utf-8")
    problems: list[Any] = []
    assert read_mapping(text, "block.yaml", problems)
    assert problems == []
    if not any(word in text for word in PLACEHOLDERS) and not is_part_of_a_zoo(text):
        Path("block.yaml").write_text(as_config(text), "utf-8")
        assert [str(problem) for problem in check(load_config("block.yaml"))] == []


def named_blocks() -> list[tuple[str, str]]:
    """Return the file name and the text of each block that begins with one, ``# base.yaml``."""
    texts = [block.values[0] for language in ("yaml", "python") for block in blocks(language, OTHERS)]
    return [(found[1], text) for text in texts if (found := re.match(r"# ([\w./]+\.(?:yaml|py))\n", text))]


def is_part_of_a_zoo(text: str) -> bool:
    return text.startswith("# local_configs/")


def as_config(text: str) -> str:
    """Return a block as a whole config: a data set alone is trained on, sections stand on the quick start."""
    mapping = yaml.safe_load(re.sub(r"^( *)~", r"\1", text, flags=re.M))
    if "type" in mapping:
        text = "data:\n  train:\n" + "".join(f"    {line}\n" for line in text.splitlines())
    return text if "_base_" in mapping or text.startswith("# base.yaml") else f"_base_: quickstart\n{text}"


@pytest.mark.parametrize("name", ["tiny_r50_4xb2-40k_toys", "tiny_r18_4xb2-40k_toys", "tiny-original"])
def test_a_zoo_of_the_page_is_in_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file, block in named_blocks():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(block, "utf-8")
    config = load_config(name)
    assert [str(problem) for problem in check(config)] == []
    assert config["data"]["num_classes"] == 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and photos under the names that the pages give them."""
    folder = tmp_path_factory.mktemp("trained")
    small = ["data.crop_size=[64,96]", "data.train.length=2", "+data.val.length=1", "+data.test.length=1", "export=[]",
             "data.workers=0", "schedule.iterations=1", "schedule.val_interval=1", "optim.batch_size=2"]  # fmt: skip
    runner = run("quickstart", small, work_dir=folder / "run")
    for name in ("best.pt", "best_mIoU_iter_N.pt"):
        (folder / name).write_bytes(runner.best_checkpoint().read_bytes())
    for name in ("street.jpg", "photos/1.png"):
        image.write(folder / name, runner.test_set.dataset[0].image)
    return folder


@pytest.mark.parametrize("page", [page for page in OTHERS if blocks("python", [page])], ids=page_name)
@pytest.mark.filterwarnings("ignore")
def test_the_python_of_a_page_runs(page: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first block to its last, as a reader types them; a comment with a shape states the shape."""
    monkeypatch.chdir(trained)
    module = types.ModuleType("segkernel_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    shapes = {}
    for block in blocks("python", [page]):
        exec(compile(block.values[0], block.id, "exec", dont_inherit=True), module.__dict__)
        for name, shape in re.findall(r"^(\w+) = .*  # (\(\d+(?:, \d+)+\))$", block.values[0], re.M):
            shapes[block.id, name] = (str(tuple(module.__dict__[name].shape)), shape)
    assert {place: pair for place, pair in shapes.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_component_of_the_page_passes_the_kit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = (
        each.values[0] for each in blocks("python", [ROOT / "docs" / "plugins.md"]) if f"class {name}" in each.values[0]
    )
    module = types.ModuleType("segkernel_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(text, name, "exec"), module.__dict__)
    results = check_object(KINDS[name], getattr(module, name), catalog=Catalog())
    assert [str(result) for result in results if not result.ok] == []


def lines(pages: Iterable[Path] = PAGES) -> list[Any]:
    """Return the calls of seg-kernel in shell blocks, also by torchrun or srun: its arguments."""
    found = {}
    for block in blocks("(?:bash|console)", pages):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            if call := re.match(r"(?:\$ )?(?:(?:srun|torchrun)\b.* )?(?:seg-kernel|-m segkernel) (.+)", line):
                found[f"{block.id}:{line[:40]}"] = call[1]
    return [pytest.param(line, id=name) for name, line in found.items()]


def resolve(line: str) -> tuple[click.Command, click.Context, list[str]]:
    """Return the command that a line calls, its context, and its arguments."""
    words = shlex.split(re.sub(r" --launch \d+", "", line.partition(" #")[0]))
    words = ["dry-run", *words] if "--dry-run" in words else words
    words = ["completion"] if "--install-completion" in words else words
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words:
        name, found, words = command.resolve_command(context, words)
        assert found is not None, line
        command, context = found, click.Context(found, parent=context, info_name=name)
    return command, context, words


@pytest.mark.parametrize("line", lines())
def test_a_command_and_its_options_exist(line: str) -> None:
    command, context, words = resolve(line)
    options = {name for each in command.get_params(context) for name in (*each.opts, *each.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {
        "--help",
        "--traceback",
        "--log-level",
        "--dry-run",
    }


def test_the_commands_that_replace_tools_exist() -> None:
    calls = re.findall(r"seg-kernel ([^,;\n]+)", "\n".join(TOOLS.values()).replace("--launch N", "--launch 2"))
    assert len(calls) > 15
    for call in calls:
        test_a_command_and_its_options_exist(call)


CHANGING = re.compile(r"(run|sweep|find-lr|find-batch-size) .*\w=")
"""A command that trains, with overrides."""


@pytest.mark.parametrize("line", [param for param in lines(OTHERS) if CHANGING.match(param.values[0])])
def test_the_overrides_of_a_command_fit_its_config(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """``my.yaml`` is the file of that name on docs/configuration.md, on other pages the quick start."""
    monkeypatch.chdir(tmp_path)
    for name, block in named_blocks():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(block, "utf-8")
    command, context, words = resolve(line.replace(" --dry-run", ""))
    given = command.make_context(command.name, words, parent=context, resilient_parsing=True).params
    config, overrides = given["config"], given["overrides"]
    if config == "my.yaml" and "configuration:" not in request.node.name:
        config = "quickstart"
    if command.name == "sweep":
        models = given["models"].split(",") if given["models"] else ()
        combinations(config, overrides, models=models, draws=given["draws"])
    else:
        load_config(config, overrides)
