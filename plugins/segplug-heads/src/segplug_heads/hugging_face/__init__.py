"""Models that transformers or segmentation_models_pytorch has saved: a folder with ``config.json`` and weights.

    Predictor("path/to/folder")("photo.jpg").labels          # or "hf://nvidia/segformer-b0-finetuned-ade-512-512"

The config gives the architecture, by one module for each ``model_type``; weight formats convert the names of the
weights; the image processor gives transforms and normalisation, ``id2label`` the classes. To add a family, add its
``model_type`` to `FAMILIES`, and a module of that name with a function ``segmentor``, from the values of
``config.json`` to the section ``model`` of a config.
"""

from __future__ import annotations

FAMILIES: dict[str, tuple[str, ...]] = {
    "beit": ("BeitForSemanticSegmentation",),
    "depth_anything": ("DepthAnythingForDepthEstimation",),
    "dpt": ("DPTForDepthEstimation", "DPTForSemanticSegmentation"),
    "eomt": ("EomtForUniversalSegmentation",),
    "eomt_dinov3": ("EomtDinov3ForUniversalSegmentation",),
    "mask2former": ("Mask2FormerForUniversalSegmentation",),
    "mobilenet_v2": ("MobileNetV2ForSemanticSegmentation",),
    "mobilevit": ("MobileViTForSemanticSegmentation",),
    "mobilevitv2": ("MobileViTV2ForSemanticSegmentation",),
    "oneformer": ("OneFormerForUniversalSegmentation",),
    "segformer": ("SegformerForSemanticSegmentation",),
    "smp": (),
    "upernet": ("UperNetForSemanticSegmentation",),
}
"""By ``model_type``, which is also the name of its module: ``architectures`` with a head for dense prediction; ``smp``
is segmentation_models_pytorch, whose configs have the class of the model instead."""
