"""A thousand damaged images and masks: each returns a sample or raises one error, without a crash, hang or large
allocation.

A separate process reads them and prints a line per file, so that the last line shows which file killed or blocked it.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkernel.errors import DataError
from segplug_datasets import image

COUNT = 1000
SECONDS = 55  # for all of them
LARGEST = 150  # MiB by which reading may increase the memory of the process
SUFFIXES = (".png", ".jpg", ".tif", ".bmp", ".webp")
SIZE = (40, 56)


@pytest.fixture(autouse=True, scope="session")
def needs() -> None:
    """Skip without segplug-datasets; unlike the other tests of this folder, these do not need torch."""
    pytest.importorskip("segplug_datasets")


# ---------------------------------------------------------------- sound files


def sound_files() -> dict[str, list[bytes]]:
    """Return encoded images and masks by suffix: colour, grey, 16 bits, with alpha, with a palette, progressive."""
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (5, 7, 3), np.uint8), SIZE[::-1])
    mask = np.kron(rng.integers(0, 3, (5, 7), np.uint8), np.ones((8, 8), np.uint8))
    clear = np.dstack([pixels, pixels[..., 0]])
    kinds = [pixels, mask, clear, mask.astype(np.uint16)]
    takes = {".jpg": 2, ".bmp": 3, ".webp": 1}
    found = {s: [encode(s, array) for array in kinds[: takes.get(s, 4)]] for s in SUFFIXES}
    found[".jpg"].append(encode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]))
    found[".webp"].append(encode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 50]))
    found[".webp"].append(encode(".webp", clear))
    found[".png"].append(with_palette(mask))
    found[".tif"] += [encode(".tif", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, kind]) for kind in (1, 5, 8, 32773)]
    return found


def encode(suffix: str, array: np.ndarray, options: list[int] | None = None) -> bytes:
    return cv2.imencode(suffix, array, options or [])[1].tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_palette(mask: np.ndarray) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in mask)
    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], 8, 3, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"PLTE", bytes(range(9))), chunk(b"IDAT", zlib.compress(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- damage


Mutation = Callable[[bytes, np.random.Generator], bytes]


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 12)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_header_bits(data: bytes, rng: np.random.Generator) -> bytes:
    return flip_bits(data[:64], rng) + data[64:]


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def truncate_but_end(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut a part out of the middle, and keep header and end marker."""
    start, end = sorted(rng.integers(10, len(data) - 2, 2).tolist())
    return data[:start] + data[end:]


def zero_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(data)))
    count = int(rng.integers(1, 200))
    return data[:start] + bytes(min(count, len(data) - start)) + data[start + count :]


def insert_noise(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(data)))
    return data[:start] + rng.bytes(int(rng.integers(1, 300))) + data[start:]


def huge(data: bytes, rng: np.random.Generator) -> bytes:
    """Write huge sizes into the header, with correct checksums."""
    width, height = (int(rng.choice([2**14 - 1, 30_000, 65_535, 2**31 - 1, 1])) for _ in range(2))
    changed = bytearray(data)
    if data.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    elif data.startswith(b"\xff\xd8"):
        start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        changed[start + 5 : start + 9] = struct.pack(">HH", min(height, 65_535), min(width, 65_535))
    elif data.startswith(b"BM"):
        changed[18:26] = struct.pack("<ii", width, int(rng.choice([height, -height])))
    elif data.startswith(b"II"):
        (start,) = struct.unpack_from("<I", data, 4)
        for entry in range(start + 2, len(data) - 12, 12):
            tag = struct.unpack_from("<H", data, entry)[0]
            if tag in (256, 257):
                struct.pack_into("<HII", changed, entry + 2, 4, 1, width if tag == 256 else height)
    else:
        struct.pack_into("<HH", changed, 26, width & 0x3FFF, height & 0x3FFF)
    return bytes(changed)


def nothing(data: bytes, rng: np.random.Generator) -> bytes:
    return data


MUTATIONS: dict[str, Mutation] = {
    "bits": flip_bits,
    "header bits": flip_header_bits,
    "truncated": truncate,
    "cut out": truncate_but_end,
    "zeros": zero_bytes,
    "noise": insert_noise,
    "huge": huge,
}


def write_damaged(folder: Path) -> list[str]:
    """Write `COUNT` pairs of which the image or the mask is damaged; return the kind of damage of each."""
    rng, sound = np.random.default_rng(20261121), sound_files()
    done = []
    for number in range(COUNT):
        suffix, (name, change) = SUFFIXES[number % len(SUFFIXES)], list(MUTATIONS.items())[number % len(MUTATIONS)]
        data = change(sound[suffix][int(rng.integers(len(sound[suffix])))], rng)
        wrong = str(rng.choice(SUFFIXES)) if number % 11 == 0 else suffix
        if number % 13 == 0:  # the header of one format, the rest of another
            name, data = "swapped", sound[str(rng.choice(SUFFIXES))][0][:40] + data[40:]
        kind, other = ("images", "masks") if number % 2 else ("masks", "images")
        (folder / f"{kind}/{number:04d}{wrong if kind == 'images' else '.png'}").write_bytes(data)
        (folder / f"{other}/{number:04d}.png").write_bytes(sound[".png"][1 if other == "masks" else 0])
        done.append(f"{name} {kind} {suffix} as {wrong}")
    return done


# ---------------------------------------------------------------- reading


READ = """
import json, resource, sys, time
from segkernel.errors import DataError
from segplug_datasets.files import FolderDataset

dataset = FolderDataset("images", "masks", classes=["a", "b", "c"], data_root=sys.argv[1])
for index in range(len(dataset)):
    began = time.perf_counter()
    try:
        sample = dataset[index]
        result = [list(sample.image.shape), list(sample["seg"].array.shape), str(sample.image.dtype)]
    except DataError as error:
        result = str(error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([index, result, time.perf_counter() - began, peak]), flush=True)
"""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[list]]:
    """The damage of each file, and the result of reading it."""
    pytest.importorskip("resource", reason="the memory of a process is only measured on Unix")
    folder = tmp_path_factory.mktemp("damaged")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    done = write_damaged(folder)
    command = [sys.executable, "-c", READ, str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    results = [json.loads(line) for line in process.stdout.splitlines()]
    if process.returncode:
        last = done[len(results)] if len(results) < len(done) else "at the end"
        pytest.fail(f"exit code {process.returncode} after {len(results)} files; {last}\n{process.stderr[-2000:]}")
    return done, results


def test_every_file_returns_a_sample_or_raises_one_error(damaged: tuple[list[str], list[list]]) -> None:
    done, results = damaged
    assert len(results) == len(done) == COUNT
    refused = [result for _, result, _, _ in results if isinstance(result, str)]
    assert 400 < len(refused) < COUNT - 50  # some damage leaves a file readable
    for index, result, _, _ in results:
        if isinstance(result, str):
            assert f"{index:04d}." in result, result  # the message names the file
        else:
            assert result[0][:2] == result[1]
            assert result[2] == "uint8"


def test_time_and_memory_are_bounded(damaged: tuple[list[str], list[list]]) -> None:
    done, results = damaged
    slowest = max(results, key=lambda result: result[2])
    assert slowest[2] < 5, (done[slowest[0]], slowest)
    growth = results[-1][3] - results[0][3]
    assert growth < LARGEST, [(done[i], peak) for i, _, _, peak in results if peak - results[0][3] > LARGEST][:3]


def test_every_kind_of_damage_occurs(damaged: tuple[list[str], list[list]]) -> None:
    done, _ = damaged
    kinds = Counter(entry.split(" images")[0].split(" masks")[0] for entry in done)
    assert set(kinds) == {*MUTATIONS, "swapped"}
    assert min(kinds.values()) > 50


def test_a_jpeg_with_too_few_bytes_for_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    data = bytearray(encode(".jpg", np.full((*SIZE, 3), 90, np.uint8)))
    start = data.find(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 20_000, 20_000)
    path.write_bytes(bytes(data))
    for read in (image.read, image.read_mask):
        with pytest.raises(DataError, match="cut short"):
            read(path)


def test_a_png_with_a_chunk_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(encode(".png", np.full((*SIZE, 3), 90, np.uint8)))
    data[data.find(b"IDAT") - 4] = 0x40  # a gigabyte
    (tmp_path / "a.png").write_bytes(bytes(data))
    with pytest.raises(DataError, match="cut short"):
        image.read(tmp_path / "a.png")


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]])
def test_a_small_jpeg_of_one_colour_is_not_refused(tmp_path: Path, options: list[int]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(".jpg", np.full((3000, 4000), 128, np.uint8), options))
    assert image.read(path).shape == (3000, 4000, 3)
