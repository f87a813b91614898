"""`predict_images` and ``seg-kernel predict``: images of every kind as input, predictions and files as output."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Predictor
from segkernel.cli import main
from segkernel.errors import DataError, UsageError
from segplug_datasets import Ensemble, collect_images, image, predict_images
from segplug_datasets.commands.predict import leading_models
from segplug_datasets.predict.images import UnusableImages
from segplug_datasets.predict.video import VideoFile


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images of different sizes in a folder."""
    rng = np.random.default_rng(0)
    for name, size in {"a.jpg": (20, 30), "b.png": (33, 17), "c.png": (20, 30)}.items():
        image.write(tmp_path / "in" / name, rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    return tmp_path / "in"


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(torch.nn.Conv2d(3, 3, 1), classes=["ground", "red", "blue"])


@pytest.mark.parametrize("kind", ["folder", "glob", "list", "generator", "text"])
def test_several_images_give_predictions_in_their_order(predictor: Predictor, photos: Path, kind: str) -> None:
    (photos / "list.txt").write_text("a.jpg\nb.png\n# a comment\nc.png\n")
    inputs: Any = {
        "folder": photos,
        "glob": str(photos / "*.*g"),
        "list": [photos / "a.jpg", str(photos / "b.png"), image.read(photos / "c.png")],
        "generator": (photos / name for name in ("a.jpg", "b.png", "c.png")),
        "text": photos / "list.txt",
    }[kind]
    found = [tuple(prediction.labels.shape) for prediction in predict_images(predictor, inputs)]
    assert found == [(20, 30), (33, 17), (20, 30)]


def test_files_go_to_their_folders(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    list(predict_images(predictor, photos, tmp_path / "out", img_out_dir="drawn", pred_out_dir="labels"))
    assert sorted(path.name for path in (tmp_path / "out" / "drawn").iterdir()) == ["a.png", "b.png", "c.png"]
    labels = image.read_mask(tmp_path / "out" / "labels" / "b.png")
    assert np.array_equal(labels, predictor(photos / "b.png").labels.numpy())


def test_an_empty_folder_name_writes_nothing_there(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    list(predict_images(predictor, photos / "a.jpg", tmp_path / "out", img_out_dir=""))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pred"]


def test_good_images_are_predicted_despite_bad_ones(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    found = []
    with pytest.raises(UnusableImages, match=r"bad\.png"):
        found.extend(predict_images(predictor, photos, tmp_path / "out"))
    assert len(list((tmp_path / "out" / "pred").iterdir())) == 3


@pytest.mark.parametrize("inputs", ["missing.jpg", "empty", "*.tif"])
def test_missing_files_are_named(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=inputs.replace("*", r"\*")):
        list(predict_images(predictor, inputs))


def test_images_of_one_name_do_not_overwrite_each_other(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    image.write(photos / "a.png", np.zeros((5, 5, 3), np.uint8))
    list(predict_images(predictor, photos, tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out" / "pred").iterdir()}
    assert names == {"a.png", "a_2.png", "b.png", "c.png"}


def test_opacity_must_be_above_zero(predictor: Predictor, photos: Path) -> None:
    with pytest.raises(UsageError, match="opacity"):
        list(predict_images(predictor, photos, opacity=0))


def test_arrays_and_paths_may_be_mixed(photos: Path) -> None:
    assert len(collect_images([photos, np.zeros((4, 4, 3), np.uint8)])) == 4


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 5, 6), None, "", {"a": 1}, b"a.png"], ids=lambda value: repr(value)[:6]
)
def test_other_values_than_images_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="image"):
        collect_images(wrong)


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xfe\x00", "not UTF-8 text"), (b"\n", "empty"), (b"# none", "empty")]
)
def test_a_bad_list_of_images_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=said):
        collect_images(tmp_path / "list.txt")


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: a config, its weights, and a photo."""
    from segkernel.testing.toys import ToySegmentor

    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text("model: {type: 'segkernel.testing.toys:ToySegmentor'}\n")
    torch.save({"state_dict": ToySegmentor().state_dict()}, "best.pt")
    image.write("photo.png", np.full((40, 48, 3), 255, np.uint8))
    return tmp_path


def predict(*arguments: str) -> Any:
    """Run the command in this process; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["predict", *arguments])
    return caught.value.code


TOY = ("toy.yaml", "--weights", "best.pt", "--device", "cpu")


@pytest.mark.parametrize(("kind", "folders"), [("labels", ["pred"]), ("overlays", ["vis"]), ("both", ["pred", "vis"])])
def test_the_command_writes_what_it_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str, folders: list[str]
) -> None:
    assert not predict(*TOY, "photo.png", "--out", "out", "--format", kind)
    assert sorted(entry.name for entry in Path("out").iterdir()) == folders
    assert "1 image predicted on cpu" in capsys.readouterr().out


def test_the_command_predicts_the_good_images_and_names_the_bad(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.png").write_text("no image")
    assert predict(*TOY, "bad.png", "photo.png", "gone.png", "--out", "out") == 1
    message = capsys.readouterr().err
    assert "bad.png" in message
    assert "gone.png" in message
    assert "Traceback" not in message
    assert [entry.name for entry in Path("out/pred").iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("gone.pt", "photo.png"), 1, "gone.pt: no such file"),
        (("toy.yaml", "*.tif"), 1, "no file matches"),
        (("toy.yaml", "photo.png", "--opacity", "0"), 2, "opacity"),
        (("toy.yaml", "photo.png", "--device", "junk", "--random-weights"), 2, "junk"),
        (("toy.yaml", "photo.png"), 2, "or ask for it: random_weights=True (--random-weights)"),
        (("toy.yaml", "photo.png", "--weights", "photo.png"), None, "photo.png"),
        (("no_such_config", "photo.png"), None, "no_such_config"),
    ],
)
def test_bad_arguments_of_the_command_are_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int | None, said: str
) -> None:
    given = predict(*arguments)
    message = capsys.readouterr().err
    assert given == code if code else given in (1, 2, 3)  # 3 where no package with configs is installed
    assert said in message
    assert "Traceback" not in message


def test_the_command_changes_the_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not predict(*TOY, "photo.png", "+model.num_classes=4", "--out", "out")
    assert predict(*TOY, "photo.png", "+model.num_classes=7", "--out", "out") == 1
    assert "decode_head" in capsys.readouterr().err
    assert predict(*TOY, "+model.num_classes=4") == 2
    assert "give an IMAGE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "tta"),
    [
        ((), None),
        (("--tta",), {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}),
        (("--tta", "evaluate={tta: {scales: [1, 2], flip: false}}"), {"scales": [1, 2], "flip": False}),
    ],
)
def test_the_command_averages_views(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], tta: Any
) -> None:
    used = []
    monkeypatch.setattr(
        "segplug_datasets.predict.images.predict_images", lambda predictor, *_, **__: used.append(predictor.tta)
    )
    monkeypatch.setattr("click.progressbar", lambda *_, **__: contextlib.nullcontext([]))
    assert not predict(*TOY, "photo.png", *arguments)
    assert used == [tta]


def test_several_models_and_views_are_averaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from segkernel.testing.toys import ToySegmentor

    torch.manual_seed(1)
    torch.save({"state_dict": ToySegmentor().state_dict()}, "other.pt")
    config = ("toy.yaml", "--device", "cpu", "--out", "out", "--format", "probabilities", "photo.png")
    found = {}
    for name in ("best.pt", "other.pt"):
        assert not predict(*config, "--weights", name, "--scales", "1,2", "--no-flip")
        found[name] = np.load("out/probabilities/photo.npz")["probabilities"]
        views = {"scales": (1.0, 2.0), "flip": False}
        alone = Predictor("toy.yaml", name, "cpu", tta=views)("photo.png", probabilities=True)  # type: ignore[arg-type]
        assert np.allclose(found[name], alone["seg_probabilities"].numpy(), atol=1e-6)
    both = Ensemble([Predictor("toy.yaml", name, "cpu", tta=views) for name in found])  # type: ignore[arg-type]
    mean = both("photo.png", probabilities=True)["seg_probabilities"].numpy()
    assert np.allclose(mean, sum(found.values()) / 2, atol=1e-6)


def test_models_before_the_images_are_an_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run/checkpoints").mkdir(parents=True)
    assert leading_models(["b.pt", "run", "photos", "c.pt"]) == (["b.pt", "run"], ["photos", "c.pt"])


@pytest.mark.parametrize(
    ("option", "said"),
    [("--show-dir", "--out DIR"), ("--cfg-options", "KEY=VALUE"), ("--checkpoint", "--weights FILE")],
)
def test_options_of_the_reference_are_answered_with_ours(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    assert predict(*TOY, "photo.png", option, "value") == 2
    assert f"no option is called {option}; it is {said}" in capsys.readouterr().err


def test_inputs_of_every_kind_are_predicted_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    movie = VideoFile(Path("movie.mp4"), 10)
    for _ in range(3):
        movie.write(image.read("photo.png"))
    movie.close()
    profile = {"driver": "GTiff", "width": 48, "height": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open("region.tif", "w", **profile) as file:
        file.write(image.read("photo.png").transpose(2, 0, 1))
    arguments = ("photo.png", "movie.mp4", "region.tif", "--window", "32", "--margin", "8", "--frames", "2")
    assert not predict(*TOY, *arguments, "--out", "out")
    written = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.*"))
    assert written == ["pred/photo.png", "pred/region.tif", "vis/movie.mp4", "vis/photo.png"]
    report = capsys.readouterr().out
    assert all(said in report for said in ("1 image predicted", "2 frames predicted", "4 windows predicted"))
