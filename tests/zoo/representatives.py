"""One model of every family, small enough to train for a moment.

The published widths are kept; what is deep is made shallow, and images are small.
"""

from __future__ import annotations

from dataclasses import dataclass

THIN = ("model.decode_head.channels=64",)
SHALLOW_VIT = ("model.backbone.num_layers=4", "model.backbone.out_indices=[0,1,2,3]")
R18 = ("model.backbone.depth=18",)
R18_AUXILIARY = (*R18, "model.auxiliary_head.in_channels=256")
R18_LAST = (*R18_AUXILIARY, "model.decode_head.in_channels=512", *THIN)
R18_FPN = (*R18, "model.neck.in_channels=[64,128,256,512]")

SAN_WORDS = (
    "model.text_encoder.dataset_name=null",
    "+model.text_encoder.vocabulary=[sky, building, road, sidewalk, vegetation, car, person, pole]",
    "model.text_encoder.templates=['a photo of a {}.']",
    "model.decode_head.loss_decode[0].class_weight=[1,1,1,1,1,1,1,1,0.1]",
)
SHALLOW_SAN = (
    "model.text_encoder.num_layers=2",
    "model.image_encoder.num_layers=3",
    "model.image_encoder.out_indices=[0,1,2]",
    "model.decode_head.deep_supervision_idxs=[3]",
    "model.decode_head.san_cfg.cfg_encoder.num_encode_layer=4",
    "model.decode_head.san_cfg.fusion_index=[0,1,2,3]",
    "model.decode_head.maskgen_cfg.num_layers=1",
    "data.preprocess.size_divisor=32",
)


@dataclass(frozen=True)
class Representative:
    """A model, and how it is used.

    Args:
        model: Its name in the zoo, before schedule and data.
        edits: Overrides that make it small.
        size: Height and width of the images in pixels.
        classes: Overrides without which it does not know the classes of StreetScenes.
    """

    model: str
    edits: tuple[str, ...] = ()
    size: tuple[int, int] = (96, 96)
    classes: tuple[str, ...] = ()


PLAIN = "{embed_dims: 48, num_layers: 2, num_heads: 3, feedforward_channels: 96}"
PLAIN_LINEAR = (
    f"model.backbone.arch={PLAIN}",
    "model.backbone.out_indices=[1]",
    "model.backbone.frozen_stages=2",
    "model.decode_head.in_channels=[48]",
    "model.decode_head.channels=48",
)
PLAIN_UPERNET = (
    f"model.backbone.arch={PLAIN}",
    "model.backbone.out_indices=[0,1,1,1]",
    "model.neck.embed_dim=48",
    "model.decode_head.in_channels=[48,48,48,48]",
    "model.decode_head.channels=32",
    "model.auxiliary_head.in_channels=48",
    "optim.paramwise.layer_decay.num_layers=2",
)
FAMILIES: dict[str, Representative] = {
    "afformer": Representative("afformer-t"),
    "ann": Representative("ann_r50-d8", (*R18_AUXILIARY, *THIN, "model.decode_head.in_channels=[256,512]")),
    "apcnet": Representative("apcnet_r50-d8", R18_LAST),
    "beit": Representative("beit-base_upernet", (*SHALLOW_VIT, *THIN)),
    "bisenetv1": Representative("bisenetv1_r18-d32"),
    "bisenetv2": Representative("bisenetv2_fcn"),
    "ccnet": Representative("ccnet_r50-d8", R18_LAST),
    "cgnet": Representative("cgnet_fcn"),
    "cgrseg": Representative("cgrseg-t"),
    "convnext": Representative(
        "convnext-tiny_upernet", ("model.backbone.arch={depths: [1,1,2,1], channels: [96,192,384,768]}", *THIN)
    ),
    "convnext_v2": Representative(
        "convnextv2-tiny_upernet",
        (
            "model.backbone.arch=atto",
            "model.decode_head.in_channels=[40,80,160,320]",
            "model.auxiliary_head.in_channels=160",
            *THIN,
        ),
    ),
    "danet": Representative("danet_r50-d8", R18_LAST),
    "ddrnet": Representative("ddrnet_23-slim_in1k-pre"),
    "deeplabv3": Representative("deeplabv3_r18-d8"),
    "deeplabv3plus": Representative("deeplabv3plus_r18-d8"),
    "dinov2": Representative("dinov2-small_linear", PLAIN_LINEAR),
    "dinov3": Representative("dinov3-small_linear", PLAIN_LINEAR),
    "dmnet": Representative("dmnet_r50-d8", R18_LAST),
    "dnlnet": Representative("dnl_r50-d8", R18_LAST),
    "dpt": Representative("dpt_vit-b16", (*SHALLOW_VIT, *THIN)),
    "edgenext": Representative("fpn_edgenext-xxs"),
    "efficientformer_v2": Representative("fpn_efficientformerv2-s0"),
    "efficientvit": Representative("efficientvit-seg-b0"),
    "emanet": Representative("emanet_r50-d8", R18_LAST),
    "encnet": Representative("encnet_r50-d8", (*R18_AUXILIARY, *THIN, "model.decode_head.in_channels=[128,256,512]")),
    "eomt": Representative(
        "eomt-s_dinov2",
        (
            "model.backbone.arch={embed_dims: 384, num_layers: 4, num_heads: 6, feedforward_channels: 1536}",
            "optim.paramwise.layer_decay.num_layers=4",
        ),
    ),
    "erfnet": Representative("erfnet_fcn"),
    "eva02": Representative("eva02-base_upernet", PLAIN_UPERNET),
    "fastfcn": Representative(
        "fastfcn_r50-d32_jpu_psp",
        (
            *R18_AUXILIARY,
            *THIN,
            "model.neck.in_channels=[128,256,512]",
            "model.neck.mid_channels=64",
            "model.decode_head.in_channels=256",
        ),
    ),
    "fastscnn": Representative("fast_scnn"),
    "fastvit": Representative("fpn_fastvit-t8"),
    "fcn": Representative("fcn_r18-d8"),
    "gcnet": Representative("gcnet_r50-d8", R18_LAST),
    "hrnet": Representative("fcn_hr18s"),
    "hiera": Representative(
        "hiera-tiny_upernet", ("model.backbone.arch={embed_dims: 96, num_heads: 1, depths: [1,1,2,1]}", *THIN)
    ),
    "icnet": Representative("icnet_r18-d8"),
    "isanet": Representative("isanet_r50-d8", R18_LAST),
    "knet": Representative(
        "knet-s3_r50-d8_fcn", (*R18_AUXILIARY, "model.decode_head.kernel_generate_head.in_channels=512")
    ),
    "mae": Representative("mae-base_upernet", (*SHALLOW_VIT, *THIN)),
    "mask2former": Representative(
        "mask2former_r50",
        (
            *R18,
            "model.decode_head.in_channels=[64,128,256,512]",
            "model.decode_head.pixel_decoder.encoder.num_layers=2",
            "model.decode_head.transformer_decoder.num_layers=3",
        ),
    ),
    "maskformer": Representative(
        "maskformer_r50-d32",
        (*R18, "model.decode_head.in_channels=[64,128,256,512]", "model.decode_head.transformer_decoder.num_layers=2"),
    ),
    "mobilenet_v2": Representative("mobilenet-v2-d8_fcn"),
    "mobilenet_v3": Representative("mobilenet-v3-d8-s_lraspp", size=(192, 192)),
    "mobilenet_v4": Representative("fpn_mobilenetv4-conv-s"),
    "mobileone": Representative("fpn_mobileone-s0"),
    "mobilevit": Representative("mobilevit-xxs_deeplabv3", THIN),
    "nonlocal_net": Representative("nonlocal_r50-d8", R18_LAST),
    "ocrnet": Representative("ocrnet_hr18s"),
    "offset_learning": Representative("segformer-offset_mit-b0"),
    "oneformer": Representative(
        "oneformer_swin-t",
        (
            "+model.backbone.depths=[1,1,2,1]",
            "+model.decode_head.pixel_decoder.encoder.num_layers=2",
            "model.decode_head.transformer_decoder.num_layers=3",
            "+model.decode_head.text_encoder={type: TextQueryEncoder, num_layers: 2, vocabulary: [sky, building, road, "
            "sidewalk, vegetation, car, person, pole]}",
        ),
    ),
    "pidnet": Representative("pidnet-s"),
    "point_rend": Representative("pointrend_r50", R18_FPN),
    "poolformer": Representative("fpn_poolformer_s12"),
    "psanet": Representative("psanet_r50-d8", R18_LAST),
    "pspnet": Representative("pspnet_r18-d8"),
    "repvit": Representative("fpn_repvit-m0.9"),
    "resnest": Representative("resnest_s101-d8_pspnet", ("model.backbone.depth=50", *THIN)),
    "san": Representative("san-vit-b16_coco-stuff164k", SHALLOW_SAN, classes=SAN_WORDS),
    "sctnet": Representative("sctnet-s"),
    "seaformer": Representative("seaformer-t", size=(128, 128)),
    "segformer": Representative("segformer_mit-b0"),
    "segmenter": Representative("segmenter_vit-t_mask", ("model.backbone.num_layers=4",)),
    "segnext": Representative("segnext_mscan-t", ("model.backbone.depths=[1,1,2,1]",)),
    "sem_fpn": Representative("fpn_r50", R18_FPN),
    "setr": Representative("setr_vit-l_naive", SHALLOW_VIT),
    "starnet": Representative("fpn_starnet-s1"),
    "stdc": Representative("stdc1"),
    "swin": Representative("swin-tiny-patch4-window7-in1k-pre_upernet", ("model.backbone.depths=[2,2,2,2]", *THIN)),
    "pp_mobileseg": Representative("pp-mobileseg-t", size=(128, 128)),
    "pp_liteseg": Representative("pp-liteseg-t"),
    "topformer": Representative("topformer-t"),
    "swin_v2": Representative(
        "swin-v2-tiny-window8_upernet",
        ("model.backbone.arch={embed_dims: 96, depths: [2,2,2,2], num_heads: [3,6,12,24]}", *THIN),
    ),
    "twins": Representative("twins_pcpvt-s_uperhead", ("model.backbone.depths=[1,1,2,1]", *THIN)),
    "umixformer": Representative("umixformer_mit-b0"),
    "unet": Representative(
        "unet-s5-d16_fcn",
        ("model.backbone.base_channels=16", "model.decode_head.in_channels=16", "model.auxiliary_head.in_channels=32"),
    ),
    "unet_resnet": Representative("unet-r18", ("model.decode_head.decoder_channels=[32,32,16,16,8]",)),
    "upernet": Representative("upernet_r18", THIN),
    "vit": Representative("vit_deit-s16_upernet", (*SHALLOW_VIT, *THIN)),
}
"""By family. ``dsdl`` trains models of others, ``vpd`` cannot be built."""
