"""Backbones for semantic segmentation: plain modules, images in, feature maps out.

    from segplug_backbones import MixVisionTransformer, ResNetV1c

Importing this package imports no torch; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The names below are written by tools/update_known.py.
# isort: off
if TYPE_CHECKING:
    from segkernel.nn.context_block import ContextBlock as ContextBlock
    from segkernel.nn.conv_module import ConvModule as ConvModule
    from segkernel.nn.non_local import NonLocal2d as NonLocal2d
    from segplug_backbones.adapters import AdaptFormer as AdaptFormer
    from segplug_backbones.adapters import LoRA as LoRA
    from segplug_backbones.afformer import AFFormer as AFFormer
    from segplug_backbones.beit import BEiT as BEiT
    from segplug_backbones.bisenetv1 import BiSeNetV1 as BiSeNetV1
    from segplug_backbones.bisenetv2 import BiSeNetV2 as BiSeNetV2
    from segplug_backbones.cgnet import CGNet as CGNet
    from segplug_backbones.convnext import ConvNeXt as ConvNeXt
    from segplug_backbones.ddrnet import DDRNet as DDRNet
    from segplug_backbones.dinov2 import DINOv2 as DINOv2
    from segplug_backbones.dinov3 import DINOv3 as DINOv3
    from segplug_backbones.edgenext import EdgeNeXt as EdgeNeXt
    from segplug_backbones.efficientformer_v2 import EfficientFormerV2 as EfficientFormerV2
    from segplug_backbones.efficientnet import EfficientNet as EfficientNet
    from segplug_backbones.efficientvit import EfficientViT as EfficientViT
    from segplug_backbones.erfnet import ERFNet as ERFNet
    from segplug_backbones.eva02 import EVA02 as EVA02
    from segplug_backbones.fast_scnn import FastSCNN as FastSCNN
    from segplug_backbones.fastvit import FastViT as FastViT
    from segplug_backbones.generalized_attention import GeneralizedAttention as GeneralizedAttention
    from segplug_backbones.hiera import Hiera as Hiera
    from segplug_backbones.hrnet import HRNet as HRNet
    from segplug_backbones.hrnet import hrnet_w18 as hrnet_w18
    from segplug_backbones.hrnet import hrnet_w18_small as hrnet_w18_small
    from segplug_backbones.hrnet import hrnet_w32 as hrnet_w32
    from segplug_backbones.hrnet import hrnet_w40 as hrnet_w40
    from segplug_backbones.hrnet import hrnet_w48 as hrnet_w48
    from segplug_backbones.icnet import ICNet as ICNet
    from segplug_backbones.layers import AdaptivePaddingConv2d as AdaptivePaddingConv2d
    from segplug_backbones.layers import HSigmoid as HSigmoid
    from segplug_backbones.layers import PixelShufflePack as PixelShufflePack
    from segplug_backbones.mae import MAE as MAE
    from segplug_backbones.mit import MixVisionTransformer as MixVisionTransformer
    from segplug_backbones.mit import mit_b0 as mit_b0
    from segplug_backbones.mit import mit_b1 as mit_b1
    from segplug_backbones.mit import mit_b2 as mit_b2
    from segplug_backbones.mit import mit_b3 as mit_b3
    from segplug_backbones.mit import mit_b4 as mit_b4
    from segplug_backbones.mit import mit_b5 as mit_b5
    from segplug_backbones.mobilenet_v2 import MobileNetV2 as MobileNetV2
    from segplug_backbones.mobilenet_v3 import MobileNetV3 as MobileNetV3
    from segplug_backbones.mobilenet_v4 import MobileNetV4 as MobileNetV4
    from segplug_backbones.mobileone import MobileOne as MobileOne
    from segplug_backbones.mobilevit import MobileViT as MobileViT
    from segplug_backbones.mobilevit_v2 import MobileViTV2 as MobileViTV2
    from segplug_backbones.mscan import MSCAN as MSCAN
    from segplug_backbones.mscan import mscan_base as mscan_base
    from segplug_backbones.mscan import mscan_large as mscan_large
    from segplug_backbones.mscan import mscan_small as mscan_small
    from segplug_backbones.mscan import mscan_tiny as mscan_tiny
    from segplug_backbones.pidnet import PIDNet as PIDNet
    from segplug_backbones.poolformer import PoolFormer as PoolFormer
    from segplug_backbones.repvit import RepViT as RepViT
    from segplug_backbones.resnest import ResNeSt as ResNeSt
    from segplug_backbones.resnet import ResNet as ResNet
    from segplug_backbones.resnet import ResNetV1c as ResNetV1c
    from segplug_backbones.resnet import ResNetV1d as ResNetV1d
    from segplug_backbones.resnet import resnet101 as resnet101
    from segplug_backbones.resnet import resnet152 as resnet152
    from segplug_backbones.resnet import resnet18 as resnet18
    from segplug_backbones.resnet import resnet34 as resnet34
    from segplug_backbones.resnet import resnet50 as resnet50
    from segplug_backbones.resnext import ResNeXt as ResNeXt
    from segplug_backbones.sam2_hiera import SAM2Hiera as SAM2Hiera
    from segplug_backbones.sctnet import SCTNet as SCTNet
    from segplug_backbones.seaformer import SeaFormer as SeaFormer
    from segplug_backbones.shufflenet_v2 import ShuffleNetV2 as ShuffleNetV2
    from segplug_backbones.starnet import StarNet as StarNet
    from segplug_backbones.stdc import STDCContextPathNet as STDCContextPathNet
    from segplug_backbones.stdc import STDCNet as STDCNet
    from segplug_backbones.stdc import stdc1 as stdc1
    from segplug_backbones.stdc import stdc2 as stdc2
    from segplug_backbones.strideformer import StrideFormer as StrideFormer
    from segplug_backbones.swin import SwinTransformer as SwinTransformer
    from segplug_backbones.swin import swin_base as swin_base
    from segplug_backbones.swin import swin_large as swin_large
    from segplug_backbones.swin import swin_small as swin_small
    from segplug_backbones.swin import swin_tiny as swin_tiny
    from segplug_backbones.swin_v2 import SwinTransformerV2 as SwinTransformerV2
    from segplug_backbones.timm_backbone import TIMMBackbone as TIMMBackbone
    from segplug_backbones.topformer import TopFormer as TopFormer
    from segplug_backbones.twins import PCPVT as PCPVT
    from segplug_backbones.twins import SVT as SVT
    from segplug_backbones.twins import pcpvt_base as pcpvt_base
    from segplug_backbones.twins import pcpvt_large as pcpvt_large
    from segplug_backbones.twins import pcpvt_small as pcpvt_small
    from segplug_backbones.twins import svt_base as svt_base
    from segplug_backbones.twins import svt_large as svt_large
    from segplug_backbones.twins import svt_small as svt_small
    from segplug_backbones.unet import DeconvModule as DeconvModule
    from segplug_backbones.unet import InterpConv as InterpConv
    from segplug_backbones.unet import UNet as UNet
    from segplug_backbones.vgg import VGG as VGG
    from segplug_backbones.vit import VisionTransformer as VisionTransformer
    from segplug_backbones.vit_sam import ViTSAM as ViTSAM
    from segplug_backbones.weight_formats.afformer import OfficialAFFormer as OfficialAFFormer
    from segplug_backbones.weight_formats.beit import OfficialBEiT as OfficialBEiT
    from segplug_backbones.weight_formats.beit import TransformersBEiT as TransformersBEiT
    from segplug_backbones.weight_formats.convnext import OfficialConvNeXt as OfficialConvNeXt
    from segplug_backbones.weight_formats.convnext import TimmConvNeXt as TimmConvNeXt
    from segplug_backbones.weight_formats.convnext import TorchvisionConvNeXt as TorchvisionConvNeXt
    from segplug_backbones.weight_formats.convnext import TransformersConvNeXt as TransformersConvNeXt
    from segplug_backbones.weight_formats.dino import OfficialDINO as OfficialDINO
    from segplug_backbones.weight_formats.dino import TransformersDINO as TransformersDINO
    from segplug_backbones.weight_formats.downloads import Downloads as Downloads
    from segplug_backbones.weight_formats.efficientformer import OfficialEfficientFormer as OfficialEfficientFormer
    from segplug_backbones.weight_formats.efficientvit import OfficialEfficientViT as OfficialEfficientViT
    from segplug_backbones.weight_formats.eva02 import OfficialEVA02 as OfficialEVA02
    from segplug_backbones.weight_formats.files import DetectronPickle as DetectronPickle
    from segplug_backbones.weight_formats.files import NumpyArchive as NumpyArchive
    from segplug_backbones.weight_formats.hiera import OfficialSAM2Hiera as OfficialSAM2Hiera
    from segplug_backbones.weight_formats.hiera import TransformersHiera as TransformersHiera
    from segplug_backbones.weight_formats.hiera import TransformersSAM2Hiera as TransformersSAM2Hiera
    from segplug_backbones.weight_formats.hub import HuggingFaceHub as HuggingFaceHub
    from segplug_backbones.weight_formats.inverted import EfficientNetPyTorch as EfficientNetPyTorch
    from segplug_backbones.weight_formats.inverted import TimmInvertedResiduals as TimmInvertedResiduals
    from segplug_backbones.weight_formats.inverted import TorchvisionInvertedResiduals as TorchvisionInvertedResiduals
    from segplug_backbones.weight_formats.inverted import TorchvisionMobileNetV2 as TorchvisionMobileNetV2
    from segplug_backbones.weight_formats.inverted import TransformersMobileNetV2 as TransformersMobileNetV2
    from segplug_backbones.weight_formats.mit import OfficialMiT as OfficialMiT
    from segplug_backbones.weight_formats.mit import OfficialSegFormer as OfficialSegFormer
    from segplug_backbones.weight_formats.mit import TransformersSegFormer as TransformersSegFormer
    from segplug_backbones.weight_formats.mobile import OfficialEdgeNeXt as OfficialEdgeNeXt
    from segplug_backbones.weight_formats.mobile import OfficialFastViT as OfficialFastViT
    from segplug_backbones.weight_formats.mobile import OfficialMobileOne as OfficialMobileOne
    from segplug_backbones.weight_formats.mobile import OfficialRepViT as OfficialRepViT
    from segplug_backbones.weight_formats.mobilevit import TransformersMobileViT as TransformersMobileViT
    from segplug_backbones.weight_formats.mscan import OfficialMSCAN as OfficialMSCAN
    from segplug_backbones.weight_formats.plain import TorchvisionShuffleNetV2 as TorchvisionShuffleNetV2
    from segplug_backbones.weight_formats.plain import TorchvisionVGG as TorchvisionVGG
    from segplug_backbones.weight_formats.resnet import CaffeResNet as CaffeResNet
    from segplug_backbones.weight_formats.resnet import Detectron2ResNet as Detectron2ResNet
    from segplug_backbones.weight_formats.resnet import DetectronResNet as DetectronResNet
    from segplug_backbones.weight_formats.resnet import TimmResNet as TimmResNet
    from segplug_backbones.weight_formats.safetensors_files import Safetensors as Safetensors
    from segplug_backbones.weight_formats.sctnet import OfficialSCTNet as OfficialSCTNet
    from segplug_backbones.weight_formats.stdc import OfficialSTDC as OfficialSTDC
    from segplug_backbones.weight_formats.strideformer import MMSegmentationStrideFormer as MMSegmentationStrideFormer
    from segplug_backbones.weight_formats.swin import OfficialSwin as OfficialSwin
    from segplug_backbones.weight_formats.swin import TorchvisionSwin as TorchvisionSwin
    from segplug_backbones.weight_formats.swin import TransformersSwin as TransformersSwin
    from segplug_backbones.weight_formats.swin_v2 import OfficialSwinV2 as OfficialSwinV2
    from segplug_backbones.weight_formats.swin_v2 import TransformersSwinV2 as TransformersSwinV2
    from segplug_backbones.weight_formats.timm_features import TimmFeatures as TimmFeatures
    from segplug_backbones.weight_formats.torch_files import TorchCheckpoint as TorchCheckpoint
    from segplug_backbones.weight_formats.twins import MMPretrainTwins as MMPretrainTwins
    from segplug_backbones.weight_formats.twins import OfficialTwins as OfficialTwins
    from segplug_backbones.weight_formats.vit import CLIPViT as CLIPViT
    from segplug_backbones.weight_formats.vit import JaxViT as JaxViT
    from segplug_backbones.weight_formats.vit import MMPretrainViT as MMPretrainViT
    from segplug_backbones.weight_formats.vit import TimmViT as TimmViT
    from segplug_backbones.weight_formats.vit import TransformersViT as TransformersViT
    from segplug_backbones.weight_formats.vit_sam import OfficialSAM as OfficialSAM
    from segplug_backbones.weight_formats.vit_sam import TransformersSAM as TransformersSAM
    from segplug_backbones.weight_formats.whole_model import WholeModelBackbone as WholeModelBackbone
# isort: on

_HOMES = {
    "AFFormer": ".afformer",
    "AdaptFormer": ".adapters",
    "AdaptivePaddingConv2d": ".layers",
    "BEiT": ".beit",
    "BiSeNetV1": ".bisenetv1",
    "BiSeNetV2": ".bisenetv2",
    "CGNet": ".cgnet",
    "CLIPViT": ".weight_formats.vit",
    "CaffeResNet": ".weight_formats.resnet",
    "ContextBlock": "segkernel.nn.context_block",
    "ConvModule": "segkernel.nn.conv_module",
    "ConvNeXt": ".convnext",
    "DDRNet": ".ddrnet",
    "DINOv2": ".dinov2",
    "DINOv3": ".dinov3",
    "DeconvModule": ".unet",
    "Detectron2ResNet": ".weight_formats.resnet",
    "DetectronPickle": ".weight_formats.files",
    "DetectronResNet": ".weight_formats.resnet",
    "Downloads": ".weight_formats.downloads",
    "ERFNet": ".erfnet",
    "EVA02": ".eva02",
    "EdgeNeXt": ".edgenext",
    "EfficientFormerV2": ".efficientformer_v2",
    "EfficientNet": ".efficientnet",
    "EfficientNetPyTorch": ".weight_formats.inverted",
    "EfficientViT": ".efficientvit",
    "FastSCNN": ".fast_scnn",
    "FastViT": ".fastvit",
    "GeneralizedAttention": ".generalized_attention",
    "HRNet": ".hrnet",
    "HSigmoid": ".layers",
    "Hiera": ".hiera",
    "HuggingFaceHub": ".weight_formats.hub",
    "ICNet": ".icnet",
    "InterpConv": ".unet",
    "JaxViT": ".weight_formats.vit",
    "LoRA": ".adapters",
    "MAE": ".mae",
    "MMPretrainTwins": ".weight_formats.twins",
    "MMPretrainViT": ".weight_formats.vit",
    "MMSegmentationStrideFormer": ".weight_formats.strideformer",
    "MSCAN": ".mscan",
    "MixVisionTransformer": ".mit",
    "MobileNetV2": ".mobilenet_v2",
    "MobileNetV3": ".mobilenet_v3",
    "MobileNetV4": ".mobilenet_v4",
    "MobileOne": ".mobileone",
    "MobileViT": ".mobilevit",
    "MobileViTV2": ".mobilevit_v2",
    "NonLocal2d": "segkernel.nn.non_local",
    "NumpyArchive": ".weight_formats.files",
    "OfficialAFFormer": ".weight_formats.afformer",
    "OfficialBEiT": ".weight_formats.beit",
    "OfficialConvNeXt": ".weight_formats.convnext",
    "OfficialDINO": ".weight_formats.dino",
    "OfficialEVA02": ".weight_formats.eva02",
    "OfficialEdgeNeXt": ".weight_formats.mobile",
    "OfficialEfficientFormer": ".weight_formats.efficientformer",
    "OfficialEfficientViT": ".weight_formats.efficientvit",
    "OfficialFastViT": ".weight_formats.mobile",
    "OfficialMSCAN": ".weight_formats.mscan",
    "OfficialMiT": ".weight_formats.mit",
    "OfficialMobileOne": ".weight_formats.mobile",
    "OfficialRepViT": ".weight_formats.mobile",
    "OfficialSAM": ".weight_formats.vit_sam",
    "OfficialSAM2Hiera": ".weight_formats.hiera",
    "OfficialSCTNet": ".weight_formats.sctnet",
    "OfficialSTDC": ".weight_formats.stdc",
    "OfficialSegFormer": ".weight_formats.mit",
    "OfficialSwin": ".weight_formats.swin",
    "OfficialSwinV2": ".weight_formats.swin_v2",
    "OfficialTwins": ".weight_formats.twins",
    "PCPVT": ".twins",
    "PIDNet": ".pidnet",
    "PixelShufflePack": ".layers",
    "PoolFormer": ".poolformer",
    "RepViT": ".repvit",
    "ResNeSt": ".resnest",
    "ResNeXt": ".resnext",
    "ResNet": ".resnet",
    "ResNetV1c": ".resnet",
    "ResNetV1d": ".resnet",
    "SAM2Hiera": ".sam2_hiera",
    "SCTNet": ".sctnet",
    "STDCContextPathNet": ".stdc",
    "STDCNet": ".stdc",
    "SVT": ".twins",
    "Safetensors": ".weight_formats.safetensors_files",
    "SeaFormer": ".seaformer",
    "ShuffleNetV2": ".shufflenet_v2",
    "StarNet": ".starnet",
    "StrideFormer": ".strideformer",
    "SwinTransformer": ".swin",
    "SwinTransformerV2": ".swin_v2",
    "TIMMBackbone": ".timm_backbone",
    "TimmConvNeXt": ".weight_formats.convnext",
    "TimmFeatures": ".weight_formats.timm_features",
    "TimmInvertedResiduals": ".weight_formats.inverted",
    "TimmResNet": ".weight_formats.resnet",
    "TimmViT": ".weight_formats.vit",
    "TopFormer": ".topformer",
    "TorchCheckpoint": ".weight_formats.torch_files",
    "TorchvisionConvNeXt": ".weight_formats.convnext",
    "TorchvisionInvertedResiduals": ".weight_formats.inverted",
    "TorchvisionMobileNetV2": ".weight_formats.inverted",
    "TorchvisionShuffleNetV2": ".weight_formats.plain",
    "TorchvisionSwin": ".weight_formats.swin",
    "TorchvisionVGG": ".weight_formats.plain",
    "TransformersBEiT": ".weight_formats.beit",
    "TransformersConvNeXt": ".weight_formats.convnext",
    "TransformersDINO": ".weight_formats.dino",
    "TransformersHiera": ".weight_formats.hiera",
    "TransformersMobileNetV2": ".weight_formats.inverted",
    "TransformersMobileViT": ".weight_formats.mobilevit",
    "TransformersSAM": ".weight_formats.vit_sam",
    "TransformersSAM2Hiera": ".weight_formats.hiera",
    "TransformersSegFormer": ".weight_formats.mit",
    "TransformersSwin": ".weight_formats.swin",
    "TransformersSwinV2": ".weight_formats.swin_v2",
    "TransformersViT": ".weight_formats.vit",
    "UNet": ".unet",
    "VGG": ".vgg",
    "ViTSAM": ".vit_sam",
    "VisionTransformer": ".vit",
    "WholeModelBackbone": ".weight_formats.whole_model",
    "hrnet_w18": ".hrnet",
    "hrnet_w18_small": ".hrnet",
    "hrnet_w32": ".hrnet",
    "hrnet_w40": ".hrnet",
    "hrnet_w48": ".hrnet",
    "mit_b0": ".mit",
    "mit_b1": ".mit",
    "mit_b2": ".mit",
    "mit_b3": ".mit",
    "mit_b4": ".mit",
    "mit_b5": ".mit",
    "mscan_base": ".mscan",
    "mscan_large": ".mscan",
    "mscan_small": ".mscan",
    "mscan_tiny": ".mscan",
    "pcpvt_base": ".twins",
    "pcpvt_large": ".twins",
    "pcpvt_small": ".twins",
    "resnet101": ".resnet",
    "resnet152": ".resnet",
    "resnet18": ".resnet",
    "resnet34": ".resnet",
    "resnet50": ".resnet",
    "stdc1": ".stdc",
    "stdc2": ".stdc",
    "svt_base": ".twins",
    "svt_large": ".twins",
    "svt_small": ".twins",
    "swin_base": ".swin",
    "swin_large": ".swin",
    "swin_small": ".swin",
    "swin_tiny": ".swin",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
