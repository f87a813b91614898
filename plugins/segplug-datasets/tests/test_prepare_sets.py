"""Each converter on a small copy of its published download, and the data set class on the result."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from segkernel import build
from segkernel.errors import DataError
from segplug_datasets import image
from segplug_datasets.aerial import ISPRSDataset, iSAIDDataset
from segplug_datasets.change import LEVIRCDDataset
from segplug_datasets.mapillary import MapillaryDataset_v1
from segplug_datasets.prepare import NAMES, Part, find, prepare
from segplug_datasets.prepare.cityscapes import NAMES as CITY_NAMES
from segplug_datasets.prepare.cityscapes import TRAIN_IDS, draw
from segplug_datasets.prepare.coco_stuff164k import USED
from segplug_datasets.prepare.pascal_context import CATEGORIES

SHARED = Path(__file__).parents[4] / "shared/data"
Files = Mapping[str, bytes]


def encoded(suffix: str, array: np.ndarray) -> bytes:
    """Return the bytes of an image file; RGB, or grey."""
    return cv2.imencode(suffix, array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()


def photo(suffix: str = ".jpg", size: tuple[int, int] = (6, 8), value: int = 80) -> bytes:
    return encoded(suffix, np.full((*size, 3), value, np.uint8))


def row(values: Sequence[int], suffix: str = ".png", size: tuple[int, int] = (6, 8)) -> bytes:
    """Return a grey file whose rows begin with ``values``, zeros behind."""
    array = np.zeros(size, np.uint8)
    array[:, : len(values)] = values
    return encoded(suffix, array)


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def zipped(files: Files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: Files, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1e9
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def put(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def convert(name: str, tmp_path: Path, files: Files, counts: Mapping[str, int]) -> Path:
    """Run a converter, and return the folder it wrote; it must have made as many images per split as stated."""
    converter = find(name)
    parts = tuple(replace(part, count=(counts[part.name],)) for part in converter.parts)
    report = prepare(replace(converter, parts=parts), put(tmp_path / "source", files), tmp_path / "made", workers=2)
    assert (report.failed, report.odd, report.counts) == ([], [], dict(counts))
    return tmp_path / "made"


def dataset(name: str, root: Path, **arguments: Any) -> Any:
    return build("datasets", {"type": name, "data_root": str(root), **arguments})


def first_row(data: Any, count: int, index: int = 0) -> list[int]:
    return data[index]["seg"].array[0, :count].tolist()


# ---------------------------------------------------------------- retina


def test_chase_db1(tmp_path: Path) -> None:
    # The labels are PNG files of one bit, whose white is 255 only once they are decoded as grey.
    one_bit = cv2.imencode(".png", np.eye(6, 8, dtype=np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
    inside = {f"Image_{n}{side}{end}": photo() if end == ".jpg" else one_bit
              for n in ("01", "10", "11") for side in "LR" for end in (".jpg", "_1stHO.png", "_2ndHO.png")}  # fmt: skip
    root = convert("chase_db1", tmp_path, {"CHASEDB1.zip": zipped(inside)}, {"train": 4, "val": 2})
    data = dataset("ChaseDB1Dataset", root)
    assert [data[i].meta["name"] for i in range(4)] == ["Image_01L", "Image_01R", "Image_10L", "Image_10R"]
    assert first_row(data, 3) == [1, 0, 0]
    assert (root / "annotations/validation/Image_11R_2ndHO.png").exists()


def test_drive_with_labels_in_gif_files(tmp_path: Path) -> None:
    if not cv2.haveImageWriter("a.gif"):
        pytest.skip("this OpenCV writes no GIF")
    gif = encoded(".gif", np.repeat(np.array([[0, 255, 255, 0, 0, 0, 0, 0]] * 6, np.uint8)[..., None], 3, 2))
    tif = photo(".tif")
    files = {
        "training.zip": zipped({
            "training/images/21_training.tif": tif, "training/1st_manual/21_manual1.gif": gif,
            "training/mask/21_training_mask.gif": gif,
        }),
        "test.zip": zipped({
            "test/images/01_test.tif": tif, "test/1st_manual/01_manual1.gif": gif,
            "test/2nd_manual/01_manual2.gif": gif,
        }),
    }  # fmt: skip
    root = convert("drive", tmp_path, files, {"train": 1, "val": 1})
    data = dataset("DRIVEDataset", root)
    assert (data[0].meta["name"], first_row(data, 4)) == ("21", [0, 1, 1, 0])
    assert (root / "annotations/validation/01_manual2.png").exists()


def test_the_official_drive_test_set_lacks_labels(tmp_path: Path) -> None:
    gif = b"GIF89a\x04\0\x04\0 not really"
    files = {"test/images/01_test.tif": photo(".tif"), "training/1st_manual/21_manual1.gif": gif}
    report = prepare(find("drive"), put(tmp_path / "source", files), tmp_path / "made")
    assert re.search(
        r"annotations/training/21_manual1.png: .*not an image.*OpenCV reads GIF from 4.11", report.failed[0]
    )
    assert "val: without labels in annotations/validation: 01" in report.odd


@pytest.mark.skipif(not (SHARED / "chase_db1").is_dir(), reason="needs ../shared/data")
def test_chase_db1_of_the_real_files(tmp_path: Path) -> None:
    real, files = SHARED / "chase_db1", {}
    for number in ("01", "11"):
        name = f"Image_{number}L"
        files[f"{name}.jpg"] = (real / f"images/{name}.jpg").read_bytes()
        for order in ("1st", "2nd"):  # black and white again, as downloaded
            labels = image.read_mask(real / f"vessel_{order}/{name}.png") * np.uint8(255)
            files[f"{name}_{order}HO.png"] = encoded(".png", labels)
    root = convert("chase_db1", tmp_path, {"CHASEDB1.zip": zipped(files)}, {"train": 1, "val": 1})
    data = dataset("ChaseDB1Dataset", root)
    assert np.array_equal(data[0].image, image.read(real / "images/Image_01L.jpg"))
    assert np.array_equal(data[0]["seg"].array, image.read_mask(real / "vessel_1st/Image_01L.png"))


def test_hrf(tmp_path: Path) -> None:
    files = {}
    for kind, short in (("healthy", "h"), ("glaucoma", "g"), ("diabetic_retinopathy", "dr")):
        numbers = ("01", "05", "06")
        files[f"{kind}.zip"] = zipped({f"{n}_{short}.{'JPG' if n == '05' else 'jpg'}": photo() for n in numbers})
        labels = {f"{n}_{short}.tif": row([0, 255, 130, 127], ".tif") for n in numbers}
        files[f"{kind}_manualsegm.zip"] = zipped(labels)
    data = dataset("HRFDataset", convert("hrf", tmp_path, files, {"train": 6, "val": 3}))
    assert sorted(data[i].meta["name"] for i in range(6)) == ["01_dr", "01_g", "01_h", "05_dr", "05_g", "05_h"]
    assert first_row(data, 4) == [0, 1, 1, 0]


def test_stare(tmp_path: Path) -> None:
    names = ("im0001", "im0139", "im0162")
    pictures = {f"{name}.ppm.gz": gzip.compress(photo(".ppm")) for name in names}
    files = {"stare-images.tar": tarred(pictures)}
    for observer in ("ah", "vk"):
        labels = {f"{n}.{observer}.ppm.gz": gzip.compress(row([0, 255], ".pgm")) for n in names}
        files[f"labels-{observer}.tar"] = tarred(labels)
    data = dataset("STAREDataset", convert("stare", tmp_path, files, {"train": 2, "val": 1}))
    assert ([data[i].meta["name"] for i in range(2)], first_row(data, 3)) == (["im0001", "im0139"], [0, 1, 0])


def test_refuge_in_archives_inside_an_archive(tmp_path: Path) -> None:
    labels = row([0, 128, 255], ".bmp")
    eyes = ("Glaucoma/g0001", "Non-Glaucoma/n0002")
    masks = "Disc_Cup_Masks"
    inner = {
        "REFUGE-Training400.zip": {f"Training400/{name}.jpg": photo() for name in eyes},
        "Annotation-Training400.zip": {f"Annotation-Training400/{masks}/{name}.bmp": labels for name in eyes},
        "REFUGE-Validation400.zip": {"REFUGE-Validation400/V0001.jpg": photo(), "__MACOSX/V0009.jpg": b""},
        "REFUGE-Validation400-GT.zip": {f"REFUGE-Validation400-GT/{masks}/V0001.bmp": labels},
        "REFUGE-Test400.zip": {"Test400/T0001.jpg": photo(), "Illustration/T0007.jpg": photo()},
        "REFUGE-Test-GT.zip": {f"REFUGE-Test-GT/{masks}/T0001.bmp": labels},
    }
    files = {"REFUGE2.zip": zipped({f"REFUGE2/{name}": zipped(content) for name, content in inner.items()})}
    root = convert("refuge", tmp_path, files, {"train": 2, "val": 1, "test": 1})
    data = dataset("REFUGEDataset", root)
    assert ([data[i].meta["name"] for i in range(2)], first_row(data, 3)) == (["g0001", "n0002"], [1, 2, 0])
    assert data.classes == ("background", "Optic Cup", "Optic Disc")
    assert not (root / ".prepare/refuge").exists()  # what was unpacked is gone


# ---------------------------------------------------------------- from above


def test_levircd(tmp_path: Path) -> None:
    size = (512, 512)
    label = np.zeros(size, np.uint8)
    label[300, 10] = 255
    inside = {}
    for split, name in (("train", "train_1"), ("test", "test_1")):
        inside |= {f"LEVIR-CD+/{split}/{side}/{name}.png": photo(".png", size, v) for side, v in (("A", 1), ("B", 2))}
        inside[f"LEVIR-CD+/{split}/label/{name}.png"] = encoded(".png", label)
    root = convert("levircd", tmp_path, {"LEVIR-CD+.zip": zipped(inside)}, {"train": 4, "val": 0, "test": 4})
    data = LEVIRCDDataset(root)
    names = [data[i].meta["name"] for i in range(4)]
    assert names == ["train_1_0_0_256_256", "train_1_0_256_256_512", "train_1_256_0_512_256", "train_1_256_256_512_512"]
    assert (int(data[1]["seg"].array[44, 10]), [int(data[i]["seg"].array.sum()) for i in range(4)]) == (1, [0, 1, 0, 0])
    assert (data[0].image.max(), data[0]["img2"].array.max()) == (1, 2)


def test_loveda(tmp_path: Path) -> None:
    files = {}
    for split, place in (("Train", "Rural"), ("Val", "Urban"), ("Test", "Rural")):
        inside = {f"{split}/{place}/images_png/7.png": photo(".png")}
        if split != "Test":
            inside[f"{split}/{place}/masks_png/7.png"] = row([0, 1, 7])
        files[f"{split}.zip"] = zipped(inside)
    data = dataset("LoveDADataset", convert("loveda", tmp_path, files, {"train": 1, "val": 1, "test": 1}))
    assert first_row(data, 3) == [255, 0, 6]


def colored(size: tuple[int, int], colors: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a TIFF file whose first pixels have these colours, black behind."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[0, : len(colors)] = np.reshape(colors, (-1, 3))
    return encoded(".tif", pixels)


def test_potsdam(tmp_path: Path) -> None:
    strange = (9, 9, 9)  # what is no class counts as little as the borders
    labels = colored((600, 512), [*ISPRSDataset.spec.palette, strange])
    areas, picture = ("2_10", "5_15"), photo(".tif", (600, 512))
    files = {
        "2_Ortho_RGB.zip": zipped({f"2_Ortho_RGB/top_potsdam_{area}_RGB.tif": picture for area in areas}),
        "5_Labels_all_noBoundary.zip": zipped({f"top_potsdam_{a}_label_noBoundary.tif": labels for a in areas}),
    }
    data = dataset("PotsdamDataset", convert("potsdam", tmp_path, files, {"train": 2, "val": 2}))
    assert [data[i].meta["name"] for i in range(2)] == ["2_10_0_0_512_512", "2_10_0_88_512_600"]
    assert first_row(data, 8) == [0, 1, 2, 3, 4, 5, 255, 255]
    assert data[1]["seg"].array.min() == 255


def test_vaihingen(tmp_path: Path) -> None:
    size = (512, 1100)
    top = {f"top/top_mosaic_09cm_area{n}.tif": photo(".tif", size) for n in (1, 2)}
    participants = {"gts_for_participants/top_mosaic_09cm_area1.tif": colored(size, [])}  # not these labels
    full = {f"top_mosaic_09cm_area{n}_noBoundary.tif": colored(size, ISPRSDataset.spec.palette) for n in (1, 2, 9)}
    files = {
        "ISPRS_semantic_labeling_Vaihingen.zip": zipped({**top, **participants}),
        "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip": zipped(full),
    }
    data = dataset("ISPRSDataset", convert("vaihingen", tmp_path, files, {"train": 3, "val": 3}))
    names = [data[i].meta["name"] for i in range(3)]
    assert names == ["area1_0_0_512_512", "area1_512_0_1024_512", "area1_588_0_1100_512"]
    assert first_row(data, 7) == [0, 1, 2, 3, 4, 5, 255]


def test_isaid(tmp_path: Path) -> None:
    palette = iSAIDDataset.spec.palette
    files = {}
    for split in ("train", "val"):
        picture, labels = np.full((900, 600, 3), 5, np.uint8), np.zeros((900, 600, 3), np.uint8)
        labels[0, :16] = palette
        files[f"{split}/images/part1.zip"] = zipped({"images/P0003.png": encoded(".png", picture)})
        inside = {"images/P0003_instance_color_RGB.png": encoded(".png", labels)}
        files[f"{split}/Semantic_masks/images.zip"] = zipped(inside)
    files["test/images/part1.zip"] = zipped({"images/P0006.png": photo(".png")})
    root = convert("isaid", tmp_path, files, {"train": 2, "val": 2, "test": 1})
    data = dataset("iSAIDDataset", root)
    assert [data[i].meta["name"] for i in range(2)] == ["P0003_0_896_0_896", "P0003_4_900_0_896"]
    assert first_row(data, 16) == list(range(16))
    sample = data[0]
    assert (sample.image[0, 599, 0], sample.image[0, 600, 0]) == (5, 0)  # padded to the right
    assert (sample["seg"].array[0, 599], sample["seg"].array[0, 600]) == (0, 255)


# ---------------------------------------------------------------- streets


def street(tmp_path: Path, labels: Callable[[str], Files]) -> Path:
    files: dict[str, bytes] = {}
    for split, city in (("train", "ulm"), ("val", "lindau"), ("test", "bonn")):
        name = f"{city}/{city}_000000_000019"
        files[f"leftImg8bit/{split}/{name}_leftImg8bit.png"] = photo(".png", (16, 32))
        files |= {f"gtFine/{split}/{name}_gtFine_{end}": content for end, content in labels(city).items()}
    return convert("cityscapes", tmp_path, files, {"train": 1, "val": 1, "test": 1})


POLYGONS = {
    "imgHeight": 16,
    "imgWidth": 32,
    "objects": [
        {"label": "road", "polygon": [[0, 0], [31, 0], [31, 15], [0, 15]]},
        {"label": "cargroup", "polygon": [[4, 4], [20, 4], [20, 12], [4, 12]]},
        {"label": "license plate", "polygon": [[5, 5], [6, 5], [6, 6], [5, 6]]},
        {"label": "ego vehicle", "polygon": [[0, 14], [40, 14], [40, 20], [0, 20]]},
        {"label": "bicycle", "deleted": 1, "polygon": [[0, 0], [3, 0], [3, 3]]},
    ],
}


def test_cityscapes_polygons(tmp_path: Path) -> None:
    root = street(tmp_path, lambda city: {"polygons.json": json.dumps(POLYGONS).encode()})
    data = dataset("CityscapesDataset", root)
    ids = data[0]["seg"].array
    assert (ids[0, 0], ids[4, 4], ids[12, 20], ids[5, 5], ids[13, 4], ids[14, 0]) == (0, 13, 13, 13, 0, 255)
    assert (root / "train.txt").read_text() == "ulm/ulm_000000_000019\n"


def test_cityscapes_ids_count_before_polygons(tmp_path: Path) -> None:
    values = [0, 7, 8, 33, 29, 24]
    labels = {"labelIds.png": row(values, size=(16, 32)), "polygons.json": b"{}"}
    data = dataset("CityscapesDataset", street(tmp_path, lambda city: labels))
    assert first_row(data, 6) == [255, 0, 1, 18, 255, 11]


def test_cityscapes_table() -> None:
    counted = [name for place, name in enumerate(CITY_NAMES) if TRAIN_IDS[place] != 255]
    assert (len(CITY_NAMES), counted) == (34, list(dataset_classes("CityscapesDataset")))
    with pytest.raises(DataError, match="Cityscapes has no label 'dragon'"):
        draw({"imgHeight": 2, "imgWidth": 2, "objects": [{"label": "dragon", "polygon": []}]}, "a.json")


def dataset_classes(name: str) -> tuple[str, ...]:
    from segkernel.catalog import Catalog

    classes: tuple[str, ...] = Catalog.discover().load("datasets", name).spec.classes
    return classes


def test_polygons_against_another_rasteriser() -> None:
    """Cityscapes' own script draws with Pillow, which treats edges a little differently."""
    drawing = pytest.importorskip("PIL.ImageDraw")
    pillow = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    things = [{"label": "car", "polygon": (rng.random((9, 2)) * [400, 200]).astype(int).tolist()} for _ in range(5)]
    ours = draw({"imgHeight": 200, "imgWidth": 400, "objects": things}, "a.json")
    theirs = pillow.new("L", (400, 200), 255)
    for thing in things:
        drawing.Draw(theirs).polygon([tuple(point) for point in thing["polygon"]], fill=13)
    assert (ours != np.asarray(theirs)).mean() < 0.01


def test_the_table_on_a_real_annotation() -> None:
    folder = SHARED / "cityscapes_sample/gt_256x128"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    name = folder / "frankfurt_000000_000294_gtFine"
    ids, wanted = image.read_mask(f"{name}_labelIds.png"), image.read_mask(f"{name}_labelTrainIds.png")
    table = np.full(256, 255)
    table[list(TRAIN_IDS)] = list(TRAIN_IDS.values())
    # The two files were made small each for itself, so that they differ at borders; every id has its train id.
    assert (table[ids] == wanted).mean() > 0.997
    for value in np.unique(ids)[np.bincount(ids.ravel())[np.unique(ids)] > 50]:
        assert np.bincount(wanted[ids == value]).argmax() == table[value]


def palette_png(indices: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a PNG of 8 bits with a palette."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = indices.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in indices.astype(np.uint8))
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", bytes(v for color in palette for v in color))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")])


def test_mapillary(tmp_path: Path) -> None:
    palette = MapillaryDataset_v1.spec.palette
    ids = np.zeros((6, 8), np.uint8)
    ids[:, :3] = [0, 13, 65]
    inside = {"testing/images/t.jpg": photo()}
    for split in ("training", "validation"):
        inside[f"{split}/images/a.jpg"] = photo()
        inside[f"{split}/v1.2/labels/a.png"] = palette_png(ids, palette)
        inside[f"{split}/v2.0/labels/a.png"] = palette_png(ids, palette)
        inside[f"{split}/v2.0/instances/a.png"] = row([1])
    root = convert("mapillary", tmp_path, {"An-ZjB1.zip": zipped(inside)}, {"train": 1, "val": 1, "test": 1})
    assert first_row(dataset("MapillaryDataset_v1", root), 3) == [0, 13, 65]
    assert first_row(dataset("MapillaryDataset_v2", root), 3) == [0, 13, 65]


def test_mapillary_colours_and_the_arrangement_of_edition_1(tmp_path: Path) -> None:
    colors = np.zeros((6, 8, 3), np.uint8)
    colors[:, :2] = [MapillaryDataset_v1.spec.palette[i] for i in (13, 27)]
    files = {"training/images/a.jpg": photo(), "training/labels/a.png": encoded(".png", colors),
             "training/images/b.jpg": photo(), "training/v2.0/labels/b.png": encoded(".png", colors),
             "training/images/c.jpg": photo(), "training/labels/c.png": photo(".png", value=7)}  # fmt: skip
    report = prepare(find("mapillary"), put(tmp_path / "source", files), tmp_path / "made")
    assert [line.split(": ")[0] for line in report.failed] == [
        "training/v1.2/labels/c.png", "training/v2.0/labels/b.png"
    ]  # fmt: skip
    assert "colours that edition 1.2 does not have" in report.failed[0]
    assert "colours of edition 2.0" in report.failed[1]
    made = image.read_mask(tmp_path / "made/training/v1.2/labels/a.png")
    assert made[0, :3].tolist() == [13, 27, 65]


# ---------------------------------------------------------------- photographs


def test_coco_stuff164k(tmp_path: Path) -> None:
    maps = {f"{split}/000000000001.png": row([0, 10, 12, 181, 255]) for split in ("train2017", "val2017")}
    files = {"stuffthingmaps_trainval2017.zip": zipped(maps)}
    files |= {f"{split}.zip": zipped({f"{split}/000000000001.jpg": photo()}) for split in ("train2017", "val2017")}
    data = dataset("COCOStuffDataset", convert("coco_stuff164k", tmp_path, files, {"train": 1, "val": 1}))
    assert first_row(data, 5) == [0, 10, 11, 170, 255]
    assert len(USED) == 171


def test_coco_stuff164k_in_place(tmp_path: Path) -> None:
    files = {"images/val2017/1.jpg": photo(), "annotations/val2017/1.png": row([3])}
    source = put(tmp_path, files)  # once: a file written again is converted again
    for _ in range(2):  # the converted masks are not mistaken for labels
        report = prepare(find("coco_stuff164k"), source, tmp_path)
    assert (report.failed, report.made, report.kept, report.counts["val"]) == ([], 0, 2, 1)


def test_coco_stuff10k(tmp_path: Path) -> None:
    io_of_scipy = pytest.importorskip("scipy.io")

    def mat(values: Sequence[int]) -> bytes:
        stream = io.BytesIO()
        labels = np.zeros((6, 8), np.uint16)
        labels[:, : len(values)] = values
        io_of_scipy.savemat(stream, {"S": labels, "names": np.array(["unlabeled"], object)})
        return stream.getvalue()

    names = {"train": "COCO_train2014_000000000077", "test": "COCO_train2014_000000000078"}
    inside: dict[str, bytes] = {}
    for split, name in names.items():
        inside |= {f"images/{name}.jpg": photo(), f"annotations/{name}.mat": mat([0, 1, 13, 182])}
        inside[f"imageLists/{split}.txt"] = text(name)
    root = convert("coco_stuff10k", tmp_path, {"cocostuff-10k-v1.1.zip": zipped(inside)}, {"train": 1, "test": 1})
    stated = yaml.safe_load(f"{{{find('coco_stuff10k').arguments}}}")
    data = dataset("COCOStuffDataset", root, **stated)
    assert (data[0].meta["name"], first_row(data, 4)) == (names["train"], [255, 0, 11, 170])


def test_voc_aug(tmp_path: Path) -> None:
    io_of_scipy = pytest.importorskip("scipy.io")

    def mat(value: int) -> bytes:
        stream = io.BytesIO()
        labels = np.full((6, 8), value, np.uint8)
        io_of_scipy.savemat(stream, {"GTcls": {"Segmentation": labels, "Boundaries": np.zeros(2)}})
        return stream.getvalue()

    lists = "VOCdevkit/VOC2012/ImageSets/Segmentation"
    voc = {f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg": photo() for name in "abcd"}
    voc |= {f"VOCdevkit/VOC2012/SegmentationClass/{name}.png": row([20, 255]) for name in "ab"}
    voc |= {f"{lists}/train.txt": text("a"), f"{lists}/val.txt": text("b"), f"{lists}/trainval.txt": text("a", "b")}
    sbd = {f"benchmark_RELEASE/dataset/cls/{name}.mat": mat(5) for name in "abcd"}
    sbd |= {"benchmark_RELEASE/dataset/train.txt": text("a", "c"), "benchmark_RELEASE/dataset/val.txt": text("b", "d")}
    files = {"VOCtrainval_11-May-2012.tar": tarred(voc), "benchmark.tgz": tarred(sbd, "w:gz")}
    root = convert("voc_aug", tmp_path, files, {"train": 1, "val": 1, "aug": 2}) / "VOC2012"
    assert (root / "ImageSets/Segmentation/trainaug.txt").read_text().split() == ["a", "c", "d"]
    own = dataset("PascalVOCDataset", root, ann_file="ImageSets/Segmentation/train.txt")
    prefix = {"img_path": "JPEGImages", "seg_map_path": "SegmentationClassAug"}
    more = dataset("PascalVOCDataset", root, data_prefix=prefix, ann_file="ImageSets/Segmentation/aug.txt")
    assert (first_row(own, 3), first_row(more, 1), len(more)) == ([20, 255, 0], [5], 2)


def context(category: int) -> dict[str, Any]:
    """Return a description of two images of 2 x 3; a segment covers the second column."""
    images = [{"image_id": 1, "file_name": "a.jpg", "phase": "train", "height": 2, "width": 3},
              {"image_id": 2, "file_name": "b.jpg", "phase": "val", "height": 2, "width": 3}]  # fmt: skip
    column, everything = {"size": [2, 3], "counts": [2, 2, 2]}, {"size": [2, 3], "counts": "06"}
    segments = [
        {"id": 1, "image_id": 1, "category_id": category, "segmentation": column},
        {"id": 2, "image_id": 2, "category_id": 2, "segmentation": everything},
    ]
    return {"images": images, "annos_segmentation": segments, "categories": []}


def test_pascal_context(tmp_path: Path) -> None:
    voc = {f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg": photo(size=(2, 3)) for name in "ab"}
    files = {"VOCtrainval_03-May-2010.tar": tarred(voc), "trainval_merged.json": json.dumps(context(458)).encode()}
    root = convert("pascal_context", tmp_path, files, {"train": 1, "val": 1}) / "VOC2010"
    data = dataset("PascalContextDataset", root, ann_file="ImageSets/SegmentationContext/train.txt")
    assert data[0]["seg"].array.tolist() == [[0, 59, 0], [0, 59, 0]]
    without = dataset("PascalContextDataset59", root, ann_file="ImageSets/SegmentationContext/val.txt")
    assert without[0]["seg"].array.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert len(set(CATEGORIES)) == 60


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    voc = {f"VOC2010/JPEGImages/{name}.jpg": photo(size=(2, 3)) for name in "ab"}
    files = {**voc, "trainval_merged.json": json.dumps(context(3)).encode()}
    report = prepare(find("pascal_context"), put(tmp_path / "source", files), tmp_path / "made")
    assert "a.jpg: category 3 is not one of the 59" in report.failed[0]
    with pytest.raises(DataError, match="not the file of PASCAL in Detail"):
        prepare(find("pascal_context"), put(tmp_path / "source", {"trainval_merged.json": b"[]"}), tmp_path / "made")


# ---------------------------------------------------------------- depth and scans


def test_nyu(tmp_path: Path) -> None:
    depth = encoded(".png", np.full((6, 8), 2500, np.uint16))
    inside: dict[str, bytes] = {}
    for split, scene in (("train", "living_room_0012a"), ("test", "bathroom")):
        inside |= {f"nyu/{scene}/rgb_00045.jpg": photo(), f"nyu/{scene}/sync_depth_00045.png": depth}
        inside[f"nyu/nyu_{split}.txt"] = text(f"/{scene}/rgb_00045.jpg /{scene}/sync_depth_00045.png 518.8579")
    root = convert("nyu", tmp_path, {"nyu.zip": zipped(inside)}, {"train": 1, "test": 1})
    prefix = {"img_path": "images/train", "depth_map_path": "annotations/train"}
    sample = dataset("NYUDataset", root, data_prefix=prefix)[0]
    assert sample.meta["name"] == "living_room_0012a_00045"
    assert (sample["depth"].array[0, 0], sample.meta["category_id"]) == (2.5, 2)


def test_synapse(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")

    def nifti(values: np.ndarray) -> bytes:
        return gzip.compress(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())

    scan = np.full((6, 8, 2), -125, np.int16)
    scan[1, 2] = [275, 75]
    labels = np.zeros((6, 8, 2), np.uint8)
    labels[1, :, 0] = [8, 4, 3, 2, 6, 11, 1, 7]
    labels[2, :, 1] = 13  # an organ that is not kept
    inside: dict[str, bytes] = {}
    for number in (5, 8, 61):
        inside[f"RawData/Training/img/img{number:04}.nii.gz"] = nifti(scan)
        inside[f"RawData/Training/label/label{number:04}.nii.gz"] = nifti(labels)
    root = convert("synapse", tmp_path, {"RawData.zip": zipped(inside)}, {"train": 2, "val": 2})
    data = dataset("SynapseDataset", root)
    assert [data[i].meta["name"] for i in range(2)] == ["case0005_slice000", "case0005_slice001"]
    assert data[0]["seg"].array[1].tolist() == [8, 7, 6, 5, 4, 3, 2, 1]  # Y is turned round
    assert data[1]["seg"].array.max() == 0
    assert data[0].image[1, 5].min() > 200


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
def test_another_download_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    converter = find(name)
    with pytest.raises(DataError, match=f"holds no .*: {name} needs {re.escape(converter.download)}"):
        prepare(converter, tmp_path / "source", tmp_path / "made")


@pytest.mark.parametrize("name", NAMES)
def test_a_converter_says_what_it_is(name: str) -> None:
    converter = find(name)
    assert converter.name == name
    assert all([converter.title, converter.homepage, converter.terms, converter.download, converter.reads])
    assert all(isinstance(part, Part) and part.count for part in converter.parts)
    for kind in re.findall(r"\w*Dataset\w*", converter.reads):
        assert dataset_class(kind)


def dataset_class(name: str) -> Any:
    from segkernel.catalog import Catalog

    return Catalog.discover().load("datasets", name)
