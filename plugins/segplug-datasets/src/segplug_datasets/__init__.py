"""Data sets, transforms and metrics for seg-kernel, and overlays of predictions.

    from segplug_datasets import draw, predict_images

Importing this package imports nothing else; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The names below are written by tools/update_known.py.
# isort: off
if TYPE_CHECKING:
    from segplug_datasets.ade20k import ADE20KDataset as ADE20KDataset
    from segplug_datasets.aerial import ISPRSDataset as ISPRSDataset
    from segplug_datasets.aerial import LoveDADataset as LoveDADataset
    from segplug_datasets.aerial import PotsdamDataset as PotsdamDataset
    from segplug_datasets.aerial import iSAIDDataset as iSAIDDataset
    from segplug_datasets.annotations.coco import CocoInstanceDataset as CocoInstanceDataset
    from segplug_datasets.annotations.coco_keypoints import CocoKeypointDataset as CocoKeypointDataset
    from segplug_datasets.annotations.coco_panoptic import CocoPanopticDataset as CocoPanopticDataset
    from segplug_datasets.annotations.cvat import CvatDataset as CvatDataset
    from segplug_datasets.annotations.label_studio import LabelStudioDataset as LabelStudioDataset
    from segplug_datasets.annotations.labelme import LabelmeDataset as LabelmeDataset
    from segplug_datasets.annotations.numbered import NumberedMaskDataset as NumberedMaskDataset
    from segplug_datasets.annotations.numbered import PennFudanDataset as PennFudanDataset
    from segplug_datasets.annotations.yolo import YoloSegDataset as YoloSegDataset
    from segplug_datasets.bdd100k import BDD100KDataset as BDD100KDataset
    from segplug_datasets.cache import CachedDataset as CachedDataset
    from segplug_datasets.camvid import CamVid as CamVid
    from segplug_datasets.change import BaseCDDataset as BaseCDDataset
    from segplug_datasets.change import LEVIRCDDataset as LEVIRCDDataset
    from segplug_datasets.cityscapes import CityscapesDataset as CityscapesDataset
    from segplug_datasets.cityscapes import DarkZurichDataset as DarkZurichDataset
    from segplug_datasets.cityscapes import NightDrivingDataset as NightDrivingDataset
    from segplug_datasets.class_weights_hook import ClassWeightsHook as ClassWeightsHook
    from segplug_datasets.coco_stuff import COCOStuffDataset as COCOStuffDataset
    from segplug_datasets.concat import ConcatDataset as ConcatDataset
    from segplug_datasets.concat import MappedDataset as MappedDataset
    from segplug_datasets.concat import MixDataset as MixDataset
    from segplug_datasets.decathlon import DecathlonDataset as DecathlonDataset
    from segplug_datasets.dsdl import DSDLSegDataset as DSDLSegDataset
    from segplug_datasets.files import FolderDataset as FolderDataset
    from segplug_datasets.labels_hook import LabelsHook as LabelsHook
    from segplug_datasets.lip import LIPDataset as LIPDataset
    from segplug_datasets.load_times_hook import LoadTimesHook as LoadTimesHook
    from segplug_datasets.mapillary import MapillaryDataset_v1 as MapillaryDataset_v1
    from segplug_datasets.mapillary import MapillaryDataset_v2 as MapillaryDataset_v2
    from segplug_datasets.medical import REFUGEDataset as REFUGEDataset
    from segplug_datasets.medical import SynapseDataset as SynapseDataset
    from segplug_datasets.metrics.binary import BinaryMetric as BinaryMetric
    from segplug_datasets.metrics.boundary import BoundaryF1 as BoundaryF1
    from segplug_datasets.metrics.boundary import BoundaryIoU as BoundaryIoU
    from segplug_datasets.metrics.calibration import CalibrationMetric as CalibrationMetric
    from segplug_datasets.metrics.cityscapes import CityscapesMetric as CityscapesMetric
    from segplug_datasets.metrics.depth import DepthMetric as DepthMetric
    from segplug_datasets.metrics.iou import IoUMetric as IoUMetric
    from segplug_datasets.metrics.scores import ScoresMetric as ScoresMetric
    from segplug_datasets.metrics.surface import HausdorffMetric as HausdorffMetric
    from segplug_datasets.metrics.surface import SurfaceDiceMetric as SurfaceDiceMetric
    from segplug_datasets.nyu import NYUDataset as NYUDataset
    from segplug_datasets.packed import PackedDataset as PackedDataset
    from segplug_datasets.pascal import PascalContextDataset as PascalContextDataset
    from segplug_datasets.pascal import PascalContextDataset59 as PascalContextDataset59
    from segplug_datasets.pascal import PascalVOCDataset as PascalVOCDataset
    from segplug_datasets.pictures_hook import PicturesHook as PicturesHook
    from segplug_datasets.predict.activations import class_activation as class_activation
    from segplug_datasets.predict.activations import feature_maps as feature_maps
    from segplug_datasets.predict.ensemble import Ensemble as Ensemble
    from segplug_datasets.predict.images import predict_images as predict_images
    from segplug_datasets.predict.scenes import predict_raster as predict_raster
    from segplug_datasets.predict.sources import collect_images as collect_images
    from segplug_datasets.predict.video import predict_video as predict_video
    from segplug_datasets.raster import RasterDataset as RasterDataset
    from segplug_datasets.report.hook import EvaluationReport as EvaluationReport
    from segplug_datasets.retina import ChaseDB1Dataset as ChaseDB1Dataset
    from segplug_datasets.retina import DRIVEDataset as DRIVEDataset
    from segplug_datasets.retina import HRFDataset as HRFDataset
    from segplug_datasets.retina import STAREDataset as STAREDataset
    from segplug_datasets.samplers import AspectRatioGroups as AspectRatioGroups
    from segplug_datasets.samplers import BalancedSampler as BalancedSampler
    from segplug_datasets.samplers import WeightedSampler as WeightedSampler
    from segplug_datasets.street_scenes import StreetScenes as StreetScenes
    from segplug_datasets.torch_data import TorchDataset as TorchDataset
    from segplug_datasets.transforms.albu import Albu as Albu
    from segplug_datasets.transforms.biomedical import BioMedicalGaussianBlur as BioMedicalGaussianBlur
    from segplug_datasets.transforms.biomedical import BioMedicalGaussianNoise as BioMedicalGaussianNoise
    from segplug_datasets.transforms.biomedical import BioMedicalRandomGamma as BioMedicalRandomGamma
    from segplug_datasets.transforms.class_crop import ClassAwareCrop as ClassAwareCrop
    from segplug_datasets.transforms.color import AdjustGamma as AdjustGamma
    from segplug_datasets.transforms.color import CLAHE as CLAHE
    from segplug_datasets.transforms.color import PhotoMetricDistortion as PhotoMetricDistortion
    from segplug_datasets.transforms.color import RGB2Gray as RGB2Gray
    from segplug_datasets.transforms.color import RandomCutOut as RandomCutOut
    from segplug_datasets.transforms.compose import RandomApply as RandomApply
    from segplug_datasets.transforms.compose import RandomChoice as RandomChoice
    from segplug_datasets.transforms.copy_paste import CopyPaste as CopyPaste
    from segplug_datasets.transforms.erase import GridMask as GridMask
    from segplug_datasets.transforms.intensity import GaussianBlur as GaussianBlur
    from segplug_datasets.transforms.intensity import GaussianNoise as GaussianNoise
    from segplug_datasets.transforms.intensity import JPEGCompression as JPEGCompression
    from segplug_datasets.transforms.intensity import Normalize as Normalize
    from segplug_datasets.transforms.intensity import RandomGrayscale as RandomGrayscale
    from segplug_datasets.transforms.intensity import Rerange as Rerange
    from segplug_datasets.transforms.mix import ClassMix as ClassMix
    from segplug_datasets.transforms.mix import CutMix as CutMix
    from segplug_datasets.transforms.mix import MixUp as MixUp
    from segplug_datasets.transforms.mosaic import Mosaic as Mosaic
    from segplug_datasets.transforms.mosaic import RandomMosaic as RandomMosaic
    from segplug_datasets.transforms.objects import AspectCrop as AspectCrop
    from segplug_datasets.transforms.objects import FilterAnnotations as FilterAnnotations
    from segplug_datasets.transforms.pillow_resize import PillowResize as PillowResize
    from segplug_datasets.transforms.place import CenterCrop as CenterCrop
    from segplug_datasets.transforms.place import Pad as Pad
    from segplug_datasets.transforms.place import RandomCrop as RandomCrop
    from segplug_datasets.transforms.place import RandomFlip as RandomFlip
    from segplug_datasets.transforms.place import RandomRotate as RandomRotate
    from segplug_datasets.transforms.randaugment import RandAugment as RandAugment
    from segplug_datasets.transforms.resize import RandomChoiceResize as RandomChoiceResize
    from segplug_datasets.transforms.resize import RandomResize as RandomResize
    from segplug_datasets.transforms.resize import Resize as Resize
    from segplug_datasets.transforms.resize import ResizeShortestEdge as ResizeShortestEdge
    from segplug_datasets.transforms.resize import ResizeToMultiple as ResizeToMultiple
    from segplug_datasets.transforms.special import ConcatCDInput as ConcatCDInput
    from segplug_datasets.transforms.special import GenerateEdge as GenerateEdge
    from segplug_datasets.transforms.special import RandomDepthMix as RandomDepthMix
    from segplug_datasets.transforms.special import SegRescale as SegRescale
    from segplug_datasets.transforms.volume import BioMedical3DPad as BioMedical3DPad
    from segplug_datasets.transforms.volume import BioMedical3DRandomCrop as BioMedical3DRandomCrop
    from segplug_datasets.transforms.volume import BioMedical3DRandomFlip as BioMedical3DRandomFlip
    from segplug_datasets.transforms.volume import RandomSlice as RandomSlice
    from segplug_datasets.transforms.warp import ElasticTransform as ElasticTransform
    from segplug_datasets.transforms.warp import RandomAffine as RandomAffine
    from segplug_datasets.transforms.warp import RandomPerspective as RandomPerspective
    from segplug_datasets.transforms.warp import RandomRotFlip as RandomRotFlip
    from segplug_datasets.visualize import draw as draw
    from segplug_datasets.volumes import VolumeDataset as VolumeDataset
    from segplug_datasets.wrappers import ClassBalancedDataset as ClassBalancedDataset
    from segplug_datasets.wrappers import IndexedDataset as IndexedDataset
    from segplug_datasets.wrappers import MultiImageMixDataset as MultiImageMixDataset
    from segplug_datasets.wrappers import RepeatDataset as RepeatDataset
# isort: on

_HOMES = {
    "ADE20KDataset": ".ade20k",
    "AdjustGamma": ".transforms.color",
    "Albu": ".transforms.albu",
    "AspectCrop": ".transforms.objects",
    "AspectRatioGroups": ".samplers",
    "BDD100KDataset": ".bdd100k",
    "BalancedSampler": ".samplers",
    "BaseCDDataset": ".change",
    "BinaryMetric": ".metrics.binary",
    "BioMedical3DPad": ".transforms.volume",
    "BioMedical3DRandomCrop": ".transforms.volume",
    "BioMedical3DRandomFlip": ".transforms.volume",
    "BioMedicalGaussianBlur": ".transforms.biomedical",
    "BioMedicalGaussianNoise": ".transforms.biomedical",
    "BioMedicalRandomGamma": ".transforms.biomedical",
    "BoundaryF1": ".metrics.boundary",
    "BoundaryIoU": ".metrics.boundary",
    "CLAHE": ".transforms.color",
    "COCOStuffDataset": ".coco_stuff",
    "CachedDataset": ".cache",
    "CalibrationMetric": ".metrics.calibration",
    "CamVid": ".camvid",
    "CenterCrop": ".transforms.place",
    "ChaseDB1Dataset": ".retina",
    "CityscapesDataset": ".cityscapes",
    "CityscapesMetric": ".metrics.cityscapes",
    "ClassAwareCrop": ".transforms.class_crop",
    "ClassBalancedDataset": ".wrappers",
    "ClassMix": ".transforms.mix",
    "ClassWeightsHook": ".class_weights_hook",
    "CocoInstanceDataset": ".annotations.coco",
    "CocoKeypointDataset": ".annotations.coco_keypoints",
    "CocoPanopticDataset": ".annotations.coco_panoptic",
    "ConcatCDInput": ".transforms.special",
    "ConcatDataset": ".concat",
    "CopyPaste": ".transforms.copy_paste",
    "CutMix": ".transforms.mix",
    "CvatDataset": ".annotations.cvat",
    "DRIVEDataset": ".retina",
    "DSDLSegDataset": ".dsdl",
    "DarkZurichDataset": ".cityscapes",
    "DecathlonDataset": ".decathlon",
    "DepthMetric": ".metrics.depth",
    "ElasticTransform": ".transforms.warp",
    "Ensemble": ".predict.ensemble",
    "EvaluationReport": ".report.hook",
    "FilterAnnotations": ".transforms.objects",
    "FolderDataset": ".files",
    "GaussianBlur": ".transforms.intensity",
    "GaussianNoise": ".transforms.intensity",
    "GenerateEdge": ".transforms.special",
    "GridMask": ".transforms.erase",
    "HRFDataset": ".retina",
    "HausdorffMetric": ".metrics.surface",
    "ISPRSDataset": ".aerial",
    "IndexedDataset": ".wrappers",
    "IoUMetric": ".metrics.iou",
    "JPEGCompression": ".transforms.intensity",
    "LEVIRCDDataset": ".change",
    "LIPDataset": ".lip",
    "LabelStudioDataset": ".annotations.label_studio",
    "LabelmeDataset": ".annotations.labelme",
    "LabelsHook": ".labels_hook",
    "LoadTimesHook": ".load_times_hook",
    "LoveDADataset": ".aerial",
    "MapillaryDataset_v1": ".mapillary",
    "MapillaryDataset_v2": ".mapillary",
    "MappedDataset": ".concat",
    "MixDataset": ".concat",
    "MixUp": ".transforms.mix",
    "Mosaic": ".transforms.mosaic",
    "MultiImageMixDataset": ".wrappers",
    "NYUDataset": ".nyu",
    "NightDrivingDataset": ".cityscapes",
    "Normalize": ".transforms.intensity",
    "NumberedMaskDataset": ".annotations.numbered",
    "PackedDataset": ".packed",
    "Pad": ".transforms.place",
    "PascalContextDataset": ".pascal",
    "PascalContextDataset59": ".pascal",
    "PascalVOCDataset": ".pascal",
    "PennFudanDataset": ".annotations.numbered",
    "PhotoMetricDistortion": ".transforms.color",
    "PicturesHook": ".pictures_hook",
    "PillowResize": ".transforms.pillow_resize",
    "PotsdamDataset": ".aerial",
    "REFUGEDataset": ".medical",
    "RGB2Gray": ".transforms.color",
    "RandAugment": ".transforms.randaugment",
    "RandomAffine": ".transforms.warp",
    "RandomApply": ".transforms.compose",
    "RandomChoice": ".transforms.compose",
    "RandomChoiceResize": ".transforms.resize",
    "RandomCrop": ".transforms.place",
    "RandomCutOut": ".transforms.color",
    "RandomDepthMix": ".transforms.special",
    "RandomFlip": ".transforms.place",
    "RandomGrayscale": ".transforms.intensity",
    "RandomMosaic": ".transforms.mosaic",
    "RandomPerspective": ".transforms.warp",
    "RandomResize": ".transforms.resize",
    "RandomRotFlip": ".transforms.warp",
    "RandomRotate": ".transforms.place",
    "RandomSlice": ".transforms.volume",
    "RasterDataset": ".raster",
    "RepeatDataset": ".wrappers",
    "Rerange": ".transforms.intensity",
    "Resize": ".transforms.resize",
    "ResizeShortestEdge": ".transforms.resize",
    "ResizeToMultiple": ".transforms.resize",
    "STAREDataset": ".retina",
    "ScoresMetric": ".metrics.scores",
    "SegRescale": ".transforms.special",
    "StreetScenes": ".street_scenes",
    "SurfaceDiceMetric": ".metrics.surface",
    "SynapseDataset": ".medical",
    "TorchDataset": ".torch_data",
    "VolumeDataset": ".volumes",
    "WeightedSampler": ".samplers",
    "YoloSegDataset": ".annotations.yolo",
    "class_activation": ".predict.activations",
    "collect_images": ".predict.sources",
    "draw": ".visualize",
    "feature_maps": ".predict.activations",
    "iSAIDDataset": ".aerial",
    "predict_images": ".predict.images",
    "predict_raster": ".predict.scenes",
    "predict_video": ".predict.video",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
