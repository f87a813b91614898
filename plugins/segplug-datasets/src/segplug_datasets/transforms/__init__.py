"""Transforms of samples; names and arguments are MMSegmentation's.

A transform is a pure function of (sample, rng). Beware of the two orders that MMSegmentation has: ``scale`` and the
sizes of `Pad` and `CenterCrop` are (width, height), the ``crop_size`` of `RandomCrop` is (height, width).
"""
