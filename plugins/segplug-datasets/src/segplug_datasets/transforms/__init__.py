"""What is done to a sample before it goes into a batch; names and arguments are MMSegmentation's.

A transform is a pure function of (sample, rng). Beware of two orders that come with the names: ``scale`` and the
sizes of `Pad` and `CenterCrop` are (width, height), the ``crop_size`` of `RandomCrop` is (height, width).
"""
