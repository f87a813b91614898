"""Prompt templates, and the class names of datasets, for CLIP's text encoder.

The templates are those of Learning Transferable Visual Models From Natural Language Supervision (CLIP), Radford et al.,
2021, and of Open-vocabulary Object Detection via Vision and Language Knowledge Distillation (ViLD), Gu et al., 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import segkernel
from segkernel.errors import ConfigError, Problem, did_you_mean


def templates_of(templates: str | Sequence[str]) -> list[str]:
    """Return prompt templates, which hold ``{}`` for the class: those given, or the set ``vild`` or ``imagenet``.

    Raises:
        ConfigError: There is no such set, no template, or one without ``{}``.
    """
    if isinstance(templates, str) and templates not in TEMPLATES:
        hint = f"there are {', '.join(TEMPLATES)}; or write a list of templates"
        raise ConfigError(Problem(f"no set of templates is called {templates!r}", "templates", hint=hint))
    chosen = list(TEMPLATES[templates] if isinstance(templates, str) else templates)
    if not chosen:
        raise ConfigError(Problem("at least one template is needed", "templates"))
    incomplete = next((template for template in chosen if "{}" not in template), None)
    if incomplete is not None:
        raise ConfigError(Problem(f"{incomplete!r} has no {{}} for the class", "templates"))
    return chosen


def class_names(dataset_name: str) -> list[str]:
    """Return the class names of a dataset without ``background``.

    MMSegmentation's names for Pascal VOC, Pascal Context and COCO-Stuff are known here, such as ``coco-stuff164k``.
    Other names are looked up among the installed datasets, in any case, with or without ``Dataset``: ``cityscapes``.

    Raises:
        ConfigError: The dataset is unknown.
    """
    name = _normalise(dataset_name)
    known = {alias: names for aliases, names in _KNOWN for alias in aliases}
    if name in known:
        return list(known[name])
    catalog = segkernel.Catalog.discover()
    installed = {_normalise(component): component for component in catalog.names("datasets")}
    spec = getattr(catalog.load("datasets", installed[name]), "spec", None) if name in installed else None
    if spec is None:
        near = did_you_mean(name, [*known, *installed])
        hint = f"did you mean {near[0]!r}?" if near else "write the class names as vocabulary"
        raise ConfigError(Problem(f"the classes of {dataset_name!r} are not known", "dataset_name", hint=hint))
    return [label for label in spec.classes if label != "background"]


def _normalise(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").removesuffix("dataset")


def _split(text: str, separator: str = ", ") -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(separator))


VILD = _split(
    """
    a photo of a {}. | This is a photo of a {} | There is a {} in the scene | There is the {} in the scene | a photo
    of a {} in the scene | a photo of a small {}. | a photo of a medium {}. | a photo of a large {}. | This is a
    photo of a small {}. | This is a photo of a medium {}. | This is a photo of a large {}. | There is a small {} in
    the scene. | There is a medium {} in the scene. | There is a large {} in the scene.
    """,
    " | ",
)
IMAGENET = _split(
    """
    a bad photo of a {}. | a photo of many {}. | a sculpture of a {}. | a photo of the hard to see {}. | a low
    resolution photo of the {}. | a rendering of a {}. | graffiti of a {}. | a bad photo of the {}. | a cropped
    photo of the {}. | a tattoo of a {}. | the embroidered {}. | a photo of a hard to see {}. | a bright photo of a
    {}. | a photo of a clean {}. | a photo of a dirty {}. | a dark photo of the {}. | a drawing of a {}. | a photo
    of my {}. | the plastic {}. | a photo of the cool {}. | a close-up photo of a {}. | a black and white photo of
    the {}. | a painting of the {}. | a painting of a {}. | a pixelated photo of the {}. | a sculpture of the {}. |
    a bright photo of the {}. | a cropped photo of a {}. | a plastic {}. | a photo of the dirty {}. | a jpeg
    corrupted photo of a {}. | a blurry photo of the {}. | a photo of the {}. | a good photo of the {}. | a
    rendering of the {}. | a {} in a video game. | a photo of one {}. | a doodle of a {}. | a close-up photo of the
    {}. | a photo of a {}. | the origami {}. | the {} in a video game. | a sketch of a {}. | a doodle of the {}. | a
    origami {}. | a low resolution photo of a {}. | the toy {}. | a rendition of the {}. | a photo of the clean {}.
    | a photo of a large {}. | a rendition of a {}. | a photo of a nice {}. | a photo of a weird {}. | a blurry
    photo of a {}. | a cartoon {}. | art of a {}. | a sketch of the {}. | a embroidered {}. | a pixelated photo of a
    {}. | itap of the {}. | a jpeg corrupted photo of the {}. | a good photo of a {}. | a plushie {}. | a photo of
    the nice {}. | a photo of the small {}. | a photo of the weird {}. | the cartoon {}. | art of the {}. | a
    drawing of the {}. | a photo of the large {}. | a black and white photo of a {}. | the plushie {}. | a dark
    photo of a {}. | itap of a {}. | graffiti of the {}. | a toy {}. | itap of my {}. | a photo of a cool {}. | a
    photo of a small {}. | a tattoo of the {}.
    """,
    " | ",
)
TEMPLATES = {"vild": VILD, "imagenet": IMAGENET}

VOC = _split(
    """
    aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person,
    pottedplant, sheep, sofa, train, tvmonitor
    """
)
PASCAL_CONTEXT = _split(
    """
    aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car, cat,
    ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, horse,
    keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves,
    sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood
    """
)
COCO_STUFF = _split(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet,
    cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain,
    desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower,
    fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
    mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform,
    playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper,
    snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable,
    wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops,
    window-blind, window-other, wood
    """
)
_KNOWN = (
    (("voc", "pascalvoc", "voc12", "voc12aug"), VOC),
    (("pcontext", "pascalcontext", "voc2010"), PASCAL_CONTEXT),
    (("cocostuff", "cocostuff10k", "cocostuff164k"), COCO_STUFF),
)
