"""`Predictor`: models of every kind in, images of every kind in, files and predictions out."""

from __future__ import annotations

import json
import os
import sys

import cv2
import numpy as np
import pytest
import torch

from segkernel import checkpoint, image
from segkernel.errors import (
    AmbiguousComponentError,
    CheckpointError,
    ConfigError,
    DataError,
    NotInstalledError,
    UnknownComponentError,
    UntrustedError,
    UsageError,
)
from segkernel.loading import SizeLimit
from segkernel.predictor import Predictor


@pytest.fixture
def photos(tmp_path):
    """Three images of different sizes in a folder."""
    rng = np.random.default_rng(0)
    for name, size in {"a.jpg": (20, 30), "b.png": (33, 17), "c.png": (20, 30)}.items():
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    return tmp_path


@pytest.fixture
def predictor(tiny_model):
    return Predictor(tiny_model(), classes=["ground", "red", "blue"])


def test_one_path_gives_one_prediction_at_the_image_s_size(predictor, photos):
    prediction = predictor(photos / "b.png")
    assert prediction.labels.shape == (33, 17)
    assert prediction.meta["name"] == "b"


def test_an_array_gives_one_prediction(predictor):
    assert predictor(np.zeros((9, 11, 3), np.uint8)).labels.shape == (9, 11)


def test_several_images_give_a_list_in_their_order(predictor, photos):
    inputs = [photos / "a.jpg", str(photos / "b.png"), image.read(photos / "c.png")]
    wanted = [(20, 30), (33, 17), (20, 30)]
    assert [tuple(p.labels.shape) for p in predictor(inputs)] == wanted
    assert [tuple(p.labels.shape) for p in predictor(source for source in inputs)] == wanted


@pytest.mark.parametrize(
    ("inputs", "said"), [("missing.jpg", "no such file"), ("", "an empty string"), (".", "a directory")]
)
def test_a_missing_image_is_named(predictor, inputs, said):
    with pytest.raises((DataError, UsageError), match=said):
        predictor([inputs])


def test_values_that_are_not_finite_are_logged(predictor, caplog):
    predictor.predict(np.full((20, 30, 3), np.nan, np.float32), name="scan")
    assert "scan: some values are not finite" in caplog.text


def test_a_list_of_one_gives_a_list(predictor, photos):
    assert isinstance(predictor([photos / "a.jpg"]), list)


def test_scores_are_probabilities(predictor, photos):
    scores = predictor(photos / "a.jpg", probabilities=True)["seg_probabilities"]
    torch.testing.assert_close(scores.sum(0), torch.ones(20, 30))


def test_classes_and_palette_override_the_data_set_s(tiny_model, rectangles):
    known = Predictor(tiny_model(), dataset=rectangles())
    own = Predictor(tiny_model(), dataset=rectangles(), classes=["x", "y", "z"], palette=[(1, 2, 3)] * 3)
    assert known.classes == ("ground", "red", "blue")
    assert own.classes == ("x", "y", "z")
    assert own.palette[0] == (1, 2, 3)


def test_a_wrong_number_of_classes_is_refused(tiny_model):
    with pytest.raises(UsageError, match="3 classes, but 2"):
        Predictor(tiny_model(), classes=["one", "two"])


def test_a_module_that_only_returns_logits_is_wrapped():
    predictor = Predictor(torch.nn.Conv2d(3, 2, 1), classes=["no", "yes"])
    assert predictor(np.zeros((5, 6, 3), np.uint8)).labels.shape == (5, 6)


def test_a_module_without_classes_is_refused():
    with pytest.raises(UsageError, match="classes"):
        Predictor(torch.nn.Conv2d(3, 2, 1))


def test_weights_without_their_config_are_refused(tiny_model, tmp_path):
    torch.save(tiny_model().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="config"):
        Predictor(tmp_path / "weights.pt")
    again = Predictor(tiny_model(), weights=tmp_path / "weights.pt", classes=["a", "b", "c"])
    assert again.classes == ("a", "b", "c")


def test_a_list_of_one_array_gives_a_list(predictor):
    assert len(predictor([np.zeros((9, 11, 3), np.uint8)])) == 1


def test_an_empty_list_gives_an_empty_list(predictor):
    assert predictor([]) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((2, 5, 6, 3), np.uint8), r"\(2, 5, 6, 3\)"),
        (np.zeros((0, 6, 3), np.uint8), r"\(0, 6, 3\)"),
        (torch.zeros(2, 3, 5, 6), r"\(2, 3, 5, 6\) is none; several are a list"),
        (np.zeros((5, 6, 2), np.uint8), r"3 channels, \(H, W, C\) or \(C, H, W\); \(5, 6, 2\) is none"),
        (torch.zeros(3, 6, 3), r"\(3, 6, 3\) could be \(H, W, C\) or \(C, H, W\)"),
        (
            np.full((5, 6, 3), 200, np.float32),
            r"uint8 \(0 to 255\) or float \(0 to 1\), not normalised; this is float32 from 200 to 200",
        ),
        (torch.full((3, 5, 6), -0.5), "float32 from -0.5 to -0.5"),
        (np.zeros((5, 6, 3), np.uint16), "this is uint16 from 0 to 0"),
        (None, "NoneType"),
        ("", "empty"),
    ],
)
def test_an_input_that_is_not_an_image_is_refused(predictor, wrong, said):
    with pytest.raises((DataError, UsageError), match=said):
        predictor(wrong)


class Pillow:
    """What the predictor uses of a PIL image."""

    def __init__(self, array, mode="RGBA"):
        self.array, self.mode = array, mode
        self.__array_interface__ = array.__array_interface__

    def getbands(self):
        return tuple(self.mode)

    def convert(self, mode):
        return Pillow(self.array[..., :3], mode)


def test_an_image_in_memory_is_the_same_in_every_form(predictor):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    tensor = torch.from_numpy(pixels)
    alpha = np.concatenate([pixels, np.full((20, 30, 1), 9, np.uint8)], 2)
    same = [tensor, tensor.permute(2, 0, 1), pixels.transpose(2, 0, 1), alpha, Pillow(alpha), tensor.double() / 255,
            tensor.permute(2, 0, 1).float().div(255).requires_grad_()]  # fmt: skip
    expected = predictor(pixels, probabilities=True)["seg_probabilities"]
    for each in same:
        torch.testing.assert_close(predictor(each, probabilities=True)["seg_probabilities"], expected)
    grey = predictor(np.repeat(pixels[..., :1], 3, 2)).labels
    for each in (pixels[..., 0], pixels[..., :1], tensor[None, ..., 0]):
        torch.testing.assert_close(predictor(each).labels, grey)
    assert predictor(pixels[:3, :, 0]).labels.shape == (3, 30)  # three rows are no channels
    assert len(predictor(torch.stack([tensor, tensor]).unbind())) == 2


def test_arrays_have_as_many_channels_as_the_model():
    predictor = Predictor(
        torch.nn.Conv2d(5, 2, 1), classes=["no", "yes"], preprocess={"mean": [0.0] * 5, "std": [1.0] * 5}
    )
    assert predictor(np.zeros((5, 6, 5), np.uint8)).labels.shape == (5, 6)
    assert predictor(torch.zeros(5, 4, 6)).labels.shape == (4, 6)
    with pytest.raises(UsageError, match=r"5 channels, .*; \(4, 6\) is none"):
        predictor(np.zeros((4, 6), np.uint8))


def test_an_image_too_small_for_the_model_is_named(tmp_path):
    with pytest.raises(DataError, match="the model failed on an image of 5x6 pixels"):
        Predictor(torch.nn.Conv2d(3, 2, 9), classes=["no", "yes"])(np.zeros((5, 6, 3), np.uint8))


class Wrapped(torch.nn.Module):
    def forward(self, images):
        return {"aux": images}


@pytest.mark.parametrize(("module", "said"), [(torch.nn.Conv2d(3, 5, 1), r"\(1, 5, 4, 4\)"), (Wrapped(), "dict")])
def test_a_module_that_does_not_return_logits_of_the_classes_is_refused(module, said):
    with pytest.raises(UsageError, match=said):
        Predictor(module, classes=["no", "yes"])(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("palette", [[(1, 2, 3)], [(1, 2), (3, 4)], [(1, 2, 300), (3, 4, 5)]])
def test_a_palette_of_other_than_one_colour_per_class_is_refused(palette):
    with pytest.raises(UsageError, match="colour"):
        Predictor(torch.nn.Conv2d(3, 2, 1), classes=["no", "yes"], palette=palette)


def test_a_misspelt_preprocess_key_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        Predictor(torch.nn.Conv2d(3, 2, 1), classes=["no", "yes"], preprocess={"meen": [1, 2, 3]})


def test_a_data_set_config_without_a_type_is_refused():
    with pytest.raises(UnknownComponentError):
        Predictor(torch.nn.Conv2d(3, 2, 1), dataset={"root": "x"})


# ---------------------------------------------------------------- from a file, and on the command line


MODULE = """
import json
import torch
from pathlib import Path
from segkernel.interfaces.model import Exporter, PixelClasses, Segmentor

class Shades(Segmentor):
    def __init__(self, scale: float = 1.0, pretrained: str | None = None) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.outputs = {"seg": PixelClasses(classes=2, out_channels=2)}
        self.test_cfg = {"mode": "whole"}
        self.pretrained = pretrained

    def forward(self, images):
        light = images.mean(1, keepdim=True) - 128
        return torch.cat([-light, light], 1) * self.scale

    def predict(self, images):
        return {"seg": self(images)}

class ScaleExporter(Exporter):
    suffix = ".scale"

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def export(self, segmentor, path, example, metadata=None):
        Path(path).write_text(json.dumps({"scale": float(segmentor.scale), "metadata": metadata}))
        return f"proven on {tuple(example.shape)}"

    def load(self, path, device=None):
        stored = json.loads(Path(path).read_text())
        loaded = Shades(stored["scale"])
        loaded.metadata, loaded.device, loaded.loader = stored["metadata"], torch.device(device or "cpu"), self
        return loaded
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A checkpoint as a run writes it, whose data set and pretrained weights do not exist."""
    (tmp_path / "shades.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shades", raising=False)
    config = {
        "model": {"type": "shades:Shades", "pretrained": "gone.pth"},
        "data": {"test": {"type": "GoneData"}, "preprocess": {"mean": [0.0] * 3, "std": [1.0] * 3}},
    }
    meta = {"classes": ["dark", "light"], "palette": [[0, 0, 9], [9, 9, 0]], "config": config}
    checkpoint.save(tmp_path / "best.pt", {"state_dict": {"scale": torch.tensor(2.0)}, "meta": meta})
    return tmp_path / "best.pt"


@pytest.fixture
def night_and_day(tmp_path):
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    return tmp_path / "photo.png"


def test_a_checkpoint_is_all_that_is_needed(trained, night_and_day):
    predictor = Predictor(trained, trust=True)
    labels = predictor(night_and_day).labels
    assert predictor.classes == ("dark", "light")
    assert predictor.palette == ((0, 0, 9), (9, 9, 0))
    assert predictor.model.scale == 2
    assert (labels[:, :4] == 0).all()
    assert (labels[:, 4:] == 1).all()


def test_a_checkpoint_is_read_once(trained, monkeypatch):
    read, load = [], checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: (read.append(path), load(path))[1])
    assert Predictor(trained, trust=True).model.scale == 2
    assert read == [trained]


def test_given_names_override_the_checkpoint_s(trained):
    predictor = Predictor(trained, trust=True, classes=["night", "day"])
    assert predictor.classes == ("night", "day")
    assert predictor.palette == ((0, 0, 9), (9, 9, 0))


def test_a_config_without_weights_is_refused_unless_asked_for(trained):
    with pytest.raises(UsageError, match="without weights its predictions are random"):
        Predictor({"model": {"type": "shades:Shades"}})
    predictor = Predictor({"model": {"type": "shades:Shades"}}, random_weights=True)
    assert predictor.classes == ("class 0", "class 1")


def test_a_run_directory_gives_its_best_checkpoint_else_its_last(trained, tmp_path, caplog):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Predictor(tmp_path / "run")
    state = checkpoint.load(trained)
    for iteration, scale in ((10, 3.0), (20, 4.0)):
        state["state_dict"]["scale"] = torch.tensor(scale)
        checkpoint.save(folder / f"iter_{iteration:07d}.pt", {key: state[key] for key in ("state_dict", "meta")})
    assert Predictor(tmp_path / "run", trust=True).model.scale == 4
    assert "taking its last checkpoint, iter_0000020.pt" in caplog.text
    with pytest.raises(UsageError, match=r"is a folder of runs; name one, such as .*run"):
        Predictor(tmp_path)
    (folder / "iter_0000010.pt").rename(folder / "best_mIoU_iter_0000010.pt")
    (folder / "best_loss_iter_0000020.pt").touch()
    assert Predictor(str(tmp_path / "run"), trust=True).model.scale == 3
    assert Predictor({"model": {"type": "shades:Shades"}}, weights=tmp_path / "run").model.scale == 3
    (folder / "best_mIoU_iter_0000020.pt").touch()
    with pytest.raises(CheckpointError, match="several best checkpoints, name one"):
        Predictor(tmp_path / "run")


def test_a_config_and_weights_give_the_weights_model(trained):
    assert Predictor({"model": {"type": "shades:Shades"}}, weights=trained).model.scale == 2


def test_classes_are_numbered_if_the_data_s_package_is_not_installed(trained, caplog):
    state = checkpoint.load(trained)
    del state["meta"]["classes"], state["meta"]["palette"]
    checkpoint.save(trained, state)
    assert Predictor(trained, trust=True).classes == ("class 0", "class 1")
    assert "GoneData" in caplog.text


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, "the import path shades:Shades"),
        ({"model": {"type": "TinySegmentor", "loss": {"type": "os:system"}}}, "no segmentors component"),
        ({"_base_": "/etc/passwd"}, "another config, /etc/passwd"),
        ({"_base_": ["shades.yaml"]}, "another config"),
    ],
)
def test_a_checkpoint_s_config_is_data(trained, changes, asked):
    state = checkpoint.load(trained)
    state["meta"]["config"] |= changes
    checkpoint.save(trained, state)
    with pytest.raises((UntrustedError, ConfigError), match=asked):
        Predictor(trained)
    assert "shades" not in sys.modules


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classes", 5, "ignored its classes"),
        ("classes", "ab", "ignored its classes"),
        ("classes", [1, 2], "ignored its classes"),
        ("classes", torch.zeros(2), "ignored its classes"),
        ("palette", 5, "ignored its palette"),
        ("palette", ["red", "blue"], "ignored its palette"),
    ],
)
def test_classes_of_the_wrong_type_in_a_file_are_ignored(trained, caplog, key, value, said):
    content = torch.load(trained, weights_only=True)
    content["meta"][key] = value
    torch.save(content, trained)
    assert len(Predictor(trained, trust=True).palette) == 2
    assert said in caplog.text


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("data", 5), ("data", []), ("evaluate", "x"), ("export", 5), ("engine", 5), ("hooks", {}), ("plugins", 5),
        ("data", {"eval_transforms": 5}), ("data", {"preprocess": 5}), ("evaluate", {"test_cfg": {"crop_size": "x"}}),
    ],
)  # fmt: skip
def test_a_stored_config_is_checked_like_any_other(trained, section, value):
    state = checkpoint.load(trained)
    state["meta"]["config"][section] = value
    checkpoint.save(trained, state)
    with pytest.raises(ConfigError, match=rf"^{section}\b.*: expected"):
        Predictor(trained, trust=True)


def seg_kernel(*arguments):
    """Run the command line in this process."""
    from segkernel.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


# ---------------------------------------------------------------- exported files


@pytest.fixture
def exported(trained, monkeypatch):
    """A file of the module's exporter, which two distributions offer under two names."""
    from segkernel.catalog import Catalog, Row

    rows = [Row("exporters", f"{name}Exporter", f"dist-{name}", "1", "shades:ScaleExporter") for name in ("one", "two")]
    monkeypatch.setattr(Catalog, "discover", classmethod(lambda cls: Catalog(tuple(rows))))
    meta = {"classes": ["dark", "light"], "palette": [[0, 0, 9], [9, 9, 0]]}
    path = trained.with_suffix(".scale")
    path.write_text(json.dumps({"scale": 3.0, "metadata": meta}))
    return path


def test_two_exporters_of_one_suffix_are_an_error_that_names_both(exported):
    with pytest.raises(AmbiguousComponentError, match=r"type: dist-one/oneExporter or dist-two/twoExporter"):
        Predictor(exported)


def test_a_config_s_preference_settles_which_exporter_loads(exported):
    config = {"model": {"type": "shades:Shades"}, "plugins": {"prefer": ["dist-two"]}}
    assert Predictor(config, exported).model.scale == 3


@pytest.mark.parametrize("exporter", ["dist-one/oneExporter", {"type": "oneExporter", "factor": 2.0}])
def test_an_exporter_is_chosen_with_its_arguments(exported, exporter):
    loader = Predictor(exported, exporter=exporter).model.loader
    assert loader.factor == (2.0 if isinstance(exporter, dict) else 1.0)


def test_an_exported_file_takes_no_other_weights(exported, trained):
    with pytest.raises(UsageError, match="holds its own weights"):
        Predictor(exported, trained)


def test_a_config_s_exporter_is_the_one_that_loads_its_files(exported):
    spec = {"type": "oneExporter", "factor": 5.0}
    predictor = Predictor({"model": {"type": "shades:Shades"}, "export": [spec]}, exported)
    assert predictor.model.loader.factor == 5.0


def test_an_exported_file_runs_on_the_device_of_the_predictor(exported, monkeypatch):
    import shades

    asked = []
    load = shades.ScaleExporter.load
    monkeypatch.setattr(
        shades.ScaleExporter, "load", lambda self, path, device: asked.append(device) or load(self, path)
    )
    for device in (None, "auto", "cpu"):
        Predictor(exported, device=device, exporter="oneExporter")
    assert asked == [None, None, "cpu"]


def test_an_exported_file_is_tested_on_the_device_of_the_engine(exported, monkeypatch):
    import shades

    from segkernel.loading import load_exported

    monkeypatch.setattr(shades.ScaleExporter, "load", lambda self, path, device: device)
    config = {"plugins": {"prefer": ["dist-one"]}, "engine": {"device": "cuda:1"}}
    assert load_exported(exported, config=config) == "cuda:1"
    assert load_exported(exported, device="auto", config=config) is None


def test_a_file_that_no_exporter_reads_names_the_package(exported, monkeypatch, tmp_path):
    from segkernel.catalog import Catalog

    monkeypatch.setattr(Catalog, "discover", classmethod(lambda cls: Catalog()))
    with pytest.raises(NotInstalledError, match=r"best\.scale' needs a package.*\n    pip install segplug-deploy"):
        Predictor(exported)


def test_a_model_too_large_for_the_memory_is_refused_before_allocation() -> None:
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with SizeLimit() as limit, pytest.raises(UsageError, match="the model is too large"):
        torch.empty(half // 4 + 1)
    assert 4 * limit.numbers <= half


def test_prepared_samples_are_one_batch_with_the_predictions_of_single_images() -> None:
    torch.manual_seed(0)
    predictor = Predictor(torch.nn.Conv2d(3, 2, 3, padding=1), classes=["a", "b"])
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (12, 16, 3)).astype(np.uint8) for _ in range(3)]
    samples = [predictor.prepare(pixels, name=str(number)) for number, pixels in enumerate(images)]
    found = predictor.predict_samples(samples, probabilities=True)
    assert [each.meta["name"] for each in found] == ["0", "1", "2"]
    for one, pixels in zip(found, images):
        alone = predictor(pixels, probabilities=True)
        assert torch.equal(one.labels, alone.labels)
        assert torch.allclose(one["seg_probabilities"], alone["seg_probabilities"], atol=1e-6)


def test_windows_of_an_image_are_normalised_one_by_one() -> None:
    windows = {"mode": "slide", "crop_size": (16, 16), "stride": (10, 10)}
    preprocess = {"mean": [99.0, 110.5, 120.25], "std": [57.0, 58.0, 59.0], "channel_order": "bgr"}
    torch.manual_seed(0)
    predictor = Predictor(
        torch.nn.Conv2d(3, 4, 3, padding=1), classes=list("abcd"), preprocess=preprocess, test_cfg=windows
    )
    pixels = np.random.default_rng(0).integers(0, 256, (50, 41, 3)).astype(np.uint8)
    seen = []
    predictor.preprocessor.register_forward_pre_hook(lambda module, batch: seen.append(tuple(batch[0].images.shape)))
    found = predictor(pixels).labels
    assert set(seen) == {(1, 3, 16, 16)}
    predictor.preprocessor.padding[False] = {"size_divisor": 1}  # which has to see the whole image
    seen.clear()
    assert torch.equal(predictor(pixels).labels, found)
    assert seen == [(1, 3, 50, 41)]
