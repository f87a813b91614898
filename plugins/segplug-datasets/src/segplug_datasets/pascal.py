"""Pascal VOC 2012, 20 object classes (Everingham et al., 2010), and Pascal Context (Mottaghi et al., 2014).

``seg-kernel data prepare voc_aug`` and ``pascal_context`` make lists and label files. Homepages:
host.robots.ox.ac.uk/pascal/VOC and www.cs.stanford.edu/~roozbeh/pascal-context; the images are Flickr's, under their
own terms.
"""

from __future__ import annotations

from segplug_datasets import ade20k
from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.tables import colors, names

_VOC_CLASSES = """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor
"""

_VOC_PALETTE = """
000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080 408080 c08080
004000 804000 00c000 80c000 004080
"""

_CONTEXT_CLASSES = """
background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car,
cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, horse,
keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves,
sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood
"""

_CONTEXT = names(_CONTEXT_CLASSES)


class PascalVOCDataset(BaseSegDataset):
    """Pascal VOC 2012: the background and 20 classes; ``ann_file`` lists the images that have a label file.

    Label files are in ``SegmentationClass``, those of the images annotated later (Hariharan et al., 2011) in
    ``SegmentationClassAug``.
    """

    spec = LabelSpec(classes=names(_VOC_CLASSES), palette=colors(_VOC_PALETTE))
    root = "data/VOCdevkit/VOC2012"
    prefix = DataPrefix(img_path="JPEGImages", seg_map_path="SegmentationClass")


class PascalContextDataset(BaseSegDataset):
    """Pascal Context: the background and 59 classes; ``ann_file`` lists the images that have a label file."""

    spec = LabelSpec(classes=_CONTEXT, palette=ade20k.LABELS.palette[:60])
    root = "data/VOCdevkit/VOC2010"
    prefix = DataPrefix(img_path="JPEGImages", seg_map_path="SegmentationClassContext")


class PascalContextDataset59(PascalContextDataset):
    """Pascal Context without the background: file values 1 to 59, 0 is ignored."""

    spec = LabelSpec(classes=_CONTEXT[1:], palette=ade20k.LABELS.palette[1:60], offset=1)
