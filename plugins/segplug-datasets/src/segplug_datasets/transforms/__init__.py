"""Transforms of samples; names and arguments are MMSegmentation's.

A transform is a pure function of (sample, rng). As in MMSegmentation, ``scale`` and the sizes of `Pad` and
`CenterCrop` are (width, height), but the ``crop_size`` of `RandomCrop` is (height, width).
"""
