"""``config check`` without torch: it says what the full check says, or nothing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from fuzz_configs import CONFIGS, fuzz

START = f"import json, logging, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); logging.disable(); "


def run(code: str, **given: Any) -> Any:
    """Run code in a Python without torch, with the arguments as ``given``; return what it prints as JSON."""
    command = [sys.executable, "-c", f"{START}given = json.load(sys.stdin)\n{code}"]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_refused_config_is_refused_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("_base_: quickstart\noptim: {optimizer: {lr: -1}}\nmodel: {decode_head: {chanels: 4}}\n")
    code = """
from segkernel.cli.config import check
try: check.main([given["path"]], standalone_mode=False)
except Exception as error: print(json.dumps([str(error), "torch" in sys.modules]))
"""
    message, has_torch = run(code, path=str(path))
    assert "optim.optimizer.lr: expected float (0 or more), got -1 (int)" in message
    assert "my.yaml:3:23 model.decode_head.chanels: unknown argument of" in message
    assert not has_torch


def test_the_exit_code_is_that_of_the_full_check() -> None:
    code = """
import os; os.environ["SEGKERNEL_DISABLE"] = "segplug-backbones"
from segkernel.cli.config import check
try: check.main(["segformer_mit-b0_8xb2-160k_ade20k-512x512"], standalone_mode=False)
except Exception as error: print(json.dumps([error.exit_code, "torch" in sys.modules]))
"""
    assert run(code) == [3, False]


def test_the_quick_check_finds_the_problems_of_the_full_one() -> None:
    code = """
from segplug_heads.configs.quick_check import torch_stand_in
with torch_stand_in():
    from fuzz_configs import CONFIGS, fuzz
    print(json.dumps([[each.change, each.answer] for each in fuzz(CONFIGS, 60, 0)]))
"""
    logging.disable()
    try:
        assert run(code) == [[each.change, each.answer] for each in fuzz(CONFIGS, 60, 0)]
    finally:
        logging.disable(logging.NOTSET)


def test_every_installed_component_can_be_checked_quickly() -> None:
    code = """
from segkernel.catalog import GROUPS, Catalog
from segkernel.signature import signature
from segplug_heads.configs.quick_check import torch_stand_in
catalog, failed = Catalog.discover(), []
with torch_stand_in():
    for group in GROUPS.keys() - {"zoo", "commands", "config_checks", "displays", "adapters", "optimizations"}:
        for row in catalog.rows_of(group):
            try: signature(catalog.load_row(row))
            except Exception as error: failed.append(f"{row.qualified}: {error}")
print(json.dumps(failed))
"""
    assert run(code) == []


def test_a_component_that_depends_on_a_value_of_torch_is_left_to_the_full_check(tmp_path: Path) -> None:
    odd = (
        "import torch\n\nif torch.cuda.is_available(): ...\nclass Odd(torch.nn.Module):\n    def __init__(self): ...\n"
    )
    (tmp_path / "odd.py").write_text(odd)
    (tmp_path / "plain.py").write_text("from torch import nn\n\n\nclass Fixed(nn.Conv2d): ...\n")
    code = """
from segkernel.config import load_config
from segplug_heads.configs.quick_check import check_arguments
sys.path.insert(0, given["folder"])
answers = []
for name in given["names"]:
    config = load_config("quickstart", [f"hooks=[{{type: '{name}', wrong: 1}}]"])
    answers.append([problem.path for problem in check_arguments(config)])
print(json.dumps(answers))
"""
    names = ["odd:Odd", "plain:Fixed", "EMAHook"]
    assert run(code, folder=str(tmp_path), names=names) == [[], [], ["hooks[0].wrong"]]
