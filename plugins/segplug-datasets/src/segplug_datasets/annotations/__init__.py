"""Data sets of annotation files: polygons and run lengths, rasterised when a sample is read."""
