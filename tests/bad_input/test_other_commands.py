"""predict, export and plot with unusable files and options; plugins that are broken or missing."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from site import addsitedir

import pytest

from segkernel.catalog import Catalog


def test_predict_continues_after_unreadable_images_and_names_them(trained, seg_kernel):
    Path("images/2.png").write_text("hello")
    Path("images/3.png").write_bytes(b"")
    message = seg_kernel("predict", trained, "images", "--out", "out").must_fail(1, "images/2.png", "images/3.png")
    assert "images/0.png" not in message
    assert sorted(path.name for path in Path("out/pred").iterdir()) == ["0.png", "1.png"]


PREDICTIONS = {
    "no file": (["nope.png"], 1, "nope.png: no such file"),
    "an empty folder": (["empty"], 1, "empty: no images in this folder"),
    "a pattern of nothing": (["*.nope"], 1, "*.nope: no file matches"),
    "an empty list": (["list.txt"], 1, "list.txt: the list of names is empty"),
    "no image": (["tiny.yaml"], 1, "tiny.yaml: not an image"),
    "out is a file": (["images", "--out", "tiny.yaml"], 1, "tiny.yaml/pred/0.png: cannot be written"),
    "no such device": (["images", "--device", "cuda:99"], 2, "device 'cuda:99'"),
    "a wrong opacity": (["images", "--opacity", "7"], 2, "--opacity"),
    "nothing": ([], 2, "IMAGE..."),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predict_names_the_unusable_argument(trained, seg_kernel, case):
    arguments, code, message = PREDICTIONS[case]
    Path("empty").mkdir()
    Path("list.txt").touch()
    seg_kernel("predict", trained, *arguments).must_fail(code, message)


def test_model_and_image_in_the_wrong_order_are_refused(trained, seg_kernel):
    seg_kernel("predict", "images/0.png", trained).must_fail(2, "images/0.png", "models come first")


@pytest.mark.parametrize("command", [["predict", "x.onnx", "images"], ["test", "tiny.yaml", "x.onnx"]], ids=" ".join)
@pytest.mark.parametrize("content", [None, b"", b"hello"], ids=["missing", "empty", "text"])
def test_a_file_that_is_not_onnx_is_refused(project, seg_kernel, command, content):
    pytest.importorskip("onnxruntime")
    if content is not None:
        Path("x.onnx").write_bytes(content)
    seg_kernel(*command).must_fail(1, "x.onnx")


@pytest.mark.parametrize("size", ["7", "0x0", "axb"])
def test_export_refuses_an_invalid_size(trained, seg_kernel, size):
    seg_kernel("export", trained, "--size", size).must_fail(2, "--size", size)


def test_export_names_an_image_that_is_missing(trained, seg_kernel):
    seg_kernel("export", trained, "--image", "nope.png").must_fail(1, "nope.png: no such file")


@pytest.fixture
def without(monkeypatch):
    """Hide an installed distribution."""

    def hide(distribution: str) -> None:
        found = Catalog.discover()
        rows = tuple(row for row in found.rows if row.distribution != distribution)
        monkeypatch.setattr(Catalog, "discover", classmethod(lambda cls, *_: Catalog(rows)))

    return hide


MISSING = {
    "export": ("segplug-deploy", ["export", "run/checkpoints/iter_0000002.pt"]),
    "predict": ("segplug-deploy", ["predict", "x.onnx", "images"]),
    "run with an export": ("segplug-deploy", ["run", "tiny.yaml", "+export=[{type: ONNXExporter}]"]),
    "run": ("segplug-heads", ["run", "tiny.yaml"]),
    "test": ("segplug-backbones", ["test", "run/checkpoints/iter_0000002.pt"]),
    "plot": ("segplug-training", ["plot", "run"]),
    "predict at all": ("segplug-datasets", ["predict", "x.pt", "images"]),
    "test with pictures": ("segplug-datasets", ["test", "tiny.yaml", "x.pt", "--show-dir", "drawn"]),
}


@pytest.mark.parametrize("case", MISSING)
def test_the_missing_package_to_install_is_named(trained, seg_kernel, without, case):
    distribution, arguments = MISSING[case]
    Path("x.onnx").write_text("hello")
    without(distribution)
    seg_kernel(*arguments).must_fail(3, f"pip install {distribution}")


def test_a_plugin_that_raises_on_import_is_named(project, start, finish, tmp_path):
    site = tmp_path / "site"
    info = site / "segplug_broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: segplug-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[segkernel.heads]\nBrokenHead = segplug_broken:BrokenHead\n")
    (site / "segplug_broken.py").write_text("raise RuntimeError('no licence')\n")
    see = functools.partial(addsitedir, str(site))
    done = finish(start("run", "tiny.yaml", "model.decode_head={type: BrokenHead}", before=see))
    done.must_fail(3, "segplug-broken/BrokenHead", "failed to import", "no licence")
    assert finish(start("config", "check", "tiny.yaml", before=see)).code == 0


PLOTS = {
    "no such run": (["nope"], 2, "nope: no such run"),
    "no run": (["images"], 2, "images: no metrics.jsonl"),
    "no log": (["tiny.yaml"], 1, "tiny.yaml: line 1"),
    "no such key": (["run", "--keys", "mIuo"], 2, "did you mean 'mIoU'?"),
    "no such format": (["run", "--out", "x.nope"], 2, "x.nope"),
    "nowhere to write": (["run", "--out", "tiny.yaml/x.png"], 1, "tiny.yaml"),
}


@pytest.mark.parametrize("case", PLOTS)
def test_plot_names_the_unusable_argument(trained, seg_kernel, case):
    pytest.importorskip("segplug_training")
    pytest.importorskip("matplotlib")
    arguments, code, message = PLOTS[case]
    seg_kernel("plot", *arguments).must_fail(code, message)


def test_a_log_without_metrics_is_refused(project, seg_kernel):
    pytest.importorskip("segplug_training")
    Path("metrics.jsonl").write_text(json.dumps({"kind": "train", "iteration": 1}) + "\n")
    seg_kernel("plot", ".").must_fail(1, "no metrics yet")
