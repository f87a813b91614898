"""Build a component from a spec, or use its class: both return a plain ``nn.Module``.

python examples/build_a_model.py
"""

import torch

from segkernel import build
from segplug_backbones import MixVisionTransformer


def main() -> None:
    """Build a backbone in both ways, and a whole model."""
    backbone = MixVisionTransformer(embed_dims=32)
    same = build("backbones", {"type": "MixVisionTransformer", "embed_dims": 32})
    same.load_state_dict(backbone.state_dict())
    for features, channels, stride in zip(backbone(torch.zeros(1, 3, 64, 96)), backbone.channels, backbone.strides):
        print(tuple(features.shape), channels, stride)

    # Built objects are accepted wherever a spec is.
    channels = list(backbone.channels)
    head = {
        "type": "SegformerHead",
        "in_channels": channels,
        "in_index": [0, 1, 2, 3],
        "channels": 64,
        "num_classes": 3,
    }
    model = build("segmentors", {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head})
    print(tuple(model(torch.zeros(1, 3, 64, 96)).shape), model.outputs["seg"])


if __name__ == "__main__":
    main()
