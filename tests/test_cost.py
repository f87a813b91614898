"""`cost_of` a packaged model, whose backbone is another package's."""

from __future__ import annotations

import pytest

from segkernel.config import load_config
from segplug_heads.commands.cost import cost_of


def test_a_models_parameters_and_operations_are_counted():
    config = load_config("quickstart")
    small, large = (cost_of(config, shape) for shape in ((64, 64), (128, 128)))
    assert small["parameters"] == large["parameters"] == "3,604,664"
    assert small["MACs"].endswith("for one image of 64 x 64")
    macs, flops, of_large = (float(text.split()[0]) for text in (small["MACs"], small["FLOPs"], large["FLOPs"]))
    assert flops == pytest.approx(2 * macs, abs=0.2)
    assert of_large == pytest.approx(4 * flops, abs=0.3)


def test_the_size_is_the_datas_unless_given():
    assert cost_of(load_config("quickstart"))["MACs"].endswith("192 x 256")


def test_trained_parameters_are_counted_where_others_are_frozen():
    backbone = "{type: DINOv2, arch: small, adapt: {type: LoRA, rank: 8}, _delete_: true}"
    head = (
        "{type: FCNHead, in_channels: 384, channels: 384, num_convs: 0, concat_input: false, num_classes: 8, "
        "_delete_: true}"
    )
    found = cost_of(load_config("quickstart", [f"model.backbone={backbone}", f"model.decode_head={head}"]))
    # Of each block, matrices of rank 8 for 384 -> 1152 and 384 -> 384 channels; and the classifier.
    assert found["trained"] == f"{12 * 8 * (384 + 1152 + 384 + 384) + 384 * 8 + 8:,}"
