"""Predict images with a trained model, and draw the predictions.

python examples/predict_and_draw.py CHECKPOINT IMAGE [IMAGE ...]
"""

import sys

import numpy as np

from segkernel import Predictor
from segplug_datasets import draw, predict_images
from segplug_datasets import image as images


def main(checkpoint: str, paths: list[str]) -> None:
    """Predict, write, and draw by hand."""
    predictor = Predictor(checkpoint)
    stream = predict_images(predictor, paths, "predictions", opacity=0.6)  # or a folder, a pattern, a list in a file
    for path, prediction in zip(paths, stream):
        labels = prediction.labels.numpy()
        shares = {predictor.classes[i]: f"{(labels == i).mean():.0%}" for i in np.unique(labels)}
        print(path, labels.shape, shares)

    pixels = images.read(paths[0])
    one = predictor(pixels, probabilities=True)  # for a list of images, it returns a list
    drawn = draw(pixels, one, classes=predictor.classes, palette=predictor.palette, title="by hand")
    images.write("by_hand.png", drawn)
    print("probabilities", tuple(one["seg_probabilities"].shape))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
