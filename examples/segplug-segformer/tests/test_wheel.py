"""The package as users install it: built outside the workspace, installed, found, checked, trained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
NAME = "segplug-segformer"
SHORT_NAMES = """\
_base_: segplug-segformer::segformer-street.yaml
model:
  decode_head:
    type: SegformerHead
    in_channels: [16, 32, 80, 128]
    in_index: [0, 1, 2, 3]
    channels: 64
    num_classes: 8
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package installed from a wheel that was built elsewhere."""
    pytest.importorskip("hatchling", reason="the wheel is built with the hatchling that is installed")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(FOLDER, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (wheel,) = folder.glob("*.whl")
    pip("install", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


@pytest.fixture
def seg_kernel(site, tmp_path):
    """Run a command in an empty folder, with the package installed in addition to the others."""

    def run(*arguments, expect=0, **environment):
        command = [sys.executable, "-m", "segkernel", *arguments]
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def pip(*arguments):
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--quiet"]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_wheel_is_pure_and_contains_config_and_licence(site):
    files = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    assert "segplug_segformer/zoo/segformer-street.yaml" in files
    assert "segplug_segformer/py.typed" in files
    assert any(re.fullmatch(r"segplug_segformer-.*\.dist-info/licenses/LICENSE", name) for name in files)
    assert not any(name.endswith((".so", ".pyd")) for name in files)


def test_plugin_is_listed_with_its_components(seg_kernel):
    plugins = {entry["distribution"]: entry for entry in json.loads(seg_kernel("plugins", "--json"))["plugins"]}
    assert plugins[NAME]["status"] == "ok"
    offers = {(entry["group"], entry["name"]) for entry in plugins[NAME]["offers"]}
    assert offers == {("backbones", "MixVisionTransformer"), ("heads", "SegformerHead"), ("zoo", NAME)}


def test_readme_shows_what_the_command_prints(seg_kernel):
    shown = seg_kernel("plugins", "show", NAME).strip()
    assert shown in (FOLDER / "README.md").read_text()


def test_packaged_config_passes_the_check(seg_kernel):
    pytest.importorskip("segplug_datasets")
    assert "is valid" in seg_kernel("config", "check", "segformer-street")


def test_short_name_is_ambiguous_and_both_qualified_names_are_printed(seg_kernel, tmp_path):
    pytest.importorskip("segplug_heads")
    (tmp_path / "short-names.yaml").write_text(SHORT_NAMES)
    message = seg_kernel("config", "check", "short-names.yaml", expect=2).strip()
    assert "segplug-segformer/SegformerHead" in message
    assert "segplug-heads/SegformerHead" in message
    assert "short-names.yaml:4:5 model.decode_head.type" in message
    assert message[message.index("Error:") :] in (FOLDER / "README.md").read_text()


def test_a_preference_resolves_the_short_name(seg_kernel, tmp_path):
    pytest.importorskip("segplug_heads")
    (tmp_path / "short-names.yaml").write_text(SHORT_NAMES)
    seg_kernel("config", "check", "short-names.yaml", SEGKERNEL_PREFER=NAME)
    (tmp_path / "short-names.yaml").write_text(f"{SHORT_NAMES}plugins: {{prefer: [segplug-heads]}}\n")
    seg_kernel("config", "check", "short-names.yaml")


@pytest.mark.parametrize("name", ["quickstart", "camvid"])
def test_configs_of_other_packages_still_pass_the_check(seg_kernel, name):
    for package in ("segplug_heads", "segplug_backbones", "segplug_datasets", "segplug_training", "segplug_deploy"):
        pytest.importorskip(package)
    seg_kernel("config", "check", name)


def test_conformance_kit_passes_under_pytest(seg_kernel, site):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "pytest", "-q", "--segkernel-conformance", NAME]
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.slow
def test_trains(seg_kernel, tmp_path):
    pytest.importorskip("segplug_datasets")
    pytest.importorskip("segplug_heads")
    changes = ["schedule.iterations=4", "schedule.val_interval=2", "optim.batch_size=2", "+data.workers=0"]
    sizes = [f"+data.{part}.length=2" for part in ("train", "val", "test")]
    output = seg_kernel("run", "segformer-street", *changes, *sizes, "--work-dir", "run", "--device", "cpu")
    assert "test at iteration 4" in output
    assert list((tmp_path / "run" / "checkpoints").glob("*.pt"))
