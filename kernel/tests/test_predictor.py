"""`Predictor`: models of every kind in, images of every kind in, files and predictions out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from segkernel import image
from segkernel.errors import CheckpointError, DataError, UsageError
from segkernel.predictor import Predictor, UnusableImages, collect


@pytest.fixture
def pictures(tmp_path):
    """Three images of different sizes in a folder."""
    rng = np.random.default_rng(0)
    for name, size in {"a.jpg": (20, 30), "b.png": (33, 17), "c.png": (20, 30)}.items():
        image.write(tmp_path / "in" / name, rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    return tmp_path / "in"


@pytest.fixture
def predictor(tiny_model):
    return Predictor(tiny_model(), classes=["ground", "red", "blue"])


def test_one_path_gives_one_prediction_at_the_image_s_size(predictor, pictures):
    prediction = predictor(pictures / "b.png")
    assert prediction.labels.shape == (33, 17)
    assert prediction.meta["name"] == "b"


def test_an_array_gives_one_prediction(predictor):
    assert predictor(np.zeros((9, 11, 3), np.uint8)).labels.shape == (9, 11)


@pytest.mark.parametrize("kind", ["folder", "glob", "list", "text"])
def test_several_images_give_a_list_in_their_order(predictor, pictures, kind):
    (pictures / "list.txt").write_text("a.jpg\nb.png\n# a comment\nc.png\n")
    inputs = {
        "folder": pictures,
        "glob": str(pictures / "*.*g"),
        "list": [pictures / "a.jpg", str(pictures / "b.png"), image.read(pictures / "c.png")],
        "text": pictures / "list.txt",
    }[kind]
    assert [tuple(p.labels.shape) for p in predictor(inputs)] == [(20, 30), (33, 17), (20, 30)]


def test_a_list_of_one_gives_a_list(predictor, pictures):
    assert isinstance(predictor([pictures / "a.jpg"]), list)


def test_files_go_to_their_folders(predictor, pictures, tmp_path):
    predictor(pictures, out_dir=tmp_path / "out", img_out_dir="drawn", pred_out_dir="labels")
    assert sorted(p.name for p in (tmp_path / "out" / "drawn").iterdir()) == ["a.png", "b.png", "c.png"]
    labels = image.read_mask(tmp_path / "out" / "labels" / "b.png")
    assert np.array_equal(labels, predictor(pictures / "b.png").labels.numpy())


def test_an_empty_folder_name_writes_nothing_there(predictor, pictures, tmp_path):
    predictor(pictures / "a.jpg", out_dir=tmp_path / "out", img_out_dir="")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["pred"]


def test_scores_are_probabilities(predictor, pictures):
    scores = predictor(pictures / "a.jpg", scores=True)["seg_scores"]
    torch.testing.assert_close(scores.sum(0), torch.ones(20, 30))


def test_classes_and_palette_win_over_the_data_set_s(tiny_model, rectangles):
    known = Predictor(tiny_model(), dataset=rectangles())
    own = Predictor(tiny_model(), dataset=rectangles(), classes=["x", "y", "z"], palette=[(1, 2, 3)] * 3)
    assert known.classes == ("ground", "red", "blue")
    assert own.classes == ("x", "y", "z")
    assert own.palette[0] == (1, 2, 3)


def test_a_wrong_number_of_classes_is_refused(tiny_model):
    with pytest.raises(UsageError, match="3 classes, but 2"):
        Predictor(tiny_model(), classes=["one", "two"])


def test_a_module_that_only_gives_scores_is_wrapped():
    predictor = Predictor(torch.nn.Conv2d(3, 2, 1), classes=["no", "yes"])
    assert predictor(np.zeros((5, 6, 3), np.uint8)).labels.shape == (5, 6)


def test_a_module_that_does_not_say_its_classes_is_refused():
    with pytest.raises(UsageError, match="classes"):
        Predictor(torch.nn.Conv2d(3, 2, 1))


def test_good_images_are_not_lost_beside_bad_ones(predictor, pictures, tmp_path):
    (pictures / "bad.png").write_bytes(b"no image")
    with pytest.raises(UnusableImages, match=r"bad\.png") as caught:
        predictor(pictures, out_dir=tmp_path / "out")
    assert len(caught.value.predictions) == 3
    assert len(list((tmp_path / "out" / "pred").iterdir())) == 3


@pytest.mark.parametrize("inputs", ["missing.jpg", "empty", "*.tif"])
def test_what_is_not_there_is_named(predictor, tmp_path, monkeypatch, inputs):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=inputs.replace("*", r"\*")):
        predictor(inputs)


def test_images_of_one_name_do_not_overwrite_each_other(predictor, pictures, tmp_path):
    image.write(pictures / "a.png", np.zeros((5, 5, 3), np.uint8))
    predictor(pictures, out_dir=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out" / "pred").iterdir()} == {"a.png", "a_2.png", "b.png", "c.png"}


def test_opacity_must_be_above_zero(predictor, pictures):
    with pytest.raises(UsageError, match="opacity"):
        predictor(pictures, opacity=0)


def test_weights_without_their_config_are_refused(tiny_model, tmp_path):
    torch.save(tiny_model().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="config"):
        Predictor(tmp_path / "weights.pt")
    again = Predictor(tiny_model(), weights=tmp_path / "weights.pt", classes=["a", "b", "c"])
    assert again.classes == ("a", "b", "c")


def test_collect_keeps_arrays_and_paths_apart(pictures):
    assert len(collect([pictures, np.zeros((4, 4, 3), np.uint8)])) == 4


@pytest.mark.parametrize("size", ["64", "axb", "64x"])
def test_an_unreadable_size_is_refused_by_the_command(size):
    from segkernel.cli.export import command

    result = CliRunner().invoke(command, ["model.pt", "--size", size])
    assert result.exit_code == 2
    assert "512x1024" in result.output
