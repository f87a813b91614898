"""The command `benchmark`: latency and memory of files, each in a process of its own."""

from __future__ import annotations

import json

import torch
from click.testing import CliRunner
from deploy_models import METADATA, Tiny

from segplug_deploy import ONNXExporter
from segplug_deploy.benchmark import command, table


def test_files_are_measured_and_a_missing_one_is_a_row(tmp_path):
    path = tmp_path / "tiny.onnx"
    ONNXExporter().export(Tiny(), path, torch.randn(1, 3, 64, 96), METADATA)
    options = ["--size", "64x96", "--batch", "1,2", "--repeats", "3", "--threads", "1", "--device", "cpu"]
    arguments = [str(path), str(tmp_path / "gone.onnx"), *options, "--json", str(tmp_path / "rows.json")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    one, two, gone = json.loads((tmp_path / "rows.json").read_text())
    assert (one["batch"], two["batch"], one["threads"], one["size"]) == (1, 2, 1, [64, 96])
    assert 0 < one["p50 ms"] <= one["p90 ms"] <= one["p99 ms"]
    assert one["MB"] > 10
    assert "no such file" in gone["error"]
    assert [line.split()[0] for line in result.output.splitlines()] == ["model", "tiny.onnx", "tiny.onnx", "gone.onnx"]


def test_batch_sizes_that_are_no_numbers_are_refused():
    result = CliRunner().invoke(command, ["a.onnx", "--batch", "1,x"])
    assert result.exit_code == 2
    assert "1,4,16" in result.output


def test_a_table_shows_errors_beside_numbers():
    values = {"batch": 1, "p50 ms": 1.0, "p90 ms": 2.0, "p99 ms": 3.0, "labels ms": 4.0, "images/s": 250.0, "MB": 90.0}
    lines = table([{"model": "a/b.onnx", **values}, {"model": "c.pt", "error": "no such file\nmore"}]).splitlines()
    assert lines[1].split() == ["b.onnx", "1", "1.0", "2.0", "3.0", "4.0", "250.00", "90"]
    assert lines[2].split(maxsplit=1) == ["c.pt", "no such file"]
