"""Losses for given samples."""

from __future__ import annotations

import torch
from golden_parts import cases, check, load, random

from segplug_instances.boxes import encode
from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.losses import accuracy, box_losses, mask_loss, rpn_losses


@cases("losses", "*_rpn*")
def test_rpn_losses(name: str) -> None:
    case, inputs = load("losses")[name], load("losses")["d2_rpn_beta0"]
    convention = TORCHVISION if name.startswith("tv") else DETECTRON2
    logits, deltas = ([inputs[f"{kind}_{level}"].requires_grad_() for level in (0, 1)] for kind in ("logits", "deltas"))
    anchors = torch.cat([inputs["anchors_0"], inputs["anchors_1"]])
    targets = torch.stack([encode(truth, anchors, (1, 1, 1, 1), convention) for truth in inputs["matched_gt"]])
    beta = case.params.get("smooth_l1_beta", case.params.get("beta"))
    found = rpn_losses(logits, deltas, inputs["labels"], targets, beta, 256, convention)
    wanted = case.params.get("losses") or {key: case.params[key] for key in ("loss_objectness", "loss_rpn_box_reg")}
    check(torch.stack(found), torch.tensor([*wanted.values()]))
    if name.startswith("d2"):
        sum(found).backward()
        for tensors, key in ((logits, "logits"), (deltas, "deltas")):
            norms = torch.stack([each.grad.norm() for each in tensors])
            check(norms, torch.tensor(case.params[f"grad_norm_{key}"]), 1e-5)


@cases("losses", "*_box*")
def test_box_losses(name: str) -> None:
    case, inputs = load("losses")[name], load("losses")["d2_box_beta0"]
    truth, proposals = (torch.cat([inputs[f"{kind}0"], inputs[f"{kind}1"]]) for kind in ("gt", "proposals"))
    targets = encode(truth, proposals, (10, 10, 5, 5), TORCHVISION)
    deltas = inputs["deltas"][:, : 4 if name.endswith("agnostic") else None].clone().requires_grad_()
    logits = inputs["scores"].clone().requires_grad_()
    beta = case.params.get("smooth_l1_beta", case.params.get("beta"))
    found = box_losses(logits, deltas, inputs["classes"], targets, beta)
    wanted = case.params.get("losses") or {key: case.params[key] for key in ("loss_classifier", "loss_box_reg")}
    check(torch.stack(found), torch.tensor([*wanted.values()]))
    if "grad_norm" in case.params:
        sum(found).backward()
        check(torch.stack([logits.grad.norm(), deltas.grad.norm()]), torch.tensor(case.params["grad_norm"]), 1e-5)


@cases("d1_train", "rpn_loss")
def test_rpn_losses_of_detectron(name: str) -> None:
    case, blobs = load("d1_train")[name], load("d1_train")["rpn_blobs"]
    height, width = case["logits"].shape[2:]

    def rows(blob: torch.Tensor, values: int) -> torch.Tensor:
        return blob[..., :height, :width].unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3)

    labels = rows(blobs["rpn_labels_int32_wide"], 1)[..., 0]
    logits, targets = rows(case["logits"], 1)[..., 0], rows(blobs["rpn_bbox_targets_wide"], 4)
    found = rpn_losses([logits], [rows(case["deltas"], 4)], labels, targets, case.params["beta"], 32, DETECTRON)
    check(torch.stack(found), torch.tensor([case.params["loss_cls"], case.params["loss_bbox"]]))


@cases("d1_train", "box_loss")
def test_box_losses_of_detectron(name: str) -> None:
    case = load("d1_train")[name]
    classes = (case["classes"] - 1) % 6  # background from first to last
    targets = encode(case["gt"], case["boxes"], case.params["weights"], DETECTRON)
    wanted = torch.zeros(len(classes), 7, 4)
    wanted[torch.arange(len(classes)), case["classes"]] = targets * (case["classes"] > 0)[:, None]
    check(wanted[:, :6].flatten(1) * (case["targets"] != 0), case["targets"])
    logits, deltas = case["scores"].roll(-1, 1), case["deltas"][:, 4:]
    found = box_losses(logits, deltas, torch.where(case["classes"] == 0, 5, classes), targets, case.params["beta"])
    check(torch.stack(found), torch.tensor([case.params["loss_cls"], case.params["loss_bbox"]]))
    check(accuracy(logits, classes), torch.tensor(case.params["accuracy"]))


def test_no_rows_give_a_loss_of_zero_with_gradients() -> None:
    logits, deltas, masks = (torch.zeros(0, *shape, requires_grad=True) for shape in ((4,), (12,), (3, 7, 7)))
    nothing = torch.zeros(0, dtype=torch.long)
    losses = [*box_losses(logits, deltas, nothing, torch.zeros(0, 4), 1.0), mask_loss(masks, nothing, masks[:, 0])]
    sum(losses).backward()
    assert not sum(losses)
    assert masks.grad is not None


@cases("masks", "loss")
def test_mask_loss(name: str) -> None:
    case, targets = load("masks")[name], load("masks")["targets"]
    logits, classes = random(133, 6, 3, 28, 28), torch.tensor(case.params["classes"])
    for key, wanted in case.params["losses"].items():
        kind = "tv_targets_28" if key == "tv" else f"targets_{key.split('_')[1]}_28"
        chosen = logits[:, :1] if key.endswith("agnostic") else logits
        check(mask_loss(chosen, classes, targets[kind]), torch.tensor(wanted))


@cases("d1_train", "mask_loss")
def test_mask_loss_of_detectron(name: str) -> None:
    case = load("d1_train")[name]
    found = mask_loss(random(91, 4, 6, 14, 14), torch.tensor(case.params["classes"]), case["targets"])
    check(found, torch.tensor(case.params["loss"]))
