"""The Dockerfile calls what exists; no test builds it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs segplug-deploy[serve]")

from segplug_deploy.serve.app import create_app
from segplug_deploy.serve.command import command

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")


def test_it_installs_packages_of_this_repository() -> None:
    installed = re.search(r"--find-links /wheels \\\n(.+)\n", TEXT)
    assert installed
    names = {name.strip('"').partition("[")[0] for name in installed[1].split()}
    plugins = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert names == {"seg-kernel"} | plugins - {"segplug-training"}


def test_its_command_and_health_check_exist() -> None:
    entry = json.loads(re.findall(r"^ENTRYPOINT (.+)$", TEXT, re.M)[0])
    assert entry[:2] == ["seg-kernel", "serve"]
    context = command.make_context("serve", [*entry[2:], "/models/first"])
    port = context.params["port"]
    (check,) = re.findall(r"http://127.0.0.1:(\d+)(/\w+)", TEXT)
    assert check == (str(port), "/ready")
    assert f"EXPOSE {port}" in TEXT
    assert check[1] in {route.path for route in create_app({}).routes}
