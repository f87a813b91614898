"""Third-party weights: the choice of a format, and the errors without one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from segkernel import build, checkpoint, weights
from segkernel.catalog import Catalog, Row
from segkernel.checkpoint import locate
from segkernel.config import load_config
from segkernel.errors import (
    AmbiguousComponentError,
    CheckpointError,
    DisabledPluginError,
    NotInstalledError,
    UnknownComponentError,
)
from segkernel.interfaces.model import WeightFormat
from segkernel.loading import make_model
from segkernel.testing.toys import ToySegmentor
from segkernel.weights import convert


class Theirs(WeightFormat):
    """Names with a prefix; files and addresses of their own."""

    suffixes: ClassVar = (".theirs",)

    def locates(self, source: str) -> bool:
        return source.startswith("theirs://")

    def locate(self, source: str) -> Path:
        return Path(source.removeprefix("theirs://"))

    def read(self, path: Path) -> Mapping[str, Any]:
        assert path.read_text() == "seven"
        return {"weight": torch.full((1, 1), 7.0)}

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return all(key.startswith("their_") for key in keys)

    def convert(self, module: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.removeprefix("their_"): value for key, value in given.items()}


class Fewer(Theirs):
    """Knows one name only."""

    def convert(self, module: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"bias": given["their_bias"]}


class Plus(Theirs):
    """Adds one to each value, to be distinguishable from `Theirs`."""

    def convert(self, module: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value + 1 for name, value in super().convert(module, given).items()}


class Swapped(WeightFormat):
    """The kernel's names, with negated values; recognised by an additional name."""

    values_only: ClassVar = (nn.Linear,)

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return "swapped" in keys

    def convert(self, module: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: -value for name, value in given.items() if name != "swapped"}


Install = Callable[..., Catalog]


@pytest.fixture
def install() -> Iterator[Install]:
    """Return a function that makes a catalog with formats, each the only one of a distribution, the one in use."""
    contexts = []

    def put(*names: str, prefer: tuple[str, ...] = ()) -> Catalog:
        rows = [Row("weight_formats", name, f"dist-{name.lower()}", "1", f"{__name__}:{name}") for name in names]
        catalog = Catalog(tuple(rows), prefer)
        contexts.append(catalog.active())
        contexts[-1].__enter__()
        return catalog

    yield put
    for context in reversed(contexts):
        context.__exit__(None, None, None)


def layer() -> nn.Linear:
    return nn.Linear(1, 1)


def theirs() -> dict[str, Tensor]:
    return {"their_weight": torch.full((1, 1), 3.0), "their_bias": torch.full((1,), 4.0)}


def test_our_own_names_are_not_converted(install: Install) -> None:
    install("Theirs")
    assert convert(layer(), layer().state_dict()).format == ""


def test_a_format_is_recognised_by_its_keys(install: Install, tmp_path: Path) -> None:
    install("Theirs")
    torch.save(theirs(), tmp_path / "a.pth")
    model = layer()
    _, report = weights.load_into(model, tmp_path / "a.pth", "strict")
    assert (float(model.weight.detach()), float(model.bias.detach())) == (3, 4)
    assert report.format == "Theirs"
    assert "converted from Theirs" in str(report)


def test_the_format_that_provides_most_tensors_is_used(install: Install) -> None:
    install("Fewer", "Theirs")
    assert convert(layer(), theirs()).format == "Theirs"


def test_two_equally_good_formats_are_an_error_until_one_is_preferred(install: Install) -> None:
    install("Plus", "Theirs")
    with pytest.raises(AmbiguousComponentError, match=r"type: dist-plus/Plus or dist-theirs/Theirs.*plugins\.prefer"):
        convert(layer(), theirs())
    install("Plus", "Theirs", prefer=("dist-theirs",))
    assert float(convert(layer(), theirs()).weights["bias"]) == 4
    install("Plus", "Theirs", prefer=("dist-plus",))
    assert float(convert(layer(), theirs()).weights["bias"]) == 5


def test_a_format_can_be_requested(install: Install) -> None:
    install("Plus", "Theirs")
    assert convert(layer(), theirs(), "Plus").format == "Plus"
    with pytest.raises(UnknownComponentError, match="'Theirs'"):
        convert(layer(), theirs(), "Thiers")


def test_a_format_reads_the_files_of_its_suffix(install: Install, tmp_path: Path) -> None:
    install("Theirs")
    (tmp_path / "a.theirs").write_text("seven")
    assert float(checkpoint.load(tmp_path / "a.theirs")["state_dict"]["weight"]) == 7


def test_a_file_written_by_torch_is_read_by_torch_despite_its_suffix(install: Install, tmp_path: Path) -> None:
    install("Theirs")
    torch.save({"weight": torch.ones(1)}, tmp_path / "a.theirs")
    assert list(checkpoint.load(tmp_path / "a.theirs")["state_dict"]) == ["weight"]


def test_two_readers_of_one_suffix_are_an_error_until_one_is_preferred(install: Install, tmp_path: Path) -> None:
    (tmp_path / "a.theirs").write_text("seven")
    install("Plus", "Theirs")
    with pytest.raises(
        AmbiguousComponentError, match=r"\.theirs' is offered 2 times\n.*dist-plus/Plus or dist-theirs/Theirs"
    ):
        checkpoint.load(tmp_path / "a.theirs")
    install("Plus", "Theirs", prefer=("dist-plus",))
    assert checkpoint.load(tmp_path / "a.theirs")["state_dict"]


def test_a_format_locates_names(install: Install, tmp_path: Path) -> None:
    install("Theirs")
    assert locate(f"theirs://{tmp_path}/a.pth") == tmp_path / "a.pth"


def test_an_existing_file_is_located_as_it_is(install: Install, tmp_path: Path) -> None:
    install("Theirs")
    (tmp_path / "own.pth").touch()
    assert locate(tmp_path / "own.pth") == tmp_path / "own.pth"


@pytest.mark.parametrize("source", ["torchvision://resnet50", "https://example.org/resnet50.pth"])
def test_without_a_plugin_a_name_names_the_package(install: Install, source: str) -> None:
    install()
    with pytest.raises(NotInstalledError, match=r"needs a package.*\n    pip install segplug-backbones"):
        locate(source)


def test_a_disabled_package_is_reported_as_such(install: Install) -> None:
    row = Row("weight_formats", "Downloads", "segplug-backbones", "1", "nowhere:Downloads", "disabled")
    with Catalog((row,)).active(), pytest.raises(DisabledPluginError, match="SEGKERNEL_DISABLE"):
        locate("torchvision://resnet50")


def test_an_address_that_no_installed_format_knows_is_refused(install: Install) -> None:
    row = Row("weight_formats", "Downloads", "segplug-backbones", "1", f"{__name__}:Theirs")
    with Catalog((row,)).active(), pytest.raises(CheckpointError, match="no weight format locates this"):
        locate("torchvision://resnet50")


def test_without_a_plugin_a_foreign_file_names_the_package(install: Install, tmp_path: Path) -> None:
    install()
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 an archive of arrays")
    with pytest.raises(NotInstalledError, match=r"a\.npz' needs a package.*\n    pip install segplug-backbones"):
        checkpoint.load(tmp_path / "a.npz")


def test_a_broken_format_is_skipped_with_a_warning(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("Missing", "Theirs")
    assert convert(layer(), theirs()).format == "Theirs"
    assert "dist-missing/Missing" in caplog.text


def test_a_backbone_is_found_in_a_whole_model(install: Install) -> None:
    install("Theirs")
    whole = {f"backbone.{key}": value for key, value in layer().state_dict().items()} | {"head.bias": torch.zeros(2)}
    assert convert(layer(), whole).weights.keys() == layer().state_dict().keys()


def test_a_format_that_only_changes_values_is_used_although_all_names_fit(install: Install) -> None:
    install("Swapped", "Theirs")
    given = {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
    marked = convert(layer(), {**given, "swapped": torch.ones(1)})
    assert (marked.format, float(marked.weights["weight"])) == ("Swapped", -1)
    silent = convert(layer(), given)
    assert (silent.format, silent.considered, float(silent.weights["weight"])) == ("", ("Swapped",), 1)
    assert convert(layer(), given, values=False).considered == ()


def test_the_report_lists_considered_formats(install: Install, tmp_path: Path) -> None:
    install("Swapped")
    torch.save(layer().state_dict(), tmp_path / "a.pth")
    _, report = weights.load_into(layer(), tmp_path / "a.pth", "finetune")
    assert "Swapped::FILE" in str(report)
    _, report = weights.load_into(layer(), tmp_path / "a.pth", "finetune", format="Swapped")
    assert report.format == "Swapped"
    assert report.considered == ()


class Started(ToySegmentor):
    """Starts from weights."""

    def __init__(self, pretrained: str) -> None:
        super().__init__()
        self.pretrained = pretrained


def test_pretrained_can_name_a_format(install: Install, tmp_path: Path) -> None:
    given = {name: torch.ones_like(value) for name, value in ToySegmentor().backbone.state_dict().items()}
    torch.save(given, tmp_path / "a.pth")
    model = {"type": f"{__name__}:Started", "pretrained": f"Swapped::{tmp_path / 'a.pth'}"}
    (tmp_path / "a.yaml").write_text(json.dumps({"model": model}))
    built = make_model(load_config(tmp_path / "a.yaml"), install("Swapped"))
    assert all((value == -1).all() for value in built.backbone.state_dict().values())


def test_build_loads_what_pretrained_names_or_refuses(tmp_path: Path) -> None:
    spec = {"type": f"{__name__}:Started", "pretrained": str(tmp_path / "a.pth")}
    with pytest.raises(CheckpointError, match="no such file"):
        build("segmentors", spec)
    torch.save(
        {name: torch.ones_like(v) for name, v in ToySegmentor().backbone.state_dict().items()}, tmp_path / "a.pth"
    )
    assert all((value == 1).all() for value in build("segmentors", spec).backbone.state_dict().values())
    constructed = Started(spec["pretrained"])
    assert constructed.pretrained == spec["pretrained"], "constructors never load"
    assert build("segmentors", constructed).pretrained == spec["pretrained"], "a built object is returned unchanged"
