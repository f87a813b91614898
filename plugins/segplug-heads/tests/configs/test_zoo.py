"""Packaged configs: looked up by name, composed from parts, found without importing a package."""

from __future__ import annotations

import sys

import pytest

from segkernel.catalog import Catalog, Row
from segkernel.config import load_config
from segkernel.errors import ConfigError, MissingPackageError, UsageError
from segplug_heads.configs.experiments import find_experiment, list_experiments
from segplug_heads.configs.zoo import find_zoos

PUBLISHED = "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"


def problem_of(name, catalog):
    with pytest.raises(ConfigError) as error:
        load_config(name, catalog=catalog)
    assert len(error.value.problems) == 1
    return error.value.problems[0]


def test_a_published_name_is_composed_of_its_parts(zoo):
    config = load_config(PUBLISHED, catalog=zoo)
    assert config.data == {
        "data": {"num_classes": 19, "crop_size": [512, 1024]},
        "optim": {"batch_size": 8, "optimizer": {"type": "SGD", "lr": 0.01}},
        "schedule": {"iterations": 40000, "lr": [{"type": "PolyLR", "end": 40000}]},
        "plugins": {"prefer": ["segplug-heads"]},
        "model": {
            "type": "EncoderDecoder",
            "backbone": {"type": "ResNetV1c", "depth": 50},
            "decode_head": {"type": "PSPHead", "channels": 512, "num_classes": 19},
            "auxiliary_head": {"type": "FCNHead"},
        },
    }
    assert config.name == PUBLISHED
    assert config.source == "segplug-heads::families/pspnet.yaml:17:3"


def test_meta_is_kept_apart(zoo):
    config = load_config(PUBLISHED, catalog=zoo)
    assert config.meta["mIoU"] == 77.85
    assert config.meta["paper"]["year"] == 2017
    assert "_meta_" not in config


def test_a_variant_stands_on_another_and_schedule_parts_are_looked_up_piece_by_piece(zoo):
    config = load_config("pspnet_r101-d8_4xb2-amp-80k_cityscapes-512x1024", catalog=zoo)
    assert config["model"]["backbone"]["depth"] == 101
    assert config["engine"] == {"amp": "float16"}
    assert config["schedule"]["iterations"] == 80000


def test_an_experiment_may_name_its_parts_and_differ(zoo):
    config = load_config("one-of-a-kind", catalog=zoo)
    assert config["optim"] == {"batch_size": 8, "optimizer": {"type": "SGD", "lr": 0.02}}
    assert config["model"]["decode_head"]["channels"] == 128
    assert "auxiliary_head" not in config["model"]


def test_an_unpublished_combination_is_composed(zoo):
    config = load_config("pspnet_r18-d8_4xb2-80k_cityscapes-512x1024", catalog=zoo)
    assert config["model"]["backbone"]["depth"] == 18
    assert config["schedule"]["iterations"] == 80000


def test_a_whole_config_is_found_by_its_stem(zoo):
    config = load_config("quickstart", catalog=zoo)
    assert config.data == {"model": {"type": "FastSCNN"}, "seed": 1}
    assert config.source == "segplug-heads::quickstart.yaml"


@pytest.mark.parametrize("name", ["segplug-heads::quickstart.yaml", "segplug_heads::quickstart"])
def test_a_name_may_be_qualified(zoo, name):
    assert load_config(name, catalog=zoo)["seed"] == 1


def test_a_file_may_stand_on_a_packaged_one(zoo, write):
    path = write("my.yaml", "_base_: segplug-heads::quickstart.yaml\nmodel: {x: 1}")
    config = load_config(path, catalog=zoo)
    assert config["model"] == {"type": "FastSCNN", "x": 1}
    assert config.explain("model.type")[1].strip() == "segplug-heads::parts/small.yaml:1:9  FastSCNN"


@pytest.mark.parametrize("base", [PUBLISHED, f"segplug-heads::{PUBLISHED}"])
def test_a_file_may_stand_on_a_published_name(zoo, write, base):
    path = write(
        "mine.yaml",
        f"""
        _base_: {base}
        optim: {{batch_size: 2}}
    """,
    )
    config = load_config(path, catalog=zoo)
    assert config["optim"]["batch_size"] == 2
    assert config["model"]["decode_head"]["type"] == "PSPHead"


def test_a_base_that_no_package_has_is_named_with_its_place(zoo, write):
    path = write("mine.yaml", "_base_: pspnet_r50-d8_4xb2-40k_cityscape-512x1024")
    with pytest.raises(ConfigError) as error:
        load_config(path, catalog=zoo)
    assert "mine.yaml:1:" in str(error.value)


def test_no_package_is_imported(zoo):
    load_config(PUBLISHED, catalog=zoo)
    assert not {"toy_heads", "toy_datasets"} & set(sys.modules)


def test_local_configs_come_first(zoo, write):
    write("local_configs/quickstart.yaml", "seed: 99")
    config = load_config("quickstart", catalog=zoo)
    assert (config["seed"], config.source) == (99, "local_configs/quickstart.yaml")


def test_local_parts_come_first(zoo, write):
    write("local_configs/data/cityscapes-512x1024.yaml", "data: {num_classes: 3}")
    write("local_configs/schedules.yaml", "mine:\n  1k: {schedule: {iterations: 1000}}")
    config = load_config("pspnet_r50-d8_4xb2-1k_cityscapes-512x1024", catalog=zoo)
    assert config["model"]["decode_head"]["num_classes"] == 3
    assert config["schedule"] == {"iterations": 1000}


def test_a_local_family_needs_no_package(write, source_only):
    write("local_configs/families/tiny.yaml", "base: {model: {type: X}}\nexperiments:\n  tiny: {seed: 4}\n")
    assert load_config("tiny", catalog=source_only).data == {"model": {"type": "X"}, "seed": 4}


def test_a_changed_family_is_read_again(zoo, write):
    for number in (1, 22):
        write("local_configs/families/tiny.yaml", f"experiments:\n  tiny: {{seed: {number}}}\n")
        assert load_config("tiny", catalog=zoo)["seed"] == number


def test_a_missing_data_part_gives_the_pip_line(models_only):
    with pytest.raises(MissingPackageError) as error:
        load_config(PUBLISHED, catalog=models_only)
    assert error.value.exit_code == 3
    (problem,) = error.value.problems
    assert problem.message == "unknown data part 'cityscapes-512x1024'"
    assert problem.place == "segplug-heads::families/pspnet.yaml:17:3"
    assert problem.hint.startswith("pip install segplug-datasets")


def test_without_any_zoo_the_pip_line_is_given():
    with pytest.raises(MissingPackageError, match="pip install segplug-heads"):
        load_config(PUBLISHED, catalog=Catalog())


def test_a_base_of_a_missing_package_gives_the_pip_line(write):
    path = write("my.yaml", "_base_: segplug-heads::quickstart.yaml")
    with pytest.raises(MissingPackageError) as error:
        load_config(path, catalog=Catalog())
    assert error.value.problems[0].place == "my.yaml:1:1"
    assert error.value.problems[0].hint == "pip install segplug-heads"


NAMES = {
    "pspnet_r50-d8_4xb2-41k_cityscapes-512x1024": ("unknown schedule part '4xb2-41k'", "40k"),
    "pspnet_r50-d8_4xb2-40k_cityscape-512x1024": ("unknown data part", "'cityscapes-512x1024'"),
    "pspnet_r55-d8_4xb9-7k_x-512x1024": ("no config is called", "pspnet_r5"),
    "quickstrat": ("no config is called 'quickstrat'", "quickstart"),
    "segplug-heads::quick": ("no config is called 'quick'", "seg-kernel models"),
    "segplug-heds::quickstart": ("no package segplug-heds with configs", "segplug-heads::quickstart"),
    "mmseg::pspnet_r50-d8": ("no package mmseg with configs", "omit mmseg::"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_an_unknown_name_or_part_is_named_with_the_near_ones(zoo, name, expected):
    problem = problem_of(name, zoo)
    assert expected[0] in problem.message
    assert expected[1] in problem.hint


def test_a_bare_name_next_to_its_file_is_pointed_out(zoo, write):
    write("mine.yaml", "seed: 1")
    assert "mine.yaml" in problem_of("mine", zoo).hint


@pytest.mark.parametrize("source", ["", "  ", None, 3])
def test_what_is_no_source_is_a_usage_error(source):
    with pytest.raises(UsageError):
        load_config(source)


def test_two_packages_with_one_name_must_be_told_apart(zoo, write):
    write("site/toy_other/zoo/quickstart.yaml", "seed: 5")
    both = Catalog((*zoo.rows, Row("zoo", "other", "other-zoo", "1.0", "toy_other:zoo")))
    assert problem_of("quickstart", both).hint == "write other-zoo::quickstart or segplug-heads::quickstart"
    assert load_config("other-zoo::quickstart", catalog=both)["seed"] == 5


def test_an_alias_is_another_name_of_an_experiment(zoo, write):
    write("local_configs/families/tiny.yaml", "aliases: {tinny: tiny}\nexperiments: {tiny: {seed: 4}}")
    assert find_experiment("tinny", find_zoos(zoo)).name == "tiny"
    assert load_config("tinny", catalog=zoo).data == {"seed": 4}
    assert "tinny" not in [entry.name for entry in list_experiments(find_zoos(zoo))]


BAD_FAMILIES = {
    "aliases: {tinny: tony}": ("aliases.tinny", "names no experiment of this file"),
    "bases: {}": ("bases", "unknown key of a family file"),
    "variants: [a]": ("variants", "must be a mapping, not [a]"),
    "variants: {a: 3}": ("variants.a", "must be a mapping or nothing, not 3"),
    "experiments: {tiny: text}": ("experiments.tiny", "must be a mapping or nothing, not text"),
}


@pytest.mark.parametrize(("text", "expected"), BAD_FAMILIES.items())
def test_a_bad_family_is_reported_with_its_place(zoo, write, text, expected):
    write("local_configs/families/tiny.yaml", text if "experiments" in text else f"{text}\nexperiments: {{tiny: }}")
    with pytest.raises(ConfigError) as error:
        load_config("tiny", catalog=zoo)
    assert (error.value.problems[0].path, error.value.problems[0].message) == expected
    assert error.value.problems[0].place.startswith("local_configs/families/tiny.yaml:1:")


def test_a_bad_family_does_not_break_the_others(zoo, write):
    write("local_configs/families/tiny.yaml", "variants: [")
    assert load_config("quickstart", catalog=zoo)["seed"] == 1


VARIANTS = {
    "variants: {a: {_base_: b}, b: {_base_: a}}": "a variant includes itself: a -> b -> a",
    "variants: {a: {_base_: c}, b: {}}": "tiny has no variant 'c'",
    "variants: {b: {}}": "tiny has no variant 'a'",
}


@pytest.mark.parametrize(("text", "message"), VARIANTS.items())
def test_variants_that_lead_nowhere_are_named(zoo, write, text, message):
    write("local_configs/families/tiny.yaml", f"{text}\nexperiments:\n  tiny: {{variant: a}}")
    assert problem_of("tiny", zoo).message == message


def test_the_list_is_in_the_order_of_look_up(zoo, write):
    write("local_configs/mine.yaml", "seed: 1")
    entries = list(list_experiments(find_zoos(zoo)))
    assert [entry.name for entry in entries[:3]] == ["mine", "quickstart", PUBLISHED]
    assert (entries[2].variant, entries[2].schedule, entries[2].data) == ("r50-d8", "4xb2-40k", "cityscapes-512x1024")


def test_an_experiment_knows_what_was_published(zoo):
    assert find_experiment(PUBLISHED, find_zoos(zoo)).meta()["mIoU"] == 77.85


def test_a_zoo_entry_that_leads_nowhere_is_skipped(zoo):
    rows = [
        Row("zoo", name, name, "1", value) for name, value in (("gone", "gone:zoo"), ("no-folder", "toy_heads:nix"))
    ]
    assert len(find_zoos(Catalog((*zoo.rows, *rows)))) == 2
