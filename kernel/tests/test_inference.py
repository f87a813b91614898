"""Preprocessing, windows, merging and labels: the values of MMSegmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segkernel.errors import UsageError
from segkernel.inference import Preprocessor, infer, predict_batch
from segkernel.interfaces.model import PixelClasses
from segkernel.nn.windows import SlidingWindows
from segkernel.sample import Batch, LabelMap, Sample, Targets, collate

GOLDEN = np.load(Path(__file__).parent / "golden" / "inference.npz")
SOFTMAX = PixelClasses(classes=5, out_channels=5)


def plain(images):
    """Make a batch whose preprocessing changes nothing."""
    return Batch(images, Targets({}), [tuple(images.shape[-2:])] * len(images), [{} for _ in images])


NOTHING = Preprocessor(mean=(0, 0, 0), std=(1, 1, 1)).eval()


def random_scores(channels, seed=51, shape=(40, 48)):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((2, channels, *shape)).astype(np.float32))


@pytest.mark.parametrize("key", ["in0", "in1"])
def test_training_batches_are_normalised_and_padded_as_the_reference_does(key):
    rs = np.random.RandomState(31)
    images = [rs.randint(0, 256, (3, 50, 60)).astype(np.uint8), rs.randint(0, 256, (3, 64, 48)).astype(np.uint8)]
    labels = [rs.randint(0, 7, (50, 60)).astype(np.uint8), rs.randint(0, 7, (64, 48)).astype(np.uint8)]
    samples = [
        Sample({"seg": LabelMap(label)}, {}, image[::-1].transpose(1, 2, 0).copy())
        for image, label in zip(images, labels)
    ]
    preprocessor = Preprocessor(size=(72, 80)) if key == "in0" else Preprocessor(size_divisor=32)
    found, targets = preprocessor.train()(collate(samples))
    golden = GOLDEN[key]
    if key == "in1":  # there, each image is padded to its own multiple first; the content is what matters
        found = found[..., : golden.shape[-2], : golden.shape[-1]]
    np.testing.assert_allclose(found[..., ::3, ::3].numpy(), golden[..., ::3, ::3], atol=1e-5)
    assert targets["seg"].dtype == torch.int64
    assert (targets["seg"][0, 50:] == 255).all()
    assert (targets["seg"][1, :, 48:] == 255).all()


def test_evaluation_batches_are_not_padded():
    images, _ = Preprocessor(size=(72, 80)).eval()(plain(torch.zeros(1, 3, 50, 60, dtype=torch.uint8)))
    assert images.shape == (1, 3, 50, 60)


def test_a_model_of_bgr_images_gets_them_and_stores_it():
    pixels = torch.arange(3, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()
    preprocessor = Preprocessor(mean=(0, 0, 1), std=(1, 1, 2), channel_order="bgr").eval()
    images, _ = preprocessor(plain(pixels))
    assert images[0, :, 0, 0].tolist() == [2, 1, -0.5]  # blue, green, and the red that mean and std are of
    again, _ = Preprocessor(**preprocessor.config()).eval()(plain(pixels))
    assert torch.equal(again, images)
    with pytest.raises(UsageError, match="bgr is for 3 channels"):
        Preprocessor(mean=(0,), std=(1,), channel_order="bgr")


def test_another_number_of_channels_is_refused():
    with pytest.raises(UsageError, match="4 channels"):
        Preprocessor()(plain(torch.zeros(1, 4, 8, 8)))


@pytest.mark.parametrize(
    ("name", "output", "original"),
    [
        ("plain", SOFTMAX, (40, 48)),
        ("resize", SOFTMAX, (50, 70)),
        ("align_resize", PixelClasses(5, 5, align_corners=True), (50, 70)),
        ("binary", PixelClasses(2, 1, "sigmoid", 0.3), (40, 48)),
        ("binary_thr", PixelClasses(2, 1, "sigmoid", 0.6), (40, 48)),
    ],
)
def test_logits_are_decoded_to_the_reference_s_labels(name, output, original):
    scores = random_scores(output.out_channels)
    batch = plain(torch.zeros(2, 3, 40, 48))
    batch.original_sizes = [original] * 2
    found = predict_batch(lambda _: {"seg": scores}, batch, batch.images, outputs={"seg": output})
    labels = np.stack([prediction.labels.numpy() for prediction in found])
    assert (labels == GOLDEN[f"pred_{name}"]).mean() > 0.9999


def test_padding_is_removed_before_the_logits_are_resized():
    scores = random_scores(5)
    batch = plain(torch.zeros(2, 3, 33, 42))
    batch.original_sizes = [(30, 37)] * 2
    padding = Preprocessor(mean=(0, 0, 0), std=(1, 1, 1), test_cfg={"size_divisor": 8}).eval()
    found = predict_batch(lambda _: {"seg": scores}, batch, padding(batch)[0], outputs={"seg": SOFTMAX})
    labels = np.stack([prediction.labels.numpy() for prediction in found])
    assert (labels == GOLDEN["pred_padding"]).mean() > 0.9999


def test_merged_views_are_the_mean_of_their_probabilities():
    views = iter(torch.randn(4, 1, 5, 20, 24, generator=torch.Generator().manual_seed(0)))
    kept = []

    def predict(images):
        kept.append(next(views))
        return {"seg": kept[-1]}

    batch = plain(torch.zeros(1, 3, 20, 24))
    outputs = {"seg": SOFTMAX}
    tta = {"scales": (1.0, 1.0), "flip": True}
    found = predict_batch(predict, batch, batch.images, outputs=outputs, tta=tta, probabilities=True)
    turned = [scores.flip(-1) if index % 2 else scores for index, scores in enumerate(kept)]
    mean = torch.stack([scores.softmax(1) for scores in turned]).mean(0)[0]
    torch.testing.assert_close(found[0]["seg_probabilities"], mean)


def test_tta_of_a_real_convolution_is_the_plain_prediction_when_there_is_one_view(tiny_model):
    model = tiny_model().eval()
    batch = plain(torch.rand(1, 3, 24, 32))
    outputs = model.outputs
    one = predict_batch(model.predict, batch, batch.images, outputs=outputs)
    same = predict_batch(model.predict, batch, batch.images, outputs=outputs, tta={"scales": [1], "flip": False})
    assert torch.equal(one[0].labels, same[0].labels)


def test_windows_cover_everything_and_average_where_they_overlap():
    windows = {"mode": "slide", "crop_size": (32, 48), "stride": (20, 30)}
    ones = infer(lambda x: {"seg": x[:, :1] * 0 + 1}, torch.zeros(1, 3, 65, 97), {"seg": SOFTMAX}, windows)
    assert torch.equal(ones["seg"], torch.ones(1, 1, 65, 97))
    position = torch.arange(97.0).expand(1, 3, 65, 97)
    found = infer(lambda x: {"seg": x[:, :1]}, position, {"seg": SOFTMAX}, windows)
    torch.testing.assert_close(found["seg"], position[:, :1])


def test_gaussian_windows_count_less_at_their_border():
    # Two windows of 8 that overlap by 4; each returns its own number.
    windows = {"mode": "slide", "crop_size": (8, 8), "stride": (8, 4), "blend": "gaussian"}
    numbers = iter([0.0, 1.0])
    found = infer(lambda x: {"seg": x[:, :1] * 0 + next(numbers)}, torch.zeros(1, 3, 8, 12), {"seg": SOFTMAX}, windows)
    row = found["seg"][0, 0, 3]
    deviations = (torch.arange(8) - 3.5) * 8 / 9
    weights = (-0.5 * deviations**2).exp()
    torch.testing.assert_close(row[4:8], weights[:4] / (weights[:4] + weights[4:]))
    assert row[:4].tolist() == [0] * 4
    assert row[8:].tolist() == [1] * 4
    position = torch.arange(97.0).expand(1, 3, 65, 97)
    windows = {"mode": "slide", "crop_size": (32, 48), "stride": (20, 30), "blend": "gaussian"}
    found = infer(lambda x: {"seg": x[:, :1]}, position, {"seg": SOFTMAX}, windows)
    torch.testing.assert_close(found["seg"], position[:, :1])


def plain_average(predict, images, crop, stride, blend):
    """Average windows in two arrays of the images' size, as the reference does."""
    size = images.shape[2:]
    windows = SlidingWindows(size, crop, stride, blend)
    weights = torch.ones(windows.window) if windows.weights is None else windows.weights
    sums, total = torch.zeros(len(images), 5, *size), torch.zeros(size)
    for top, left in windows.corners:
        part = ..., slice(top, top + windows.window[0]), slice(left, left + windows.window[1])
        sums[part] += predict(images[part])["seg"] * weights
        total[part] += weights
    return sums / total


@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((150, 90), (40, 48), (15, 30)),
        ((65, 64), (64, 64), (64, 64)),
        ((200, 50), (96, 64), (1, 7)),
        ((9, 9), (9, 9), 9),
    ],
)
def test_strips_of_windows_are_those_of_the_plain_average(blend, size, crop, stride):
    stride = (stride, stride) if isinstance(stride, int) else stride
    torch.manual_seed(0)
    images, conv = torch.rand(2, 3, *size), torch.nn.Conv2d(3, 5, 1).requires_grad_(False)
    expected = plain_average(predict := lambda x: {"seg": conv(x)}, images, crop, stride, blend)
    cfg = {"mode": "slide", "crop_size": crop, "stride": stride, "blend": blend}
    assert torch.equal(infer(predict, images, {"seg": SOFTMAX}, cfg)["seg"], expected)
    found = predict_batch(predict, plain(images), images, outputs={"seg": SOFTMAX}, test_cfg=cfg)
    assert torch.equal(torch.stack([prediction.labels for prediction in found]), expected.argmax(1).to(torch.uint8))


def test_windows_are_averaged_before_their_rows_are_resized():
    images = torch.rand(1, 3, 100, 30, generator=torch.Generator().manual_seed(0))
    batch = plain(images)
    batch.original_sizes = [(173, 71)]
    cfg = {"mode": "slide", "crop_size": (40, 30), "stride": (20, 30)}
    found = predict_batch(lambda x: {"seg": x}, batch, images, outputs={"seg": PixelClasses(3, 3)}, test_cfg=cfg)
    wide = torch.nn.functional.interpolate(images, (173, 71), mode="bilinear")
    assert torch.equal(found[0].labels, wide.argmax(1)[0].to(torch.uint8))


@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
def test_windows_in_batches_give_the_same_as_one_by_one(blend):
    torch.manual_seed(0)
    images, sizes = torch.rand(2, 3, 33, 47), []
    conv = torch.nn.Conv2d(3, 2, 3, padding=1).requires_grad_(False)
    cfg = {"mode": "slide", "crop_size": 16, "stride": 10, "blend": blend}
    predict = lambda x: sizes.append(len(x)) or {"seg": conv(x)}  # noqa: E731
    one = infer(predict, images, {"seg": SOFTMAX}, cfg)["seg"]
    assert set(sizes) == {2}
    several = infer(predict, images, {"seg": SOFTMAX}, {**cfg, "batch_size": 4})["seg"]
    assert max(sizes) == 8
    torch.testing.assert_close(several, one)


def test_a_window_larger_than_the_image_covers_it():
    images = torch.rand(1, 3, 20, 30)
    predict = lambda x: {"seg": x[:, :1]}  # noqa: E731
    found = infer(predict, images, {"seg": SOFTMAX}, {"mode": "slide", "crop_size": (64, 64), "stride": (48, 48)})
    torch.testing.assert_close(found["seg"], images[:, :1])


def test_a_window_of_one_number_is_a_square():
    images = torch.rand(1, 3, 40, 60)
    found = [
        infer(lambda x: {"seg": x.mean((2, 3), keepdim=True)}, images, {"seg": SOFTMAX}, {"mode": "slide", **sizes})
        for sizes in ({"crop_size": 32, "stride": 20}, {"crop_size": (32, 32), "stride": (20, 20)})
    ]
    assert torch.equal(found[0]["seg"], found[1]["seg"])


def test_windows_without_a_size_are_refused():
    with pytest.raises(UsageError, match="crop_size"):
        infer(lambda x: {"seg": x}, torch.zeros(1, 3, 8, 8), {"seg": SOFTMAX}, {"mode": "slide"})


@pytest.mark.parametrize("stride", [(5, 4), (4, 5), 9])
def test_windows_that_leave_pixels_out_are_refused(stride):
    cfg = {"mode": "slide", "crop_size": 4, "stride": stride}
    with pytest.raises(UsageError, match="stride <= crop_size"):
        infer(lambda x: {"seg": x}, torch.zeros(1, 3, 16, 16), {"seg": SOFTMAX}, cfg)


def test_labels_are_small_integers_where_they_fit():
    assert SOFTMAX.decode(random_scores(5)[:1]).dtype == torch.uint8
    assert PixelClasses(300, 300).decode(torch.zeros(1, 300, 2, 2)).dtype == torch.int64


def test_multilabel_outputs_have_one_decision_per_class() -> None:
    output = PixelClasses(2, 2, "sigmoid", 0.6, task="multilabel")
    scores = torch.tensor([2.0, 0.1, -3.0, 5.0]).view(1, 2, 1, 2)
    labels = output.decode(scores)
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[[1, 0]], [[0, 1]]]
    assert torch.equal(output.decode(scores.sigmoid(), activated=True), labels)
