"""Files that are not checkpoints, or checkpoints of another model."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

OTHER = ["model.backbone.base_channels=8", "model.decode_head.in_channels=64"]
FIT = "do not fit the model"


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def changed(source: Path, **entries) -> None:
    torch.save({**torch.load(source, weights_only=True), **entries}, "x.pt")


def without(source: Path, key: str) -> None:
    state = torch.load(source, weights_only=True)
    del state[key]
    torch.save(state, "x.pt")


UNREADABLE = {
    "missing": (lambda good: None, "x.pt: no such file"),
    "empty": (lambda good: Path("x.pt").touch(), "x.pt: is empty"),
    "cut short": (lambda good: Path("x.pt").write_bytes(good.read_bytes()[:9999]), "x.pt: is damaged"),
    "text": (lambda good: Path("x.pt").write_text("hello"), "x.pt: is damaged or not a checkpoint"),
    "a folder": (lambda good: Path("x.pt").mkdir(), "x.pt: is a folder"),
    "a list": (lambda good: torch.save([1], "x.pt"), "x.pt: holds a list"),
    "a tensor": (lambda good: torch.save(torch.zeros(2), "x.pt"), "x.pt: holds a Tensor"),
    "no weights": (lambda good: torch.save({"a": 1}, "x.pt"), "x.pt: holds no weights"),
    "a pickle of code": (lambda good: Path("x.pt").write_bytes(pickle.dumps(Evil())), "x.pt: was not written"),
    "code beside weights": (lambda good: changed(good, more=Evil()), "x.pt: refused: it asks for"),
}
WAYS = {
    "test": ["test", "tiny.yaml", "x.pt", "--work-dir", "other"],
    "test of its own config": ["test", "x.pt", "--work-dir", "other"],
    "resume": ["run", "tiny.yaml", "--resume", "x.pt", "--work-dir", "other"],
    "load_from": ["run", "tiny.yaml", "+load_from=x.pt", "--work-dir", "other"],
    "predict": ["predict", "x.pt", "images"],
    "predict with weights": ["predict", "tiny.yaml", "images", "--weights", "x.pt"],
    "export": ["export", "x.pt"],
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_not_a_checkpoint_is_refused(trained, seg_kernel, way, case):
    make, message = UNREADABLE[case]
    make(trained)
    seg_kernel(*WAYS[way]).must_fail(1, message)
    assert not Path("executed").exists()
    assert not list(Path("other").glob("**/*.pt"))


@pytest.mark.parametrize("way", ["test", "resume", "predict with weights"])
def test_weights_of_another_model_are_refused(trained, seg_kernel, way):
    torch.save({"some.layer.weight": torch.zeros(3)}, "x.pt")
    seg_kernel(*WAYS[way]).must_fail(1, "x.pt", FIT, "some.layer.weight")


def test_fine_tuning_refuses_weights_without_a_match(trained, seg_kernel):
    torch.save({"some.layer.weight": torch.zeros(3)}, "x.pt")
    seg_kernel(*WAYS["load_from"]).must_fail(1, "x.pt: no tensor in the file fits", "some.layer.weight")


@pytest.mark.parametrize("arguments", [["test", "tiny.yaml"], ["run", "tiny.yaml", "--resume"]], ids=" ".join)
def test_a_checkpoint_of_a_model_of_another_size_is_refused(trained, seg_kernel, arguments):
    done = seg_kernel(*arguments, trained, *OTHER, "--work-dir", "other")
    done.must_fail(1, str(trained), FIT, "(4, 4, 3, 3) in the file, (8, 4, 3, 3) in the model")


@pytest.mark.parametrize("way", ["test", "resume", "predict", "predict with weights"])
def test_a_checkpoint_of_other_classes_is_refused(trained, seg_kernel, way):
    weights = torch.load(trained, weights_only=True)["state_dict"]
    weights = {k: torch.zeros(5, *v.shape[1:]) if "conv_seg" in k else v for k, v in weights.items()}
    changed(trained, state_dict=weights)
    seg_kernel(*WAYS[way]).must_fail(1, "x.pt", FIT, "conv_seg.bias: (5,) in the file, (3,) in the model")


@pytest.mark.parametrize("way", ["test of its own config", "predict", "export"])
def test_weights_without_their_config_need_one(trained, seg_kernel, way):
    torch.save(torch.load(trained, weights_only=True)["state_dict"], "x.pt")
    seg_kernel(*WAYS[way]).must_fail(1, "x.pt", "config")


def test_the_missing_component_of_a_checkpoint_is_named(trained, seg_kernel):
    changed(trained, meta={"config": {"model": {"type": "Gone"}}})
    seg_kernel(*WAYS["predict"]).must_fail(2, "'Gone'")


RESUMES = {
    "weights alone": (lambda good: without(good, "optimizer"), 2, "holds weights only, not a run"),
    "no random state": (lambda good: changed(good, random={}), 1, "does not match this run"),
    "no hooks": (lambda good: without(good, "hooks"), 1, "does not match this run"),
    "an odd position": (lambda good: changed(good, position="x"), 1, "does not match this run"),
    "other parameter groups": (
        lambda good: changed(good, optimizer={"state": {}, "param_groups": []}), 1, "does not match this run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RESUMES)
def test_the_reason_why_a_checkpoint_cannot_be_resumed_is_named(trained, seg_kernel, case):
    make, code, reason = RESUMES[case]
    make(trained)
    seg_kernel(*WAYS["resume"], "schedule.iterations=3").must_fail(code, "x.pt", reason, "load_from: x.pt")


def test_another_optimizer_is_not_resumed(trained, seg_kernel):
    changes = ["optim.optimizer={type: AdamW}", "schedule.iterations=4"]
    seg_kernel("run", "tiny.yaml", "--resume", *changes).must_fail(1, str(trained), "optimizer", "betas")


def test_resuming_without_a_checkpoint_is_refused(project, seg_kernel):
    seg_kernel("run", "tiny.yaml", "--resume").must_fail(1, "run: no checkpoint to resume from")


def test_resume_finds_the_run_where_the_config_puts_it(trained, seg_kernel):
    before = Path("run/config.yaml").read_bytes()
    assert seg_kernel("run", "tiny.yaml", "--resume", "schedule.iterations=3").code == 0
    assert Path("run/checkpoints/iter_0000003.pt").exists()
    assert Path("run/config.yaml").read_bytes() == before
    assert "iterations: 3" in Path("run/config_from_0000002.yaml").read_text()


def test_a_run_does_not_overwrite_another(trained, seg_kernel):
    def files():  # the lock file may change
        return {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != ".lock"}

    before = files()
    seg_kernel("run", "tiny.yaml").must_fail(2, "run: already contains a run", "--resume")
    assert before == files()


def test_a_test_does_not_change_the_record_of_the_run(trained, seg_kernel, caplog):
    caplog.set_level("INFO")
    before = Path("run/config.yaml").read_bytes()
    assert seg_kernel("test", trained, "+seed=7").code == 0
    assert "test at iteration 2" in caplog.text
    assert Path("run/config.yaml").read_bytes() == before
