"""What the light parts of the kernel may import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import segkernel

HEAVY = {"torch", "numpy", "cv2", "rich", "yaml"}
CALL = "import sys; from segkernel.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"


def modules_after(code: str, *arguments: str) -> set[str]:
    """Return the modules that a new process has imported after running ``code``."""
    code += "\nprint('modules:', *sys.modules)"
    command = [sys.executable, "-c", f"import sys\n{code}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(result.stdout.rpartition("modules:")[2].split())


LIGHT = [["--help"], ["--version"], ["plugins"], ["plugins", "--json"], ["plugins", "show", "seg-kernel"], ["rnu"]]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    found = modules_after(CALL, *arguments)
    assert not found & {*HEAVY, "segkernel.config", "segkernel.hookspecs", "pluggy"}


def test_the_list_of_plugins_imports_no_plugin() -> None:
    assert not {name for name in modules_after(CALL, "plugins") if name.startswith("segplug_")}


@pytest.mark.parametrize("arguments", [["models"], ["config", "--help"], ["run", "--help"]], ids=" ".join)
def test_commands_that_build_nothing_import_no_torch(arguments: list[str]) -> None:
    assert "torch" not in modules_after(CALL, *arguments)


TORCH_FREE = [
    "catalog",
    "building",
    "config",
    "interfaces.data",
    "labels",
    "sample",
    "image",
    "hookspecs",
    "errors",
    "testing",
]


@pytest.mark.parametrize("module", ["segkernel", *(f"segkernel.{name}" for name in TORCH_FREE)])
def test_modules_without_models_import_no_torch(module: str) -> None:
    assert "torch" not in modules_after(f"import {module}")


def test_dir_of_the_kernel_shows_its_public_names() -> None:
    assert {"Predictor", "Runner", "build", "run", "__version__"} <= set(dir(segkernel))
    assert not {"TYPE_CHECKING", "importlib"} & set(dir(segkernel))


def test_importing_the_kernel_imports_little() -> None:
    found = {name for name in modules_after("import segkernel") if name.startswith("segkernel")}
    assert found == {"segkernel"}
