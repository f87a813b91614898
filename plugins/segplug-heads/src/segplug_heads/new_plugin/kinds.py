"""The kinds of components that have a template: ``templates/src/KIND.py`` and ``templates/tests/KIND.py``."""

from __future__ import annotations

from dataclasses import dataclass

TORCH, NUMPY, TYPING = "torch>=2.4", "numpy>=1.26", "typing-extensions>=4.10"


@dataclass(frozen=True)
class Kind:
    """A kind of component.

    Args:
        group: Entry-point group, without its prefix.
        template: What the template's module defines, for a package ``segplug-my-model``.
        entry: Name of the entry point; by default that of the class.
        requires: Requirements of the template in addition to the kernel.
    """

    group: str
    template: str
    entry: str = ""
    requires: tuple[str, ...] = (TORCH,)


KINDS = {
    "backbone": Kind("backbones", "MyModelBackbone"),
    "neck": Kind("necks", "MyModelNeck"),
    "head": Kind("heads", "MyModelHead", requires=(TORCH, TYPING)),
    "loss": Kind("losses", "MyModelLoss"),
    "segmentor": Kind("segmentors", "MyModelSegmentor"),
    "layer": Kind("layers", "MyModelActivation"),
    "part": Kind("parts", "MyModelPixelSampler"),
    "dataset": Kind("datasets", "MyModelDataset", requires=(NUMPY, "opencv-python-headless>=4.8")),
    "sampler": Kind("samplers", "MyModelSampler", requires=(NUMPY,)),
    "transform": Kind("transforms", "MyModelTransform", requires=(NUMPY,)),
    "metric": Kind("metrics", "MyModelMetric", requires=()),
    "optimizer": Kind("optimizers", "MyModelOptimizer"),
    "parameter_groups": Kind("parameter_groups", "MyModelParameterGroups"),
    "schedule": Kind("schedules", "MyModelSchedule", requires=(TYPING,)),
    "hook": Kind("hooks", "MyModelHook", requires=()),
    "exporter": Kind("exporters", "MyModelExporter"),
    "weight_format": Kind("weight_formats", "MyModelWeights"),
    "config_check": Kind("config_checks", "check_config", entry="my_model"),
    "command": Kind("commands", "command", entry="my-model", requires=("click>=8.2",)),
}
