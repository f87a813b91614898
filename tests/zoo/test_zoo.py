"""The packaged zoo: it contains every published config, equal to the published one, valid and buildable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compare
import digest
import facts
import pytest

from segkernel.catalog import Catalog
from segkernel.config import load_config
from segkernel.config.layers import Layers
from segkernel.config.marks import MarkedDict
from segkernel.errors import ConfigError
from segplug_heads.configs.experiments import find_experiment, list_experiments
from segplug_heads.configs.zoo import find_zoos
from segplug_heads.moving_in.canonical import canonical_value

PUBLISHED: dict[str, dict[str, Any]] = json.loads(digest.FILE.read_text("utf-8"))
FAMILIES = sorted({entry["family"] for entry in PUBLISHED.values()})
UNAVAILABLE = ["vpd_sd_4xb8-25k_nyu-480x480", "vpd_sd_4xb8-25k_nyu-512x512"]
SIZED = [name for name, entry in PUBLISHED.items() if "parameters" in entry]


def of_family(family: str) -> list[str]:
    """Return the published names of a family that can be built."""
    return [name for name, entry in PUBLISHED.items() if entry["family"] == family and name not in UNAVAILABLE]


def test_every_published_name_is_listed_once() -> None:
    zoos = [zoo for zoo in find_zoos() if zoo.name == "segplug-heads"]
    listed = [entry.name for entry in list_experiments(zoos) if entry.family and entry.path.stem in FAMILIES]
    assert sorted(listed) == sorted(PUBLISHED)
    assert len(PUBLISHED) == 681


def test_configs_equal_the_published_ones() -> None:
    names = [name for name in PUBLISHED if name not in UNAVAILABLE]
    ours = {name: digest.digest(facts.canonical(facts.ours(load_config(name)))) for name in names}
    assert {name for name, code in ours.items() if code != PUBLISHED[name]["digest"]} == set()


def test_the_digests_are_up_to_date(full_facts: Path) -> None:
    assert dict(digest.entries(full_facts.parents[1])) == PUBLISHED


@pytest.mark.slow  # the two quick tests above check the same with digests
def test_the_comparison_finds_no_difference(full_facts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(full_facts)]) == 0
    assert "total: 679 of 681 equal, 2 with a reason" in capsys.readouterr().out


def test_the_comparison_finds_a_difference(full_facts: Path, tmp_path: Path) -> None:
    fact = json.loads(full_facts.read_text("utf-8").splitlines()[0])
    fact["model"]["decode_head"]["channels"] += 1
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps(fact))
    assert list(compare.differences(fact)) == ["model.decode_head.channels is 512, published 513"]
    assert compare.main([str(file)]) == 1


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        (
            "ddeeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024",
            "deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024",
        ),
        ("eemanet_r50-d8_4xb2-80k_cityscapes-512x1024", "emanet_r50-d8_4xb2-80k_cityscapes-512x1024"),
        ("fpn_poolformer_s36_8xb4-40k_ade20k-512x512", "fpn_poolformer_s36_8x4_512x512_40k_ade20k"),
    ],
)
def test_a_misspelt_name_is_an_alias(alias: str, name: str) -> None:
    assert find_experiment(alias, find_zoos()).name == name


def test_scores_that_were_published_under_anothers_name_are_their_own() -> None:
    entries = [entry for entry in list_experiments(find_zoos()) if entry.family]
    found = {entry.name: entry.meta()["published_as"] for entry in entries if "published_as" in entry.meta()}
    assert len(found) == 9
    assert found["ocrnet_hr18_4xb4-160k_ade20k-512x512"] == "ocrnet_hr18_4xb4-80k_ade20k-512x512"


def test_no_config_stands_on_more_than_three_files() -> None:
    depths = []

    class Measured(Layers):
        def add(self, mapping: MarkedDict, chain: tuple[Path, ...] = ()) -> None:
            depths.append(len(chain) - 1)
            super().add(mapping, chain)

    for family in filter(of_family, FAMILIES):
        Measured(Catalog.discover(), []).add_name(of_family(family)[0])
    assert 0 < max(depths) <= 3


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_what_cannot_be_built_says_why(name: str) -> None:
    pytest.importorskip("torch")
    from segkernel.experiment import check, make_model

    config = load_config(name)
    assert config["schedule"]["iterations"] == 25000
    assert "Stable Diffusion" in check(config)[0].message
    with pytest.raises(ConfigError, match="Stable Diffusion"):
        make_model(config)


NEWER = sorted(
    {entry.family.name for entry in list_experiments(find_zoos()) if entry.family and entry.zoo.name == "segplug-heads"}
    - set(FAMILIES)
)
"""Families that MMSegmentation never had."""


@pytest.mark.parametrize("family", NEWER)
def test_newer_configs_are_in_order(family: str) -> None:
    pytest.importorskip("torch")
    from segkernel.experiment import check

    names = [entry.name for entry in list_experiments(find_zoos()) if entry.family and entry.family.name == family]
    for name in names:
        assert [str(problem) for problem in check(load_config(name))] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_configs_are_in_order(family: str) -> None:
    pytest.importorskip("torch")
    from segkernel.experiment import check

    for name in of_family(family):
        assert [str(problem) for problem in check(load_config(name))] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_models_build_on_meta(family: str) -> None:
    different = {json.dumps(load_config(name)["model"], sort_keys=True): name for name in of_family(family)}
    for name in different.values():
        assert parameters_of(name) > 0


@pytest.mark.slow
def test_models_have_the_published_size() -> None:
    def image_size(name: str) -> list[str]:
        size = PUBLISHED[name].get("img_size")
        return [f"model.backbone.img_size={size}"] if size else []

    found = {name: parameters_of(name, *image_size(name)) for name in SIZED}
    assert found == {name: PUBLISHED[name]["parameters"] for name in SIZED}


def parameters_of(name: str, *overrides: str) -> int:
    """Build a model without memory for its weights; return its number of parameters."""
    torch = pytest.importorskip("torch")
    from segkernel.loading import make_model

    with torch.device("meta"):
        model = make_model(load_config(name, list(overrides)), pretrained=False)
    return sum(parameter.numel() for parameter in model.parameters())


def test_omitted_values_are_the_defaults() -> None:
    rows = [(name, key, value) for names, usual in facts.DEFAULTS for name in names for key, value in usual.items()]
    different = [
        (*row, found) for row in rows if (found := default_of(*row[:2])) not in (canonical_value(row[2]), None)
    ]
    assert different == []


def default_of(name: str, argument: str) -> Any:
    """Return the default of an argument of a component, None for a name that is not a component."""
    pytest.importorskip("torch")
    from segkernel.signature import signature

    catalog = Catalog.discover()
    groups = [g for g in ("segmentors", "backbones", "heads", "losses", "metrics") if name in catalog.names(g)]
    if not groups or argument == "requires_grad":
        return None
    found = signature(catalog.load(groups[0], name))[argument].default
    return canonical_value(list(found) if isinstance(found, tuple) else found)
