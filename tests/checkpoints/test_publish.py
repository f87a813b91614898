"""``seg-kernel publish``: a folder that others load as any checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from segkernel import Predictor, checkpoint
from segkernel.config import load_config
from segkernel.errors import CheckpointError, UntrustedError
from segkernel.experiment import make_runner
from segkernel.loading import make_model
from segplug_backbones.weight_formats import hub

pytest.importorskip("safetensors")
LAST = Path("run/checkpoints/iter_0000002.pt")


def published(folder: str = "published/project") -> Path:
    [path] = Path(folder).glob("*.safetensors")
    return path


@pytest.fixture
def model(project, seg_kernel) -> Path:
    code, said = seg_kernel("publish", LAST, "--licence", "Apache-2.0", "--name", "project")
    assert code == 0, said
    assert said.splitlines()[-1] == f"next   seg-kernel predict {published()} IMAGE... --out predictions"
    return published()


def test_file_and_folder_predict_what_the_checkpoint_predicts(model):
    expected = Predictor(LAST)("images/0.png").labels
    for source in (model, model.parent, str(model.parent)):
        predictor = Predictor(source)
        assert torch.equal(predictor("images/0.png").labels, expected)
        assert predictor.classes == ("ground", "sky", "wall")


def test_the_name_has_the_checksum_and_the_metadata_classes_config_and_licence(model):
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert model.name == f"project-{digest[:8]}.safetensors"
    meta = checkpoint.load(model)["meta"]
    assert meta["classes"] == ["ground", "sky", "wall"]
    assert meta["licence"] == "Apache-2.0"
    assert meta["config"]["model"]["type"] == "EncoderDecoder"
    assert "work_dir" not in meta["config"]
    assert "data" not in meta


def test_the_card_has_the_figures_of_the_test_and_a_header_that_hubs_read(model):
    text = (model.parent / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    record = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert record["kind"] == "test"
    assert header["license"] == "apache-2.0"
    metrics = {entry["type"]: entry["value"] for entry in header["model-index"][0]["results"][0]["metrics"]}
    assert metrics["mIoU"] == round(record["mIoU"], 2)
    assert "Of the test set, in percent." in text
    assert re.search(rf"\| 1 \| sky \| #\w{{6}} \| {record['IoU.sky']:.2f} \| {record['Acc.sky']:.2f} \|", text)
    for part in ("SGD, lr 0.01, momentum 0.9", "iterations 2", "FolderDataset, 4 images", "torch 2.", model.name):
        assert part in text


def test_the_weights_start_a_training_and_a_backbone(model):
    report = make_runner(load_config("my.yaml")).load_weights(model)
    assert (report.fresh, report.skipped, report.reshaped) == ((), (), ())
    built = make_model(load_config("my.yaml", [f"+model.backbone.pretrained={model}"]))
    stem = built.state_dict()["backbone.stem.0.weight"]
    assert torch.equal(stem, checkpoint.load(LAST)["state_dict"]["backbone.stem.0.weight"])


def test_an_address_of_the_hub_is_a_model(model, monkeypatch, seg_kernel):
    monkeypatch.setattr(hub.HuggingFaceHub, "locate", lambda self, source: model)
    assert Predictor("hf://org/model").classes == ("ground", "sky", "wall")
    assert seg_kernel("predict", "hf://org/model@v1.0", "images", "--out", "out")[0] == 0
    assert seg_kernel("test", "my.yaml", "hf://org/model")[0] == 0
    assert list(Path("out").rglob("0*.png"))


def test_a_model_is_pushed_after_it_is_written(project, monkeypatch, seg_kernel):
    pushed = []
    monkeypatch.setattr(hub, "push", lambda *arguments: pushed.append(arguments) or "https://hub/commit")
    code, said = seg_kernel("publish", "run", "--push", "hf://org/model", "--licence", "MIT", "--out", "out")
    assert (code, pushed) == (0, [(Path("out"), "hf://org/model", False)])
    assert "uploaded https://hub/commit" in said
    assert 'Predictor("hf://org/model")' in Path("out/README.md").read_text()
    code, said = seg_kernel("publish", "run", "--push", "org/model", "--out", "other")
    assert (code, "write hf://ORG/NAME" in said, Path("other").exists()) == (1, True, False)


def test_nothing_is_overwritten_without_force(model, seg_kernel):
    before = model.stat().st_mtime_ns
    code, said = seg_kernel("publish", LAST, "--name", "project")
    assert code == 2
    assert "published/project: already contains README.md; --force replaces it" in said
    assert model.stat().st_mtime_ns == before
    assert seg_kernel("publish", LAST, "--name", "project", "--force", "--licence", "MIT")[0] == 0
    assert published() != model
    Path("published/project/mine.txt").touch()
    assert "contains other files, such as mine.txt" in seg_kernel("publish", LAST, "--name", "project", "--force")[1]


def test_averaged_weights_are_published(project, seg_kernel):
    state = checkpoint.load(LAST)
    state["source_state_dict"] = {name: value + 1 for name, value in state["state_dict"].items()}
    checkpoint.save("averaged.pt", {key: value for key, value in state.items() if key != "path"})
    assert seg_kernel("publish", "averaged.pt", "--out", "out")[0] == 0
    loaded = checkpoint.load(published("out"))["state_dict"]
    assert all(torch.equal(value, loaded[name]) for name, value in state["state_dict"].items())
    assert "averaged over training (EMA)" in Path("out/README.md").read_text()


def test_a_checkpoint_without_config_needs_one_that_fits_and_classes(project, seg_kernel):
    torch.save({"state_dict": checkpoint.load(LAST)["state_dict"]}, "bare.pth")
    code, said = seg_kernel("publish", "bare.pth")
    assert (code, "holds weights, but not their config" in said) == (1, True)
    text = Path("my.yaml").read_text()
    Path("other.yaml").write_text(text.replace("num_classes: 3", "num_classes: 4"))
    assert "conv_seg.weight: (3, 4, 1, 1) in the file" in seg_kernel("publish", "bare.pth", "--config", "other.yaml")[1]
    no_data = {key: value for key, value in yaml.safe_load(text).items() if key != "data"}
    Path("model.yaml").write_text(yaml.safe_dump(no_data))
    code, said = seg_kernel("publish", "bare.pth", "--config", "model.yaml")
    assert (code, "the names of its classes are unknown: give them, --classes" in said) == (2, True)
    assert (
        "has 3 classes, but there are names of 2"
        in seg_kernel("publish", "bare.pth", "--config", "model.yaml", "--classes", "a,b")[1]
    )
    assert not Path("published").exists()
    assert seg_kernel("publish", "bare.pth", "--config", "my.yaml", "--out", "out")[0] == 0
    assert Predictor("out").classes == ("ground", "sky", "wall")


@pytest.mark.parametrize("source", ["nothing.pt", "images", "quickstart", "my.yaml"])
def test_what_is_no_checkpoint_is_one_clear_error(project, seg_kernel, source):
    code, said = seg_kernel("publish", source)
    assert code in (1, 2)
    assert said.count("Error:") == 1
    assert source in said


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def announces_a_huge_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])


def with_meta(text: str):
    def change(path: Path) -> None:
        from safetensors.torch import save_file

        save_file({"w": torch.ones(1)}, path, {"segkernel": text})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damaged, "its weights do not match their checksum"),
        (cut, "is damaged"),
        (announces_a_huge_header, "is damaged"),
        (with_meta("{"), "is not JSON"),
        (with_meta("[" * 100000), "is not JSON"),
        (with_meta("[1]"), "is a list, not a mapping"),
        (with_meta("{}"), "holds weights, but not their config"),
    ],
)
def test_a_bad_published_file_is_one_clear_error(model, change, said):
    change(model)
    with pytest.raises(CheckpointError, match=said):
        Predictor(model)


def test_the_config_in_a_published_file_is_data(model):
    from safetensors.torch import load_file, save_file

    meta = checkpoint.load(model)["meta"]
    meta["config"]["model"]["decode_head"]["loss_decode"] = {"type": "os:system"}
    save_file(load_file(model), model, {"segkernel": json.dumps(meta)})
    with pytest.raises(UntrustedError, match="os:system"):
        Predictor(model)
