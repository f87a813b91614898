"""Segmentors, decode heads and losses for seg-kernel, as plain modules.

    from segplug_heads import EncoderDecoder, PSPHead

Importing it imports no torch; the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The names below are written by tools/update_known.py.
# isort: off
if TYPE_CHECKING:
    from segkernel.nn.losses import CrossEntropyLoss as CrossEntropyLoss
    from segkernel.nn.sampler import OHEMPixelSampler as OHEMPixelSampler
    from segplug_heads.configs.source import ZooSource as ZooSource
    from segplug_heads.heads.afformer_head import AFFormerHead as AFFormerHead
    from segplug_heads.heads.ann_head import ANNHead as ANNHead
    from segplug_heads.heads.apc_head import APCHead as APCHead
    from segplug_heads.heads.aspp_head import ASPPHead as ASPPHead
    from segplug_heads.heads.bn_head import BNHead as BNHead
    from segplug_heads.heads.cc_head import CCHead as CCHead
    from segplug_heads.heads.cgrseg_head import CGRSegHead as CGRSegHead
    from segplug_heads.heads.da_head import DAHead as DAHead
    from segplug_heads.heads.ddr_head import DDRHead as DDRHead
    from segplug_heads.heads.deeplab_head import DeepLabV3Head as DeepLabV3Head
    from segplug_heads.heads.deeplab_head import DeepLabV3PlusHead as DeepLabV3PlusHead
    from segplug_heads.heads.dm_head import DMHead as DMHead
    from segplug_heads.heads.dnl_head import DNLHead as DNLHead
    from segplug_heads.heads.dpt_depth_head import DPTDepthHead as DPTDepthHead
    from segplug_heads.heads.dpt_head import DPTHead as DPTHead
    from segplug_heads.heads.efficientvit_seg_head import EfficientViTSegHead as EfficientViTSegHead
    from segplug_heads.heads.ema_head import EMAHead as EMAHead
    from segplug_heads.heads.enc_head import EncHead as EncHead
    from segplug_heads.heads.eomt_head import EoMTHead as EoMTHead
    from segplug_heads.heads.fcn_head import FCNHead as FCNHead
    from segplug_heads.heads.fpn_head import FPNHead as FPNHead
    from segplug_heads.heads.gc_head import GCHead as GCHead
    from segplug_heads.heads.ham_head import LightHamHead as LightHamHead
    from segplug_heads.heads.image_class_head import ImageClassHead as ImageClassHead
    from segplug_heads.heads.isa_head import ISAHead as ISAHead
    from segplug_heads.heads.knet_head import IterativeDecodeHead as IterativeDecodeHead
    from segplug_heads.heads.linknet_head import LinknetHead as LinknetHead
    from segplug_heads.heads.lraspp_head import LRASPPHead as LRASPPHead
    from segplug_heads.heads.manet_head import MAnetHead as MAnetHead
    from segplug_heads.heads.mask2former_head import Mask2FormerHead as Mask2FormerHead
    from segplug_heads.heads.maskformer_head import MaskFormerHead as MaskFormerHead
    from segplug_heads.heads.nl_head import NLHead as NLHead
    from segplug_heads.heads.ocr_head import OCRHead as OCRHead
    from segplug_heads.heads.offset_learning import LightHamOffsetLearningHead as LightHamOffsetLearningHead
    from segplug_heads.heads.offset_learning import SegformerOffsetLearningHead as SegformerOffsetLearningHead
    from segplug_heads.heads.oneformer_head import OneFormerHead as OneFormerHead
    from segplug_heads.heads.pan_head import PANHead as PANHead
    from segplug_heads.heads.panoptic_fpn_head import PanopticFPNHead as PanopticFPNHead
    from segplug_heads.heads.pid_head import PIDHead as PIDHead
    from segplug_heads.heads.point_head import PointHead as PointHead
    from segplug_heads.heads.pp_liteseg_head import PPLiteSegHead as PPLiteSegHead
    from segplug_heads.heads.psa_head import PSAHead as PSAHead
    from segplug_heads.heads.psp_head import PSPHead as PSPHead
    from segplug_heads.heads.pspnet_head import PSPNetHead as PSPNetHead
    from segplug_heads.heads.san_head import SideAdapterCLIPHead as SideAdapterCLIPHead
    from segplug_heads.heads.sct_head import SCTHead as SCTHead
    from segplug_heads.heads.seaformer_head import SeaFormerHead as SeaFormerHead
    from segplug_heads.heads.segformer_head import SegformerHead as SegformerHead
    from segplug_heads.heads.segmenter_mask_head import SegmenterMaskTransformerHead as SegmenterMaskTransformerHead
    from segplug_heads.heads.sep_aspp_head import DepthwiseSeparableASPPHead as DepthwiseSeparableASPPHead
    from segplug_heads.heads.sep_fcn_head import DepthwiseSeparableFCNHead as DepthwiseSeparableFCNHead
    from segplug_heads.heads.setr_mla_head import SETRMLAHead as SETRMLAHead
    from segplug_heads.heads.setr_up_head import SETRUPHead as SETRUPHead
    from segplug_heads.heads.stdc_head import STDCHead as STDCHead
    from segplug_heads.heads.topformer_head import TopFormerHead as TopFormerHead
    from segplug_heads.heads.umixformer_head import UMixFormerHead as UMixFormerHead
    from segplug_heads.heads.unet_head import UNetHead as UNetHead
    from segplug_heads.heads.unet_plus_plus_head import UNetPlusPlusHead as UNetPlusPlusHead
    from segplug_heads.heads.uper_head import UPerHead as UPerHead
    from segplug_heads.heads.vpd_depth_head import VPDDepthHead as VPDDepthHead
    from segplug_heads.hugging_face.source import HuggingFaceModels as HuggingFaceModels
    from segplug_heads.hugging_face.weight_format import HuggingFaceFolder as HuggingFaceFolder
    from segplug_heads.losses.boundary_loss import BoundaryLoss as BoundaryLoss
    from segplug_heads.losses.dice_loss import DiceLoss as DiceLoss
    from segplug_heads.losses.focal_loss import FocalLoss as FocalLoss
    from segplug_heads.losses.generalized_dice_loss import GeneralizedDiceLoss as GeneralizedDiceLoss
    from segplug_heads.losses.hausdorff_loss import HuasdorffDisstanceLoss as HuasdorffDisstanceLoss
    from segplug_heads.losses.jaccard_loss import JaccardLoss as JaccardLoss
    from segplug_heads.losses.kl_div_loss import KLDivLoss as KLDivLoss
    from segplug_heads.losses.lovasz_loss import LovaszLoss as LovaszLoss
    from segplug_heads.losses.mcc_loss import MCCLoss as MCCLoss
    from segplug_heads.losses.ohem_loss import OhemCrossEntropy as OhemCrossEntropy
    from segplug_heads.losses.poly_loss import PolyLoss as PolyLoss
    from segplug_heads.losses.query_losses import QueryCrossEntropyLoss as QueryCrossEntropyLoss
    from segplug_heads.losses.query_losses import QueryDiceLoss as QueryDiceLoss
    from segplug_heads.losses.query_losses import QueryFocalLoss as QueryFocalLoss
    from segplug_heads.losses.rmi_loss import RMILoss as RMILoss
    from segplug_heads.losses.silog_loss import SiLogLoss as SiLogLoss
    from segplug_heads.losses.soft_bce_loss import SoftBCELoss as SoftBCELoss
    from segplug_heads.losses.soft_cldice_loss import SoftCLDiceLoss as SoftCLDiceLoss
    from segplug_heads.losses.soft_dice_loss import SoftDiceLoss as SoftDiceLoss
    from segplug_heads.losses.soft_tversky_loss import SoftTverskyLoss as SoftTverskyLoss
    from segplug_heads.losses.tversky_loss import TverskyLoss as TverskyLoss
    from segplug_heads.losses.unified_focal_loss import UnifiedFocalLoss as UnifiedFocalLoss
    from segplug_heads.losses.weighted_sum import WeightedSum as WeightedSum
    from segplug_heads.mask_annealing import MaskAnnealingHook as MaskAnnealingHook
    from segplug_heads.moving_in.source import FormerConfigs as FormerConfigs
    from segplug_heads.necks.feature_pyramid import Feature2Pyramid as Feature2Pyramid
    from segplug_heads.necks.fpn import FPN as FPN
    from segplug_heads.necks.ic_neck import ICNeck as ICNeck
    from segplug_heads.necks.jpu import JPU as JPU
    from segplug_heads.necks.mla_neck import MLANeck as MLANeck
    from segplug_heads.necks.multilevel_neck import MultiLevelNeck as MultiLevelNeck
    from segplug_heads.necks.sam2_fpn import SAM2FPN as SAM2FPN
    from segplug_heads.necks.simple_feature_pyramid import SimpleFeaturePyramid as SimpleFeaturePyramid
    from segplug_heads.outputs import DirectPixelClasses as DirectPixelClasses
    from segplug_heads.outputs import PixelValues as PixelValues
    from segplug_heads.parts.clip_text_encoder import CLIPTextEncoder as CLIPTextEncoder
    from segplug_heads.parts.kernel_update import KernelUpdateHead as KernelUpdateHead
    from segplug_heads.parts.kernel_update import KernelUpdator as KernelUpdator
    from segplug_heads.parts.matching import ClassificationCost as ClassificationCost
    from segplug_heads.parts.matching import CrossEntropyLossCost as CrossEntropyLossCost
    from segplug_heads.parts.matching import DiceCost as DiceCost
    from segplug_heads.parts.matching import FocalLossCost as FocalLossCost
    from segplug_heads.parts.matching import HungarianAssigner as HungarianAssigner
    from segplug_heads.parts.matching import MaskPseudoSampler as MaskPseudoSampler
    from segplug_heads.parts.pixel_decoder import MSDeformAttnPixelDecoder as MSDeformAttnPixelDecoder
    from segplug_heads.parts.pixel_decoder import PixelDecoder as PixelDecoder
    from segplug_heads.parts.pixel_decoder import TransformerEncoderPixelDecoder as TransformerEncoderPixelDecoder
    from segplug_heads.parts.text_queries import TextQueryEncoder as TextQueryEncoder
    from segplug_heads.segmentors.cascade_encoder_decoder import CascadeEncoderDecoder as CascadeEncoderDecoder
    from segplug_heads.segmentors.depth_estimator import DepthEstimator as DepthEstimator
    from segplug_heads.segmentors.encoder_decoder import EncoderDecoder as EncoderDecoder
    from segplug_heads.segmentors.eomt import EoMT as EoMT
    from segplug_heads.segmentors.module_segmentor import ModuleSegmentor as ModuleSegmentor
    from segplug_heads.segmentors.multi_head import MultiHeadSegmentor as MultiHeadSegmentor
    from segplug_heads.segmentors.multimodal_encoder_decoder import MultimodalEncoderDecoder as MultimodalEncoderDecoder
    from segplug_heads.segmentors.pyramid_encoder_decoder import PyramidEncoderDecoder as PyramidEncoderDecoder
    from segplug_heads.segmentors.siam_encoder_decoder import SiamEncoderDecoder as SiamEncoderDecoder
    from segplug_heads.weight_formats.clip import CLIPSAN as CLIPSAN
    from segplug_heads.weight_formats.efficientvit import OfficialEfficientViTSeg as OfficialEfficientViTSeg
    from segplug_heads.weight_formats.eomt import OfficialEoMT as OfficialEoMT
    from segplug_heads.weight_formats.eomt import TransformersEoMT as TransformersEoMT
    from segplug_heads.weight_formats.mask2former import Detectron2Mask2Former as Detectron2Mask2Former
    from segplug_heads.weight_formats.mask2former import TransformersMask2Former as TransformersMask2Former
    from segplug_heads.weight_formats.oneformer import OfficialOneFormer as OfficialOneFormer
    from segplug_heads.weight_formats.oneformer import TransformersOneFormer as TransformersOneFormer
    from segplug_heads.weight_formats.sam2 import SAM2Encoder as SAM2Encoder
    from segplug_heads.weight_formats.smp import SMP as SMP
    from segplug_heads.weight_formats.transformers import TransformersDPT as TransformersDPT
    from segplug_heads.weight_formats.transformers import TransformersDeepLab as TransformersDeepLab
    from segplug_heads.weight_formats.transformers import TransformersUPerNet as TransformersUPerNet
# isort: on

_HOMES = {
    "AFFormerHead": ".heads.afformer_head",
    "ANNHead": ".heads.ann_head",
    "APCHead": ".heads.apc_head",
    "ASPPHead": ".heads.aspp_head",
    "BNHead": ".heads.bn_head",
    "BoundaryLoss": ".losses.boundary_loss",
    "CCHead": ".heads.cc_head",
    "CGRSegHead": ".heads.cgrseg_head",
    "CLIPSAN": ".weight_formats.clip",
    "CLIPTextEncoder": ".parts.clip_text_encoder",
    "CascadeEncoderDecoder": ".segmentors.cascade_encoder_decoder",
    "ClassificationCost": ".parts.matching",
    "CrossEntropyLoss": "segkernel.nn.losses",
    "CrossEntropyLossCost": ".parts.matching",
    "DAHead": ".heads.da_head",
    "DDRHead": ".heads.ddr_head",
    "DMHead": ".heads.dm_head",
    "DNLHead": ".heads.dnl_head",
    "DPTDepthHead": ".heads.dpt_depth_head",
    "DPTHead": ".heads.dpt_head",
    "DeepLabV3Head": ".heads.deeplab_head",
    "DeepLabV3PlusHead": ".heads.deeplab_head",
    "DepthEstimator": ".segmentors.depth_estimator",
    "DepthwiseSeparableASPPHead": ".heads.sep_aspp_head",
    "DepthwiseSeparableFCNHead": ".heads.sep_fcn_head",
    "Detectron2Mask2Former": ".weight_formats.mask2former",
    "DiceCost": ".parts.matching",
    "DiceLoss": ".losses.dice_loss",
    "DirectPixelClasses": ".outputs",
    "EMAHead": ".heads.ema_head",
    "EfficientViTSegHead": ".heads.efficientvit_seg_head",
    "EncHead": ".heads.enc_head",
    "EncoderDecoder": ".segmentors.encoder_decoder",
    "EoMT": ".segmentors.eomt",
    "EoMTHead": ".heads.eomt_head",
    "FCNHead": ".heads.fcn_head",
    "FPN": ".necks.fpn",
    "FPNHead": ".heads.fpn_head",
    "Feature2Pyramid": ".necks.feature_pyramid",
    "FocalLoss": ".losses.focal_loss",
    "FocalLossCost": ".parts.matching",
    "FormerConfigs": ".moving_in.source",
    "GCHead": ".heads.gc_head",
    "GeneralizedDiceLoss": ".losses.generalized_dice_loss",
    "HuasdorffDisstanceLoss": ".losses.hausdorff_loss",
    "HuggingFaceFolder": ".hugging_face.weight_format",
    "HuggingFaceModels": ".hugging_face.source",
    "HungarianAssigner": ".parts.matching",
    "ICNeck": ".necks.ic_neck",
    "ISAHead": ".heads.isa_head",
    "ImageClassHead": ".heads.image_class_head",
    "IterativeDecodeHead": ".heads.knet_head",
    "JPU": ".necks.jpu",
    "JaccardLoss": ".losses.jaccard_loss",
    "KLDivLoss": ".losses.kl_div_loss",
    "KernelUpdateHead": ".parts.kernel_update",
    "KernelUpdator": ".parts.kernel_update",
    "LRASPPHead": ".heads.lraspp_head",
    "LightHamHead": ".heads.ham_head",
    "LightHamOffsetLearningHead": ".heads.offset_learning",
    "LinknetHead": ".heads.linknet_head",
    "LovaszLoss": ".losses.lovasz_loss",
    "MAnetHead": ".heads.manet_head",
    "MCCLoss": ".losses.mcc_loss",
    "MLANeck": ".necks.mla_neck",
    "MSDeformAttnPixelDecoder": ".parts.pixel_decoder",
    "Mask2FormerHead": ".heads.mask2former_head",
    "MaskAnnealingHook": ".mask_annealing",
    "MaskFormerHead": ".heads.maskformer_head",
    "MaskPseudoSampler": ".parts.matching",
    "ModuleSegmentor": ".segmentors.module_segmentor",
    "MultiHeadSegmentor": ".segmentors.multi_head",
    "MultiLevelNeck": ".necks.multilevel_neck",
    "MultimodalEncoderDecoder": ".segmentors.multimodal_encoder_decoder",
    "NLHead": ".heads.nl_head",
    "OCRHead": ".heads.ocr_head",
    "OHEMPixelSampler": "segkernel.nn.sampler",
    "OfficialEfficientViTSeg": ".weight_formats.efficientvit",
    "OfficialEoMT": ".weight_formats.eomt",
    "OfficialOneFormer": ".weight_formats.oneformer",
    "OhemCrossEntropy": ".losses.ohem_loss",
    "OneFormerHead": ".heads.oneformer_head",
    "PANHead": ".heads.pan_head",
    "PIDHead": ".heads.pid_head",
    "PPLiteSegHead": ".heads.pp_liteseg_head",
    "PSAHead": ".heads.psa_head",
    "PSPHead": ".heads.psp_head",
    "PSPNetHead": ".heads.pspnet_head",
    "PanopticFPNHead": ".heads.panoptic_fpn_head",
    "PixelDecoder": ".parts.pixel_decoder",
    "PixelValues": ".outputs",
    "PointHead": ".heads.point_head",
    "PolyLoss": ".losses.poly_loss",
    "PyramidEncoderDecoder": ".segmentors.pyramid_encoder_decoder",
    "QueryCrossEntropyLoss": ".losses.query_losses",
    "QueryDiceLoss": ".losses.query_losses",
    "QueryFocalLoss": ".losses.query_losses",
    "RMILoss": ".losses.rmi_loss",
    "SAM2Encoder": ".weight_formats.sam2",
    "SAM2FPN": ".necks.sam2_fpn",
    "SCTHead": ".heads.sct_head",
    "SETRMLAHead": ".heads.setr_mla_head",
    "SETRUPHead": ".heads.setr_up_head",
    "SMP": ".weight_formats.smp",
    "STDCHead": ".heads.stdc_head",
    "SeaFormerHead": ".heads.seaformer_head",
    "SegformerHead": ".heads.segformer_head",
    "SegformerOffsetLearningHead": ".heads.offset_learning",
    "SegmenterMaskTransformerHead": ".heads.segmenter_mask_head",
    "SiLogLoss": ".losses.silog_loss",
    "SiamEncoderDecoder": ".segmentors.siam_encoder_decoder",
    "SideAdapterCLIPHead": ".heads.san_head",
    "SimpleFeaturePyramid": ".necks.simple_feature_pyramid",
    "SoftBCELoss": ".losses.soft_bce_loss",
    "SoftCLDiceLoss": ".losses.soft_cldice_loss",
    "SoftDiceLoss": ".losses.soft_dice_loss",
    "SoftTverskyLoss": ".losses.soft_tversky_loss",
    "TextQueryEncoder": ".parts.text_queries",
    "TopFormerHead": ".heads.topformer_head",
    "TransformerEncoderPixelDecoder": ".parts.pixel_decoder",
    "TransformersDPT": ".weight_formats.transformers",
    "TransformersDeepLab": ".weight_formats.transformers",
    "TransformersEoMT": ".weight_formats.eomt",
    "TransformersMask2Former": ".weight_formats.mask2former",
    "TransformersOneFormer": ".weight_formats.oneformer",
    "TransformersUPerNet": ".weight_formats.transformers",
    "TverskyLoss": ".losses.tversky_loss",
    "UMixFormerHead": ".heads.umixformer_head",
    "UNetHead": ".heads.unet_head",
    "UNetPlusPlusHead": ".heads.unet_plus_plus_head",
    "UPerHead": ".heads.uper_head",
    "UnifiedFocalLoss": ".losses.unified_focal_loss",
    "VPDDepthHead": ".heads.vpd_depth_head",
    "WeightedSum": ".losses.weighted_sum",
    "ZooSource": ".configs.source",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
