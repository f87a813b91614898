"""Predict images with a trained model, and draw what it says.

python examples/predict_and_draw.py CHECKPOINT IMAGE [IMAGE ...]
"""

import sys

import numpy as np

from segkernel import Predictor, draw
from segkernel import image as images


def main(checkpoint: str, paths: list[str]) -> None:
    """Predict, write, and draw by hand."""
    predictor = Predictor(checkpoint)
    predictions = predictor(paths, out_dir="predictions", opacity=0.6)  # a list in gives a list out
    for path, prediction in zip(paths, predictions):
        labels = prediction.labels.numpy()
        shares = {predictor.classes[i]: f"{(labels == i).mean():.0%}" for i in np.unique(labels)}
        print(path, labels.shape, shares)

    pixels = images.read(paths[0])
    one = predictor(pixels, scores=True)  # an array in gives one prediction out
    picture = draw(pixels, one, classes=predictor.classes, palette=predictor.palette, title="by hand")
    images.write("by_hand.png", picture)
    print("probabilities", tuple(one["seg_scores"].shape))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
