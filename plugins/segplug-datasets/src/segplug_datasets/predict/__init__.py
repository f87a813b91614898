"""Predictions of images, archives, videos and large rasters, and the files they are written to."""
