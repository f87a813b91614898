from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segkernel.errors import ConfigError
from segplug_heads import LRASPPHead
from segplug_heads.heads.lraspp_head import WindowPool

ARGUMENTS = {"in_channels": [4, 6, 8], "in_index": [0, 1, 2], "channels": 8, "num_classes": 3}


def test_windows_are_those_of_average_pooling():
    x = torch.rand(2, 3, 90, 130)
    torch.testing.assert_close(WindowPool()(x), F.avg_pool2d(x, 49, (16, 20)))


def test_a_map_smaller_than_a_window_is_averaged_as_a_whole():
    x = torch.rand(2, 3, 20, 60)
    expected = F.avg_pool2d(x, (20, 49)).expand(-1, -1, 2, 2)
    torch.testing.assert_close(WindowPool()(x), expected)


def test_it_exports_with_any_size():
    head = LRASPPHead(**ARGUMENTS, input_transform="multiple_select", norm_cfg={"type": "BN"}).eval()

    def maps(height, width):
        return [torch.rand(2, c, f * height, f * width) for c, f in ((4, 4), (6, 2), (8, 1))]

    height, width = torch.export.Dim("h", min=2), torch.export.Dim("w", min=2)
    sides = [{2: f * height, 3: f * width} for f in (4, 2, 1)]
    program = torch.export.export(head, (maps(8, 9),), dynamic_shapes=(sides,))
    for size in ((5, 7), (52, 71)):
        features = maps(*size)
        torch.testing.assert_close(program.module()(features), head(features))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_transform": "resize_concat"}, "input_transform: 'resize_concat': several maps are needed"),
        ({"input_transform": "multiple_select", "branch_channels": (4,)}, "branch_channels: 1 numbers for 3 maps"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LRASPPHead(**ARGUMENTS, **arguments)
