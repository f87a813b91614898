"""A model whose answer can be told from the image, and a server with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import nn

from segkernel import Predictor
from segkernel.errors import DataError
from segkernel.sample import Sample
from segplug_deploy.serve import server
from segplug_deploy.serve.app import create_app
from segplug_deploy.serve.models import ServedModel
from segplug_deploy.serve.refusal import Limits

CLASSES, PALETTE = ("dark", "grey", "light"), ((20, 30, 40), (90, 160, 90), (250, 240, 200))


class Brightness(nn.Module):
    """Class 0 below a third of the brightness, class 2 above two thirds."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = images.mean(1, keepdim=True)
        return torch.cat([85 - light, torch.zeros_like(light), light - 170], 1)


def brightness(name: str = "toy", model: nn.Module | None = None) -> ServedModel:
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}
    return ServedModel(name, Predictor(model or Brightness(), "", "cpu", CLASSES, PALETTE, preprocess=plain))


class Changes(nn.Module):
    """Class 1 where two images differ by more than 50."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        change = (images[:, :3] - images[:, 3:]).abs().mean(1, keepdim=True)
        return torch.cat([torch.full_like(change, 50), change], 1)


class PairReader:
    """Reads two images as one of six channels."""

    takes_pairs = True

    def __call__(self, source: object) -> Sample:
        assert isinstance(source, tuple)
        first, second = source
        if first.shape != second.shape:
            raise DataError(f"{second.shape[:2]}, but the first image is {first.shape[:2]}")
        return Sample(image=np.concatenate([first, second], 2))


def changes() -> ServedModel:
    """A model that compares two images."""
    plain = {"mean": [0.0] * 6, "std": [1.0] * 6}
    predictor = Predictor(Changes(), "", "cpu", ("same", "changed"), ((0, 0, 0), (250, 80, 20)), preprocess=plain)
    predictor.reader = PairReader()
    return ServedModel("changes", predictor)


def stripes(height: int = 6, width: int = 9) -> np.ndarray:
    """Return an image of three stripes, one of each class."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 3 :], pixels[:, 2 * width // 3 :] = 128, 255
    return pixels


def png_of(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


@contextmanager
def running(models: Mapping[str, ServedModel], **limits: float) -> Iterator[tuple[str, int]]:
    """Run a server in a thread; yield its address."""
    bound, ready = server.bind("127.0.0.1", 0), threading.Event()
    app = create_app(models, Limits(**limits))
    address = bound.getsockname()
    instance = server.uvicorn_server(app, ready.set)
    thread = threading.Thread(target=instance.run, args=([bound],), daemon=True)
    thread.start()
    try:
        assert ready.wait(60)
        yield address
    finally:
        instance.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
