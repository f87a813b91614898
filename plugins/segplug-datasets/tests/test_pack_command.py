"""``seg-kernel data pack``."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from segkernel import load_config
from segkernel.errors import DataError, UsageError
from segplug_datasets import image
from segplug_datasets.commands.pack import command
from segplug_datasets.packed import PackedDataset

CONFIG = """
data:
  train: {type: FolderDataset, images: images, masks: masks, data_root: ROOT, classes: [road, car]}
  val: {type: FolderDataset, images: images, masks: masks, data_root: "${data.train.data_root}", classes: [a, b]}
  eval_transforms:
    - {type: Resize, scale: "${data.train.classes}"}
"""


def write_config(folder: Path, count: int = 4, size: int = 16) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        image.write(folder / f"images/{number}.png", rng.integers(0, 256, (size, size, 3), np.uint8))
        image.write_mask(folder / f"masks/{number}.png", rng.integers(0, 2, (size, size)))
    config = folder / "my.yaml"
    config.write_text(CONFIG.replace("ROOT", str(folder)))
    return config


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_set_of_a_config_is_packed(tmp_path: Path) -> None:
    result = call(write_config(tmp_path), tmp_path / "out", "--workers", "0")
    assert f"packed 4 samples, 0.00 GB, into {tmp_path / 'out'}" in result.stdout
    assert len(PackedDataset(tmp_path / "out")) == 4


def test_the_printed_lines_make_the_config_use_the_pack(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    printed = call(config, tmp_path / "out", "--workers", "0").stdout
    lines = yaml.safe_load(printed.partition("config:\n")[2].partition("or:")[0])
    (tmp_path / "new.yaml").write_text(yaml.safe_dump({"_base_": "my.yaml", **lines}))
    by_file = load_config(tmp_path / "new.yaml")
    by_line = load_config(config, shlex.split(printed.partition("or: ")[2])[3:])
    for loaded in (by_file, by_line):
        assert loaded["data"]["train"] == {"type": "PackedDataset", "path": str(tmp_path / "out")}
        assert loaded["data"]["val"] == load_config(config)["data"]["val"]
        assert loaded["data"]["eval_transforms"] == load_config(config)["data"]["eval_transforms"]


def test_another_set_and_overrides(tmp_path: Path) -> None:
    call(write_config(tmp_path), tmp_path / "out", "--split", "val", "--workers", "0", "data.val.classes=[x, y]")
    assert PackedDataset(tmp_path / "out").classes == ("x", "y")


def test_a_pack_of_another_config_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    call(config, tmp_path / "out", "--workers", "0")
    with pytest.raises(DataError, match="another data set"):
        call(config, tmp_path / "out", "--workers", "0", "+data.train.ignore=[7]")


def test_a_pack_is_verified(tmp_path: Path) -> None:
    call(write_config(tmp_path), tmp_path / "out", "--workers", "0")
    assert call("--verify", tmp_path / "out").stdout == f"{tmp_path / 'out'} is valid\n"
    shard = tmp_path / "out/shard-00000.bin"
    shard.write_bytes(b"\x01" + shard.read_bytes()[1:])
    with pytest.raises(DataError, match="1 samples are damaged or outdated"):
        call("--verify", tmp_path / "out")


def test_wrong_arguments(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with pytest.raises(UsageError, match=r"no set data\.test; available: train, val"):
        call(config, tmp_path / "out", "--split", "test")
    assert "give a CONFIG and the folder DEST" in call(config).output


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_leaves_no_process_and_is_taken_up_again(tmp_path: Path) -> None:
    config = write_config(tmp_path, 60, 256)
    out = tmp_path / "out"
    line = [
        sys.executable,
        "-m",
        "segkernel",
        "data",
        "pack",
        str(config),
        str(out),
        "--workers",
        "2",
        "--shard-mb",
        "1",
    ]
    running = subprocess.Popen(line, stderr=subprocess.PIPE)
    while not list(out.glob("shard-*.bin")) and running.poll() is None:
        time.sleep(0.001)
    children = _children(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.bin")}
    end = time.monotonic() + 5
    while any(map(_is_alive, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_is_alive, children))
    subprocess.run(line, check=True, capture_output=True)
    assert len(PackedDataset(out, verify=True)) == 60
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (OSError, ProcessLookupError):
        return False
