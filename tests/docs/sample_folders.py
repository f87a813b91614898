"""Small data in every form that the pages describe: photos of plants on soil, with their labels.

Each function writes the files that a page starts from into a folder. The page has its name, as in
``<!-- starts with: photos -->``.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np

from segkernel import image

HEIGHT, WIDTH = 64, 96
CLASSES = ("soil", "crop", "weed")
COLORS = np.array([[0, 0, 0], [0, 200, 0], [200, 0, 0]], np.uint8)


def boxes(number: int) -> dict[str, tuple[int, int, int, int]]:
    """Return left, top, width and height of the plants in a photo."""
    rng = np.random.default_rng(number)
    (x, y), (u, v) = rng.integers(2, 20, 2), rng.integers(2, 20, 2)
    return {"crop": (int(x), int(y), 22, 30), "weed": (int(u) + 50, int(v), 18, 24)}


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo (H, W, 3) and its class ids (H, W)."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(60, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, (x, y, width, height) in boxes(number).items():
        labels[y : y + height, x : x + width] = CLASSES.index(name)
    pixels[labels == 1] += np.array([0, 120, 0], np.uint8)
    pixels[labels == 2] += np.array([90, 90, 0], np.uint8)
    return pixels, labels


def polygon(box: tuple[int, int, int, int]) -> list[list[float]]:
    """Return the corners of a box as x and y in pixels."""
    x, y, width, height = map(float, box)
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def photos(folder: Path, count: int = 12) -> None:
    """Photos, and masks of class ids."""
    for number in range(count):
        pixels, labels = scene(number)
        image.write(folder / f"my_folder/images/{number:02}.png", pixels)
        image.write_mask(folder / f"my_folder/masks/{number:02}.png", labels)
    (folder / "my_folder/classes.txt").write_text("\n".join(CLASSES) + "\n")
    for number in range(count, count + 2):
        image.write(folder / f"new_photos/{number:02}.png", scene(number)[0])


def color_masks(folder: Path) -> None:
    """Photos, and masks of colours with a table of them."""
    photos(folder)
    for path in sorted((folder / "my_folder/masks").iterdir()):
        image.write(path, COLORS[image.read_mask(path)])
    (folder / "my_folder/classes.txt").unlink()
    rows = [f"{name},{','.join(map(str, color))}" for name, color in zip(CLASSES, COLORS)]
    (folder / "my_folder/class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]) + "\n")


def _photos_alone(folder: Path, count: int = 12) -> list[str]:
    names = [f"{number:02}.png" for number in range(count)]
    for number, name in enumerate(names):
        image.write(folder / "my_folder/images" / name, scene(number)[0])
    return names


def coco(folder: Path) -> None:
    """Photos, and a file of polygons as COCO has them."""
    names = _photos_alone(folder)
    listed = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names)]
    objects = [
        {"id": 2 * n + k, "image_id": n, "category_id": k, "iscrowd": 0, "bbox": list(box), "area": box[2] * box[3],
         "segmentation": [[value for point in polygon(box) for value in point]]}
        for n in range(len(names)) for k, box in enumerate(boxes(n).values(), 1)
    ]  # fmt: skip
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES[1:], 1)]
    text = json.dumps({"images": listed, "annotations": objects, "categories": categories})
    (folder / "my_folder/annotations.json").write_text(text)


def labelme(folder: Path) -> None:
    """Photos, each with a file of labelme next to it."""
    for number, name in enumerate(_photos_alone(folder)):
        shapes = [{"label": k, "points": polygon(box), "shape_type": "polygon"} for k, box in boxes(number).items()]
        content = {"imagePath": name, "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
        (folder / "my_folder/images" / name).with_suffix(".json").write_text(json.dumps(content))


def cvat(folder: Path) -> None:
    """Photos, and a file of CVAT for images 1.1."""
    rows = []
    for number, name in enumerate(_photos_alone(folder)):
        rows.append(f'<image id="{number}" name="{name}" width="{WIDTH}" height="{HEIGHT}">')
        for label, box in boxes(number).items():
            points = ";".join(f"{x},{y}" for x, y in polygon(box))
            rows.append(f'<polygon label="{label}" points="{points}" z_order="0"></polygon>')
        rows.append("</image>")
    (folder / "my_folder/annotations.xml").write_text(f"<annotations>{''.join(rows)}</annotations>")


def label_studio(folder: Path) -> None:
    """Photos, and an export of Label Studio in JSON."""
    tasks = []
    for number, name in enumerate(_photos_alone(folder)):
        results = []
        for label, box in boxes(number).items():
            points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in polygon(box)]
            value = {"points": points, "polygonlabels": [label]}
            results.append(
                {"type": "polygonlabels", "original_width": WIDTH, "original_height": HEIGHT, "value": value}
            )
        tasks.append({"id": number, "data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": results}]})
    (folder / "my_folder/export.json").write_text(json.dumps(tasks))


def yolo(folder: Path) -> None:
    """Photos and text files of polygons in train and val folders, and a data.yaml."""
    for number in range(12):
        split = "train" if number < 8 else "val"
        image.write(folder / f"my_folder/images/{split}/{number:02}.png", scene(number)[0])
        lines = []
        for k, box in enumerate(boxes(number).values()):
            points = [f"{x / WIDTH:.5f} {y / HEIGHT:.5f}" for x, y in polygon(box)]
            lines.append(f"{k} {' '.join(points)}")
        path = folder / f"my_folder/labels/{split}/{number:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    text = "path: .\ntrain: images/train\nval: images/val\nnames: [crop, weed]\n"
    (folder / "my_folder/data.yaml").write_text(text)


def rasters(folder: Path) -> None:
    """Arrays (H, W, 4) of 16 bits, with masks."""
    (folder / "fields/images").mkdir(parents=True)
    for number in range(12):
        pixels, labels = scene(number)
        infrared = 2 * pixels[..., 1:2].astype(np.uint16)
        np.save(folder / f"fields/images/{number:02}.npy", np.concatenate([12 * pixels.astype(np.uint16), infrared], 2))
        image.write_mask(folder / f"fields/masks/{number:02}.png", labels)


def volumes(folder: Path) -> None:
    """Volumes (Y, X, slices) of train and val, and their labels, as numpy arrays."""
    for number in range(6):
        split = folder / "scans" / ("train" if number < 4 else "val")
        for name in ("images", "masks"):
            (split / name).mkdir(parents=True, exist_ok=True)
        slices = [scene(10 * number + k) for k in range(4)]
        np.save(split / f"images/{number}.npy", np.stack([pixels[..., 1] for pixels, _ in slices], 2))
        np.save(split / f"masks/{number}.npy", np.stack([labels for _, labels in slices], 2))


def pairs(folder: Path) -> None:
    """Two photos of each place, and a mask of what is new in the second; the layout of LEVIR-CD."""
    for split, numbers in (("train", range(8)), ("val", range(8, 11)), ("test", range(11, 14))):
        for number in numbers:
            after, labels = scene(number)
            before = np.where(labels[..., None] == 2, np.uint8(75), after)
            image.write(folder / f"sites/{split}/A/{number:02}.png", before)
            image.write(folder / f"sites/{split}/B/{number:02}.png", after)
            image.write_mask(
                folder / f"sites/{split}/label/{number:02}.png", np.where(labels == 2, 255, 0).astype(np.uint8)
            )


def parts(folder: Path) -> None:
    """Photos with two label maps, of the plants and of their rows, and a map of weights."""
    photos(folder)
    for number in range(12):
        _, labels = scene(number)
        rows = np.zeros_like(labels)
        rows[20:44] = 1
        image.write_mask(folder / f"my_folder/rows/{number:02}.png", rows)
        image.write_mask(folder / f"my_folder/row_weights/{number:02}.png", np.where(labels, 255, 128).astype(np.uint8))


def former_project(folder: Path) -> None:
    """Photos and masks, and a checkpoint as mmengine writes it, of the model on the page."""
    import torch
    from torch import nn

    from segplug_backbones import ResNetV1c

    photos(folder)
    torch.manual_seed(0)
    layers = [
        nn.ModuleDict({"conv": nn.Conv2d(channels, 16, 3, padding=1, bias=False), "bn": nn.BatchNorm2d(16)})
        for channels in (64, 16)
    ]
    head = nn.ModuleDict({"conv_seg": nn.Conv2d(16, 3, 1), "convs": nn.ModuleList(layers)})
    backbone = ResNetV1c(depth=18, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    model = nn.ModuleDict({"backbone": backbone, "decode_head": head})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    names = ["mmengine", "mmengine.logging", "mmengine.logging.history_buffer"]
    modules = {name: types.ModuleType(name) for name in names}
    buffer = type("HistoryBuffer", (), {"__module__": names[-1]})
    vars(modules[names[-1]])["HistoryBuffer"] = buffer
    classes = {"classes": CLASSES, "palette": COLORS.tolist()}
    content = {
        "meta": {"epoch": 0, "iter": 400, "seed": np.int64(0), "mmengine_version": "0.10.7", "dataset_meta": classes},
        "state_dict": model.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": buffer()}, "runtime_info": {"iter": 400}},
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [{"last_step": 400}],
    }
    (folder / "work_dirs/plants").mkdir(parents=True)
    with patch.dict(sys.modules, modules):
        torch.save(content, folder / "work_dirs/plants/iter_400.pth")


MAKERS: dict[str, Callable[[Path], None]] = {
    "photos": photos,
    "color masks": color_masks,
    "coco": coco,
    "labelme": labelme,
    "cvat": cvat,
    "label studio": label_studio,
    "yolo": yolo,
    "rasters": rasters,
    "volumes": volumes,
    "pairs": pairs,
    "parts": parts,
    "former project": former_project,
    "nothing": lambda folder: None,
}
