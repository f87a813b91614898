"""``seg-kernel init``: the configs that it writes are complete, and train."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkernel import build, load_config, run
from segkernel.errors import DataError, UsageError
from segkernel.experiment import check
from segplug_datasets.camvid import LABELS as CAMVID
from segplug_datasets.commands.init import summary
from segplug_datasets.doctor import parts_of_config
from segplug_datasets.doctor import report as doctor
from segplug_datasets.doctor.inspect import inspect
from segplug_datasets.own_data import zoo_model
from segplug_datasets.own_data.project import Options, Project, prepare
from segplug_datasets.own_data.recipe import Facts, Machine, choose
from segplug_datasets.own_data.zoo_model import model_changes

SEGFORMER = "segformer_mit-b0_8xb2-160k_ade20k-512x512"
SIZE = 48, 64


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (H, W, 3) of two objects on noise, and its class ids 0, 1, 2."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 60, (*SIZE, 3), np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    y, x = rng.integers(0, 16), rng.integers(0, 24)
    labels[y : y + 20, x : x + 16] = 1
    labels[y + 10 : y + 30, x + 20 : x + 36] = 2
    image[labels == 1] += 100
    image[labels == 2] += 180
    return image, labels


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def write_folder(
    folder: Path, masks: np.ndarray, count: int = 9, images: str = "images", truths: str = "masks"
) -> None:
    """Write images, and masks of what ``masks`` has for each class id."""
    for number in range(count):
        image, labels = scene(number)
        write(folder / images / f"{number:02}.jpg", image)
        write(folder / truths / f"{number:02}.png", masks[labels])


def init(source: Path | str, out: str = "my.yaml", **options: object) -> Project:
    return prepare(str(source), Path(out), Options(**options), lambda parts: inspect(parts, 0))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGKERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


WHITE = np.array([0, 255, 255], np.uint8)
COLORS = np.array([[0, 0, 0], [0, 0, 200], [0, 200, 0]], np.uint8)  # BGR


def test_black_and_white_masks_are_split_and_train(tmp_path: Path) -> None:
    write_folder(Path("photos"), WHITE, truths="crack")
    project = init("photos", iterations=2)
    config = load_config("my.yaml")
    assert [one.images for one in project.stats] == [6, 2, 1]
    assert config["data"]["train"]["values"] == {0: 0, 255: 1}
    assert config["data"]["test"]["classes"] == ["background", "crack"]
    lists = [set(Path(f"my_{name}.txt").read_text().split()) for name in ("train", "val", "test")]
    assert len(set.union(*lists)) == sum(map(len, lists)) == 9
    overrides = ["data.workers=0", "engine.amp=false", "~hooks", f"work_dir={tmp_path}/run", "schedule.val_interval=1"]
    runner = run("my.yaml", overrides)
    assert runner.iteration == 2
    assert "mIoU" in runner.metrics


def test_colour_masks_get_a_palette() -> None:
    write_folder(Path("set"), COLORS)
    project = init("set")
    train = load_config("my.yaml")["data"]["train"]
    assert train["classes"] == ["background", "class_1", "class_2"]
    assert train["palette"][0] == [0, 0, 0]
    assert sorted(train["palette"][1:]) == [[0, 200, 0], [200, 0, 0]]
    assert not any("colours are those" in remark for remark in project.remarks)
    assert not project.check


def test_a_published_palette_is_said_to_be_recognised() -> None:
    write_folder(Path("set"), COLORS)
    stripes = np.array(CAMVID.palette[:8], np.uint8).repeat(6, 0)[:, None].repeat(64, 1)
    for path in Path("set/masks").iterdir():
        write(path, stripes[..., ::-1])
    project = init("set")
    assert load_config("my.yaml")["data"]["train"]["classes"] == list(CAMVID.classes)
    assert any("colours are those of CamVid" in remark for remark in project.remarks)
    assert "# recognised by the colours: CamVid" in Path("my.yaml").read_text()


def test_folders_that_are_split_stay_so() -> None:
    for name in ("train", "val", "test"):
        write_folder(Path("set"), np.arange(3, dtype=np.uint8), 4, f"{name}/img", f"{name}/labels")
    Path("set/classes.txt").write_text("ground\ncrop\nweed\n")
    project = init("set")
    data = load_config("my.yaml")["data"]
    assert project.check == "seg-kernel data check my.yaml"  # the sets have the same images
    assert [path.name for path in project.written] == ["my.yaml"]
    assert "split" not in data["train"]
    assert data["val"]["images"] == "set/val/img"
    assert data["train"]["classes"] == ["ground", "crop", "weed"]


def test_a_class_list_may_have_the_colours_after_the_names() -> None:
    write_folder(Path("set"), COLORS)
    Path("set/classes.txt").write_text("soil 0 0 0\ncrop 200 0 0\nweed, 0, 200, 0\n")
    init("set")
    train = load_config("my.yaml")["data"]["train"]
    assert train["classes"] == ["soil", "crop", "weed"]
    assert train["palette"] == [[0, 0, 0], [200, 0, 0], [0, 200, 0]]


def test_the_folder_of_images_does_not_name_a_class() -> None:
    write_folder(Path("photos"), WHITE, images="a", truths="a")
    for path in Path("photos/a").glob("*.png"):
        path.rename(f"photos/{path.stem}_mask.png")
    for path in Path("photos/a").glob("*.jpg"):
        path.rename(f"photos/{path.name}")
    init("photos")
    assert load_config("my.yaml")["data"]["train"]["classes"] == ["background", "foreground"]


def test_images_of_16_bits_are_read_with_the_range_of_their_values() -> None:
    write_folder(Path("set"), WHITE)
    for path in Path("set/images").iterdir():
        write(path.with_suffix(".png"), cv2.imread(str(path), 0).astype(np.uint16) * 13)  # of 12 bits, as cameras have
        path.unlink()
    project = init("set")
    train = load_config("my.yaml")["data"]["train"]
    low, high = train["value_range"]
    assert low < 100
    assert 2000 < high <= 255 * 13
    sample = build("datasets", train)[0]
    assert (sample.image.dtype, sample.image.shape) == (np.uint8, (*SIZE, 3))
    assert sample.image.max() > 200
    assert not [one for one in project.findings if one.kind == "deep-images"]


@pytest.mark.parametrize("name", ["masks/{kind}/{number:02}.png", "masks/{number:02}_{kind}.png"])
def test_one_mask_per_class_is_refused(name: str) -> None:
    for number in range(4):
        image, labels = scene(number)
        write(Path(f"set/images/{number:02}.jpg"), image)
        for value, kind in enumerate(["crop", "weed"], 1):
            write(Path("set", name.format(kind=kind, number=number)), (labels == value).astype(np.uint8) * 255)
    with pytest.raises(DataError, match=r"set/masks: several masks for each image: .*crop.*, .*weed.* merge them"):
        init("set")


def test_of_several_files_for_an_image_the_class_ids_are_taken() -> None:
    for number in range(4):
        image, labels = scene(number)
        write(Path(f"set/images/{number:02}_rgb.png"), image)
        for kind, pixels in {"labelIds": labels, "instanceIds": labels + 3, "color": COLORS[labels]}.items():
            write(Path(f"set/gt/{number:02}_gt_{kind}.png"), pixels)
    init("set")
    assert load_config("my.yaml")["data"]["train"]["mask_suffix"] == "_gt_labelIds.png"


def test_coco_file_is_split_by_names() -> None:
    write_folder(Path("set"), WHITE, truths="../unused")
    box = [4, 4, 30, 4, 30, 30, 4, 30]
    content = {
        "images": [{"id": n, "file_name": f"{n:02}.jpg", "height": 48, "width": 64} for n in range(9)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 7, "segmentation": [box], "iscrowd": 0} for n in range(9)
        ],
        "categories": [{"id": 7, "name": "cat"}],
    }
    Path("set/instances.json").write_text(json.dumps(content))
    init("set")
    config = load_config("my.yaml")
    assert config["data"]["num_classes"] == 2
    assert config["data"]["train"]["type"] == "CocoInstanceDataset"
    assert len(Path("my_val.txt").read_text().split()) == 2
    assert check(config) == []


def test_a_folder_of_results_does_not_hide_the_packaged_config_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "starter").mkdir()
    (tmp_path / "my.yaml").write_text("_base_: starter\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("starter")["model"] == load_config("my.yaml")["model"]


def test_a_packaged_model_gets_the_classes_and_the_length() -> None:
    write_folder(Path("set"), COLORS)
    project = init("set", model=SEGFORMER, iterations=200)
    config = load_config("my.yaml")
    assert config["model"]["decode_head"]["num_classes"] == 3
    assert "pretrained" not in config["model"]
    warm_up, decay = config["schedule"]["lr"]
    assert (warm_up["end"], decay["begin"], config["schedule"]["val_interval"]) == (10, 10, 40)
    assert config["data"]["train"]["type"] == "FolderDataset"
    assert "data_root" not in config["data"]["train"]
    assert any("not on this machine" in remark for remark in project.remarks)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}.jpg", "{}_mask.png"),
        ("{}.jpg", "{}.png"),
        ("img_{}.png", "mask_{}.png"),
        ("images/img_{}.png", "masks/mask_{}.png"),
        ("a/{}_image.png", "b/{}_gt.png"),
        ("{}/image.png", "{}/mask.png"),
    ],
)
def test_images_and_masks_are_paired_by_their_names(image: str, mask: str) -> None:
    for number in range(9):
        picture, labels = scene(number)
        write(Path("set", image.format(number)), picture)
        write(Path("set", mask.format(number)), labels)
    project = init("set")
    assert sum(one.images for one in project.stats) == 9
    assert list(project.facts.shares) == ["background", "class_1", "class_2"]


def test_yolo_sets_keep_their_split_and_get_a_test_set() -> None:
    for number in range(12):
        place = "train" if number < 9 else "val"
        write(Path(f"set/images/{place}/{number}.jpg"), scene(number)[0])
        label = Path(f"set/labels/{place}/{number}.txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.6 0.6 0.9 0.6 0.9 0.9\n")
    Path("set/data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    project = init("set")
    assert {one.set: one.images for one in project.stats} == {"train": 8, "val": 3, "test": 1}
    assert list(project.facts.shares) == ["background", "cat", "dog"]
    assert check(load_config("my.yaml")) == []
    Path("set/data.yaml").unlink()
    with pytest.raises(DataError, match="'train: images/train'"):
        init("set", force=True)


def test_what_cannot_be_read_is_left_out_and_copies_stay_together() -> None:
    write_folder(Path("set"), WHITE, 10)
    for number in range(10):
        write(Path(f"set/images/{number + 20}.jpg"), scene(number)[0])
        write(Path(f"set/masks/{number + 20}.png"), WHITE[scene(number)[1]])
    Path("set/images/03.jpg").write_bytes(b"no image")
    Path("set/masks/05.png").unlink()
    write(Path("set/masks/24.png"), np.zeros((9, 9), np.uint8))
    project = init("set")
    sets = {name: set(Path(f"my_{name}.txt").read_text().split()) for name in ("train", "val", "test")}
    assert sum(map(len, sets.values())) == 17
    assert sum("left out" in remark for remark in project.remarks) == 2
    said = summary(project)
    assert "set/images/03.jpg" in said
    assert "set/masks/24.png" in said
    words = shlex.split(project.check)
    assert words[:4] == ["seg-kernel", "data", "check", "my.yaml"]
    report = doctor.check(inspect(parts_of_config(load_config("my.yaml", words[4:])), 0))
    assert {"unreadable-images", "size-mismatch"} <= {finding.kind for finding in report.findings}
    for number in (0, 1, 2, 6, 7, 8, 9):
        assert sum(bool({f"{number:02}.jpg", f"{number + 20}.jpg"} & names) for names in sets.values()) == 1


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [(0, 0, "no images"), (3, 0, "no masks"), (2, 2, "too few"), (9, -1, "same class")],
)
def test_bad_folders_are_refused(images: int, masks: int, said: str) -> None:
    Path("set").mkdir()
    write_folder(Path("set"), WHITE * 0 if masks < 0 else WHITE, images, truths="masks" if masks else "../unused")
    with pytest.raises(DataError, match=said):
        init("set")
    assert not Path("my.yaml").exists()


def test_nothing_is_overwritten_without_force() -> None:
    write_folder(Path("set"), WHITE)
    Path("my.yaml").write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        init("set")
    assert Path("my.yaml").read_text() == "mine"
    init("set", force=True)


def test_a_rare_class_adds_a_dice_loss_to_plain_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = choose(Facts(60, [SIZE] * 60, {"soil": 0.99, "weed": 0.01}, {"weed": 9.0}), Machine(2, 16.0))
    monkeypatch.setattr(zoo_model, "DICE", "LovaszLoss")
    for name, changed in ((SEGFORMER, True), ("mask2former_r50_8xb2-160k_ade20k-512x512", False)):
        model = model_changes(load_config(name), recipe, 2, ["weed"]).sections["model"]
        losses = [loss["type"] for loss in model.get("decode_head", {}).get("loss_decode", ())]
        assert losses == (["CrossEntropyLoss", "LovaszLoss"] if changed else [])


FACTS = {"_base_", "type", "images", "masks", "classes", "data", "optim", "model", "test_cfg", "schedule", "evaluate"}
"""Keys of lines without a reason: what was found in the folder, and headings."""


@pytest.mark.parametrize("model", [SEGFORMER, "pspnet_r50-d8_4xb2-80k_cityscapes-769x769", "starter"])
def test_each_chosen_line_has_a_reason(model: str) -> None:
    write_folder(Path("set"), COLORS)
    init("set", model=model)
    lines = Path("my.yaml").read_text().splitlines()
    pairs = [(before.strip(), line.strip()) for before, line in zip(["", *lines], lines)]
    bare = [line for before, line in pairs if line and "#" not in line and not before.startswith("#")]
    keys = [line.partition(":")[0] for line in bare if not line.startswith("- ") and "${data." not in line]
    assert {"type"} <= set(keys) <= FACTS


def test_it_is_said_whether_weights_are_random_missing_or_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config(zoo_model.PRETRAINED).meta["weights"]
    recipe = choose(Facts(60, [SIZE] * 60, {"soil": 1.0}, {}), Machine(2, 16.0))
    own = model_changes(load_config("starter"), recipe, 2)
    assert zoo_model.PRETRAINED in own.why["_base_"]
    assert own.remarks[0].startswith("weights: random")
    published = model_changes(load_config(SEGFORMER), recipe, 150)  # its head fits
    assert published.remarks[0].startswith("the published weights are not on this machine")
    assert "random weights" in published.remarks[1]
    monkeypatch.setattr(zoo_model, "find_weights", lambda source: "cached.pth")
    cached = model_changes(load_config(SEGFORMER), recipe, 150)
    assert cached.sections["load_from"] == "cached.pth"
    assert cached.remarks == ["weights: published ones, from cached.pth"]


def test_a_foundation_model_is_proposed_and_used_where_its_weights_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = choose(Facts(60, [SIZE] * 60, {"soil": 1.0}, {}), Machine(2, 16.0))
    weights = tmp_path / "hub" / "checkpoints" / "dinov2_vits14_reg4_pretrain.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = load_config(zoo_model.FOUNDATION)
    missing = model_changes(model, recipe, 2)
    assert missing.sections["model"]["backbone"] == {"~pretrained": None, "~adapt": None}
    assert zoo_model.FOUNDATION not in model_changes(load_config("starter"), recipe, 2).why["_base_"]
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert zoo_model.FOUNDATION in model_changes(load_config("starter"), recipe, 2).why["_base_"]
    found = model_changes(model, recipe, 2)
    assert found.sections["model"]["backbone"]["pretrained"].endswith(weights.name)
    assert not any("random" in remark for remark in found.remarks)


@pytest.mark.parametrize(("width", "windows"), [(4.0, True), (400.0, False)])
def test_large_images_are_evaluated_in_windows_if_thin_objects_forbid_to_reduce_them(
    width: float, windows: bool
) -> None:
    size = 2400, 2000
    recipe = choose(Facts(60, [size] * 60, {"wall": 0.9, "crack": 0.1}, {"crack": width}), Machine(2, 16.0))
    assert (recipe.resize is None) == recipe.windows == windows
    model = model_changes(load_config("starter"), recipe, 2).sections.get("model", {})
    assert model.get("test_cfg", {}).get("mode") == ("slide" if windows else None)
