"""``seg-kernel explain``: what is found under a name, and what is offered for one that is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segkernel.catalog import Catalog
from segkernel.errors import UsageError
from segplug_heads.reference.find import all_keys, command_entries, exit_code_entries, find, moment_entries

CATALOG = Catalog.discover()


@pytest.mark.parametrize(
    ("name", "kind", "argument", "default", "example"),
    [
        ("PSPHead", "one of the heads", "pool_scales", "[1, 2, 3, 6]", "model:\n  decode_head:\n    type: PSPHead\n"),
        ("segplug-heads/FocalLoss", "one of the losses", "gamma", "2.0", "    loss_decode: {type: FocalLoss"),
        ("optim", "config key", "batch_size", "1", "optim:\n"),
        ("schedule.val_interval", "config key", "", "", "schedule: {val_interval: "),
        ("after_validation", "hook method", "metrics", "", "def after_validation(self, run, metrics)"),
        ("models show", "command", "--json", "", "seg-kernel models show [OPTIONS] NAME"),
        ("2", "exit code", "ConfigError", "", ""),
        ("DataError", "exception", "", "", ""),
        ("heads", "group of components", "", "", ""),
        ("segformer_mit-b0_8xb2-160k_ade20k-512x512", "config of the zoo", "mIoU", "", "seg-kernel models show segf"),
    ],
)
def test_a_name_is_explained(name: str, kind: str, argument: str, default: str, example: str) -> None:
    (entry,) = [entry for entry in find(name, CATALOG) if entry.kind == kind]
    assert entry.text
    assert not argument or {each.name: each.default for each in entry.arguments}[argument] == default
    assert example in entry.example[1]
    assert entry.title in entry.plain().splitlines()[0]
    assert entry.source


def test_a_key_and_a_command_of_one_name_are_both_explained() -> None:
    assert [entry.kind for entry in find("plugins", CATALOG)] == ["config key", "command"]


def test_a_message_is_found_by_its_words() -> None:
    assert find("Out of memory", CATALOG) == find("out-of-memory", CATALOG)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("PSPHed", "PSPHead"),
        ("val_interval", "schedule.val_interval"),
        ("optim.btch_size", "optim.batch_size"),
        ("after_validaton", "after_validation"),
        ("segformer_b0", "segformer_mit-b0_8xb2-160k_ade20k-512x512"),
        ("OHEM", "OHEMPixelSampler"),
        ("dice", "DiceLoss or SoftDiceLoss"),
    ],
)
def test_near_names_are_offered(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"nothing is called '{name}'\n.*{near}"):
        find(name, CATALOG)


def test_every_key_hook_method_command_and_exit_code_has_a_text() -> None:
    entries = [entry for key in all_keys() for entry in find(key, CATALOG) if entry.kind == "config key"]
    entries += [*moment_entries(CATALOG), *command_entries(CATALOG), *exit_code_entries(CATALOG)]
    assert len(entries) > 80
    assert [entry.title for entry in entries if not entry.text or entry.text.startswith("Type:")] == []


def test_only_what_needs_torch_imports_it() -> None:
    names = "['schedule', 'optim.batch_size', 'data.train', 'before_run', 'run', '3', 'losses', 'ConfigError']"
    code = f"""import sys
sys.modules["torch"] = None
from segkernel.catalog import Catalog
from segplug_heads.reference.find import find
for name in {names}: assert find(name, Catalog.discover())[0].plain()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_component_that_is_not_installed_has_the_pip_line() -> None:
    from segkernel.errors import NotInstalledError

    with pytest.raises(NotInstalledError, match="pip install segplug-heads"):
        find("PSPHead", Catalog(tuple(row for row in CATALOG.rows if row.distribution != "segplug-heads")))
