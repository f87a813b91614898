"""Checkpoints of MMSegmentation's runs, here written as it does: compared with a config, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segkernel import checkpoint

LAST, FIRST = Path("run/checkpoints/iter_0000002.pt"), Path("run/checkpoints/iter_0000001.pt")


def of_mmsegmentation(path: Path, groups: str = "one each", **meta: object) -> dict:
    """Return a checkpoint of ours as MMSegmentation 1.x writes it."""
    state = checkpoint.load(path)
    optimizer = state["optimizer"]
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    settings = {key: value for key, value in optimizer["param_groups"][0].items() if key != "params"}
    parts = {"one": [numbers], "one each": [[n] for n in numbers]}.get(groups, [numbers[5:], numbers[:5]])
    settings_of = [{**settings, "params": part} for part in parts]
    if groups == "by layer":
        names = [name for name in state["state_dict"] if name.endswith((".weight", ".bias"))]
        for group in settings_of:
            group["param_names"] = [names[number] for number in group["params"]]
    return {
        "state_dict": state["state_dict"],
        "meta": {"iter": state["iteration"], "cfg": "optimizer = dict(type='SGD', lr=0.01)", **meta},
        "optimizer": {"state": optimizer["state"], "param_groups": settings_of},
    }


@pytest.mark.parametrize("groups", ["one", "one each", "by layer"])
def test_a_resumed_run_equals_the_uninterrupted_one(project, seg_kernel, groups):
    torch.save(of_mmsegmentation(FIRST, groups), "iter_1.pth")
    code, said = seg_kernel("convert", "iter_1.pth", "my.yaml", "--resume", "--out", "new/checkpoints/iter_0000001.pt")
    assert code == 0
    assert "iteration 1 of 2, SGD with" in said
    assert seg_kernel("run", "my.yaml", "--work-dir", "new", "--resume", "new/checkpoints/iter_0000001.pt")[0] == 0
    ours, theirs = (checkpoint.load(path)["state_dict"] for path in (LAST, Path("new", *LAST.parts[1:])))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_iterations_are_counted_in_optimiser_steps(project, seg_kernel):
    torch.save(of_mmsegmentation(FIRST, iter=2, cfg="optim_wrapper = dict(accumulative_counts=2, ...)"), "iter_2.pth")
    code, said = seg_kernel("convert", "iter_2.pth", "my.yaml", "--resume", "--out", "new.pt")
    assert (code, checkpoint.load("new.pt")["iteration"]) == (0, 1)
    assert "iteration 1 of 2" in said


def test_a_checkpoint_of_ours_needs_no_conversion(project, seg_kernel):
    code, said = seg_kernel("convert", str(FIRST), "my.yaml", "--resume", "--out", "new.pt")
    assert code == 1
    assert f"seg-kernel run CONFIG --resume {FIRST}" in said


def test_averaged_weights_and_those_that_training_continues_from_are_both_kept(project, seg_kernel):
    state = of_mmsegmentation(FIRST)
    raw = state["state_dict"]
    state["ema_state_dict"] = {"steps": torch.tensor(1), **{f"module.{name}": value for name, value in raw.items()}}
    state["state_dict"] = {name: value + 1 for name, value in raw.items()}
    torch.save(state, "iter_1.pth")
    assert seg_kernel("convert", "iter_1.pth", "my.yaml", "--resume", "--out", "new.pt")[0] == 0
    written = checkpoint.load("new.pt")
    for name, value in raw.items():
        assert torch.equal(written["source_state_dict"][name], value)
        assert torch.equal(written["state_dict"][name], value + 1)


def no_optimizer(state: dict) -> None:
    del state["optimizer"]


def other_settings(state: dict) -> None:
    state["meta"]["cfg"] = ""
    for group in state["optimizer"]["param_groups"]:
        group["betas"] = (0.9, 0.999)


def other_shape(state: dict) -> None:
    states = state["optimizer"]["state"]
    states[0] = {"momentum_buffer": torch.zeros(2, 2)}


def renamed_parameter(state: dict) -> None:
    state["optimizer"]["param_groups"][1]["param_names"][0] = "other"


def fewer(state: dict) -> None:
    state["optimizer"]["param_groups"].pop()


@pytest.mark.parametrize(
    ("change", "groups", "said"),
    [
        (no_optimizer, "one", "it holds no iteration (meta.iter) and optimiser"),
        (lambda state: state["meta"].update(cfg="optimizer=dict(type='AdamW')"), "one", "AdamW, the config's is SGD"),
        (other_settings, "one", "has the settings betas, dampening, momentum, nesterov, not SGD's"),
        (other_shape, "one each", "has the shape (2, 2)"),
        (fewer, "one each", "parameters, the model has"),
        (lambda state: None, "two", "parameters in 2 groups without their names"),
        (renamed_parameter, "by layer", "differ in the parameter backbone.stem.0.weight"),
        (lambda state: state.update(optimizer={"a": state["optimizer"]}), "one", "it holds several optimisers"),
        (lambda state: state["optimizer"].update(param_groups=[None]), "one", "cannot be resumed"),
    ],
)
def test_an_optimiser_that_is_another_one_is_refused_with_the_reason(project, seg_kernel, change, groups, said):
    state = of_mmsegmentation(FIRST, groups)
    change(state)
    torch.save(state, "iter_1.pth")
    code, message = seg_kernel("convert", "iter_1.pth", "my.yaml", "--resume", "--out", "new.pt")
    assert code == 1
    assert said in message
    assert "start from its weights only: load_from: iter_1.pth" in message
    assert not Path("new.pt").exists()


def test_the_table_lists_what_differs_and_probable_renames(project, seg_kernel):
    weights = checkpoint.load(LAST)["state_dict"]
    renamed = {name.replace("decode_head.conv_seg", "decode_head.cls"): value for name, value in weights.items()}
    renamed = {name.replace("backbone.layer", "backbone.stage"): value for name, value in renamed.items()}
    renamed["decode_head.convs.0.conv.weight"] = torch.zeros(4, 99, 3, 3)
    torch.save(renamed, "other.pth")
    code, said = seg_kernel("convert", "other.pth", "my.yaml", "--check")
    assert code == 1
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "shape decode_head.convs.0.conv.weight (4, 99, 3, 3) (4, 32, 3, 3)" in lines
    assert "cls -> conv_seg (2)" in lines
    assert sum(line.startswith("stage") for line in lines) == 4
    assert lines[-1] == "Error: other.pth: does not fit my.yaml, see the table"


def test_a_file_that_fits_says_so(project, seg_kernel):
    torch.save({"module." + name: value for name, value in checkpoint.load(LAST)["state_dict"].items()}, "theirs.pth")
    code, said = seg_kernel("convert", "theirs.pth", "my.yaml", "--check")
    assert code == 0
    assert "tensors fit\nnext   seg-kernel test my.yaml theirs.pth" in said
