"""``seg-kernel models``, and ``seg-kernel config`` of a packaged name."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from segkernel.catalog import Catalog, Row
from segkernel.errors import ConfigError, UsageError


@pytest.fixture
def call(zoo, monkeypatch):
    """Call ``config ...`` or ``models ...``; return what it prints, raise what it raises."""
    from segkernel.cli.config import command as config
    from segplug_heads.commands.models import command as models

    monkeypatch.setattr(Catalog, "discover", lambda: zoo)

    def call(name: str, *arguments: str) -> str:
        command = {"config": config, "models": models}[name]
        return CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False).output

    return call


@pytest.fixture
def raised(call):
    """Return the error of a command that must fail."""

    def raised(*arguments: str) -> Exception:
        with pytest.raises((ConfigError, UsageError)) as error:
            call(*arguments)
        return error.value

    return raised


class Minutes:
    """A config source of another package."""

    def __init__(self, catalog: Catalog) -> None:
        pass

    def names(self) -> list[str]:
        return ["dist-minutes::five", "dist-minutes::ten"]


def test_the_list_names_the_configs_of_other_sources(call, zoo, monkeypatch):
    row = Row("config_sources", "Minutes", "dist-minutes", "1", f"{__name__}:Minutes")
    load = Catalog.load_row
    monkeypatch.setattr(Catalog, "load_row", lambda self, row: Minutes if row.name == "Minutes" else load(self, row))
    catalog = Catalog((*zoo.rows, row))
    monkeypatch.setattr(Catalog, "discover", lambda: catalog)
    listed = {entry["name"]: entry["from"] for entry in json.loads(call("models", "list", "--json"))}
    assert {"five", "one-of-a-kind"} <= set(listed)
    assert [entry["from"] for entry in json.loads(call("models", "list", "five", "--json"))] == ["dist-minutes"]
    assert "five" not in call("models", "list", "--family", "pspnet")


def test_show_prints_the_resolved_config_with_places(call):
    lines = call("config", "show", "one-of-a-kind", "seed=3").splitlines()
    assert ["lr:", "0.02", "#", "segplug-heads::families/pspnet.yaml:24:25"] in [line.split() for line in lines]
    assert ["seed:", "3", "#", "command", "line"] in [line.split() for line in lines]


def test_show_can_leave_the_places_out(call):
    assert call("config", "show", "quickstart", "--no-places") == "model:\n  type: FastSCNN\nseed: 1\n"


def test_show_explains_keys(call):
    output = call("config", "show", "one-of-a-kind", "--explain", "optim.optimizer.lr", "--explain", "seed", "seed=1")
    assert output.splitlines() == [
        "optim.optimizer.lr: 0.02",
        "  segplug-heads::families/pspnet.yaml:24:25  0.02",
        "  segplug-heads::schedules.yaml:8:36  0.01",
        "seed: 1",
        "  command line  1",
    ]


def test_models_lists_names_families_data_and_scores(call):
    rows = [line.split() for line in call("models").splitlines()]
    name = "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"
    assert [name, "pspnet", "cityscapes-512x1024", "77.85", "segplug-heads"] in rows
    assert ["quickstart", "-", "-", "-", "segplug-heads"] in rows


@pytest.mark.parametrize(("glob", "count"), [("pspnet*", 2), ("r101", 1), ("*kind", 1), ("*", 4)])
def test_models_takes_a_glob(call, glob, count):
    assert len(json.loads(call("models", glob, "--json"))) == count


@pytest.mark.parametrize(
    ("options", "count"), [(["--family", "pspnet"], 3), (["--data", "cityscapes"], 3), (["r101", "--data", "ade*"], 0)]
)
def test_models_are_chosen_by_family_and_data(call, raised, options, count):
    if count:
        assert len(json.loads(call("models", *options, "--json"))) == count
    else:
        assert isinstance(raised("models", *options), UsageError)


def test_an_unknown_family_is_named_with_the_near_ones(raised):
    assert "did you mean 'pspnet'" in str(raised("models", "--family", "pspnt"))


def test_models_download_fetches_the_published_weights(call, raised, monkeypatch):
    monkeypatch.setattr("segkernel.checkpoint.locate", lambda url: f"cache of {url}")
    name = "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"
    assert "cache of https://example.org/psp.pth" in call("models", "download", name)
    assert "published without weights" in str(raised("models", "download", "one-of-a-kind"))
    assert "cache of open-mmlab://resnet50" in call("models", "download", "open-mmlab://resnet50")


def test_models_with_no_match_names_the_near_ones(raised):
    assert "quickstart" in str(raised("models", "quikstart"))


def test_models_show_gives_parts_paper_scores_and_place(call):
    facts = json.loads(call("models", "show", "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024", "--json"))
    assert facts["variant"] == "r50-d8"
    assert facts["schedule"] == "4xb2-40k"
    assert facts["listed at"] == "segplug-heads::families/pspnet.yaml:17:3"
    assert facts["file"].endswith("families/pspnet.yaml")
    assert facts["mIoU"] == 77.85
    assert facts["paper"]["title"] == "Pyramid Scene Parsing Network"


def test_models_show_of_an_unknown_name_is_an_error(raised):
    assert "did you mean quickstart" in str(raised("models", "show", "quickstar"))


def test_what_a_whole_config_says_of_itself_is_shown(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local_configs").mkdir()
    text = "_meta_: {paper: {title: Cracks}, mIoU: 61.5}\nseed: 1\n"
    (tmp_path / "local_configs" / "cracks.yaml").write_text(text)
    facts = json.loads(call("models", "show", "cracks", "--json"))
    assert facts["paper"] == {"title": "Cracks"}
    (row,) = json.loads(call("models", "list", "cracks", "--json"))
    assert row["mIoU"] == 61.5


def test_scores_other_than_miou_are_listed_by_name(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local_configs").mkdir()
    (tmp_path / "local_configs" / "boxes.yaml").write_text("_meta_: {box_AP: 38.6, mask_AP: 34.5}\nseed: 1\n")
    assert "box_AP 38.6, mask_AP 34.5" in call("models", "list", "boxes")
    (row,) = json.loads(call("models", "list", "boxes", "--json"))
    assert (row["box_AP"], row["mask_AP"], row["mIoU"]) == (38.6, 34.5, None)
