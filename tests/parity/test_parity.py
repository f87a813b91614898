"""Our models compared with MMSegmentation: keys, scores, label maps, losses, gradients, optimiser steps."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import golden_components
import golden_names
import golden_steps
import numpy as np
import pytest
import run

HERE = Path(__file__).parent
QUICK = ("_r18-", "_r18b-", "upernet_r18_4xb2", "fast_scnn", "bisenetv2", "stdc1", "hr18s", "mit-b0", "mobilenet-v3",
         "erfnet", "poolformer_s12")  # fmt: skip
"""Parts of the names of small models, whose inference is also checked in the quick set."""
LARGE = 80_000_000
"""Number of parameters from which gradients are only checked in the slow set, because they take too long."""
FAMILIES = sorted(path.name for path in (HERE / "cases").iterdir())
REPEATED = ("dsdl",)
"""Families only in the slow set: DeepLabV3 models, which another family covers, on data sets in another format."""


def read(name: str) -> list[dict]:
    return json.loads((HERE / "components" / name).read_text())


def smallest_cases() -> dict[str, Path]:
    """Return the case with the fewest parameters of each family."""
    cases = {name: list(golden.find(HERE / "cases" / name)) for name in FAMILIES if name not in REPEATED}
    return {name: min(paths, key=number_of_parameters) for name, paths in cases.items()}


def number_of_parameters(path: Path) -> int:
    return json.loads(path.read_text())["num_params"]


SMALLEST = smallest_cases()


def backbone(path: Path) -> str:
    return json.loads(path.read_text())["model"].get("backbone", {}).get("type", "")


WITH_BACKBONE = {backbone(path): path for path in sorted(SMALLEST.values(), key=number_of_parameters, reverse=True)}
"""For each backbone, the smallest of these cases; all others compare only the gradients of their heads."""


def is_quick(path: Path) -> bool:
    return path in SMALLEST.values() and any(part in path.stem for part in QUICK)


def case_parameters() -> list:
    paths = list(golden.find(HERE / "cases"))
    return [pytest.param(path, id=path.stem, marks=() if is_quick(path) else pytest.mark.slow) for path in paths]


@pytest.mark.parametrize("path", case_parameters())
def test_model_equals_the_reference(path: Path) -> None:
    assert golden.check(golden.Golden.load(path)).failures == []


def by_backbone() -> list:
    """Return the smallest cases, sorted by backbone so that its weights are drawn once and cached."""
    cases = sorted(SMALLEST.items(), key=lambda case: backbone(case[1]))
    return [pytest.param(path, id=name) for name, path in cases if not is_quick(path)]


@pytest.mark.parametrize("path", by_backbone())
def test_smallest_model_of_a_family_equals_the_reference(path: Path) -> None:
    gradients = number_of_parameters(path) < LARGE
    frozen = () if WITH_BACKBONE[backbone(path)] == path else ("backbone",)
    assert golden.check(golden.Golden.load(path), False, gradients, frozen).failures == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_full_cases_of_a_family_pass(family: str, full_cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run.main([str(full_cases / "cases" / family)])
    assert code == 0, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("case", read("train_steps.json"), ids=lambda case: Path(case["source_config"]).stem)
def test_five_training_steps_equal_the_reference(case: dict) -> None:
    assert golden_steps.check(case).failures == []


def test_losses_equal_the_reference() -> None:
    checked = [(case["cfg"], golden_components.check_loss(case).failures) for case in read("losses.json")]
    assert [row for row in checked if row[1]] == []


ACCURACY = json.loads((HERE / "components" / "accuracy.json").read_text())
COMPUTED = [(case, False) for case in ACCURACY["cases"] if isinstance(case["result"], list)]


def test_accuracies_equal_the_reference() -> None:
    cases = [*COMPUTED, *((case, True) for case in ACCURACY["cases_2d"])]
    checked = [(case, flat, golden_components.check_accuracy(case, flat).failures) for case, flat in cases]
    assert [row for row in checked if row[2]] == []


@pytest.mark.parametrize("case", json.loads((HERE / "components" / "ohem_sampler.json").read_text())["cases"])
def test_hard_example_mining_keeps_the_same_pixels(case: dict) -> None:
    with np.load(HERE / "components" / "ohem_sampler.npz") as masks:
        assert golden_components.check_sampler(case, masks[case["key"]]).failures == []


def test_a_scoped_name_outside_the_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        golden_names.our_name("mmdet.NoSuchLoss")


def test_a_wrong_model_fails_its_case(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = HERE / "cases" / "fastscnn" / "fast_scnn_8xb4-160k_cityscapes-512x1024.json"
    facts = json.loads(source.read_text())
    facts["model"]["decode_head"]["channels"] = 64
    (tmp_path / source.name).write_text(json.dumps(facts))
    (tmp_path / source.name).with_suffix(".npz").write_bytes(source.with_suffix(".npz").read_bytes())
    assert run.main([str(tmp_path)]) == 1
    assert "decode_head" in capsys.readouterr().out
