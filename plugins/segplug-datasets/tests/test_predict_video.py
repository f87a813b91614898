"""Videos are predicted frame by frame: as single images, smoothed over time, with overlays as a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segkernel import Predictor
from segkernel.errors import DataError, UsageError
from segplug_datasets import image
from segplug_datasets.predict.video import Frames, Smoothing, VideoFile, predict_video


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(torch.nn.Conv2d(3, 3, 1), classes=["ground", "red", "blue"])


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """Six frames in which a bright square moves to the right."""
    file = VideoFile(tmp_path / "movie.mp4", 12.5)
    for number in range(6):
        frame = np.full((48, 64, 3), 40, np.uint8)
        frame[16:32, 8 * number : 8 * number + 16] = (220, 60, 30)
        file.write(frame)
    file.close()
    return file.path


def test_frames_are_predicted_as_images(predictor: Predictor, movie: Path, tmp_path: Path) -> None:
    video = Frames(movie)
    assert (video.fps, video.count) == (12.5, 6)
    frames = list(video)
    assert abs(frames[2][24, 24].astype(int) - (220, 60, 30)).max() < 25  # RGB
    found = list(predict_video(predictor, movie, tmp_path / "out", formats=["overlays", "labels"], batch_size=4))
    assert len(found) == 6
    for number, (frame, prediction) in enumerate(zip(frames, found)):
        assert torch.equal(prediction.labels, predictor(frame).labels)
        written = image.read_mask(tmp_path / "out" / "pred" / "movie" / f"{number:06d}.png")
        assert np.array_equal(written, prediction.labels.numpy())
    overlays = Frames(tmp_path / "out" / "vis" / "movie.mp4")
    assert (overlays.fps, overlays.count) == (12.5, 6)
    assert next(iter(overlays)).shape == (48, 64, 3)


def test_smoothing_is_a_moving_average_of_probabilities(predictor: Predictor, movie: Path) -> None:
    plain = [predictor(frame, probabilities=True)["seg_probabilities"] for frame in Frames(movie)]
    mean = plain[0]
    for number, prediction in enumerate(predict_video(predictor, movie, smoothing=0.75)):
        mean = 0.75 * mean + 0.25 * plain[number]
        assert torch.allclose(prediction["seg_probabilities"], mean, atol=1e-6)
        assert torch.equal(prediction.labels, mean.argmax(0).to(torch.uint8))


def test_only_so_many_frames_are_predicted(predictor: Predictor, movie: Path, tmp_path: Path) -> None:
    assert len(list(predict_video(predictor, movie, tmp_path / "out", frames=2))) == 2
    assert Frames(tmp_path / "out" / "vis" / "movie.mp4").count == 2


def test_a_video_stopped_early_keeps_its_frames(predictor: Predictor, movie: Path, tmp_path: Path) -> None:
    stream = predict_video(predictor, movie, tmp_path / "out")
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert Frames(tmp_path / "out" / "vis" / "movie.mp4").count == 2
    assert [path.name for path in (tmp_path / "out" / "vis").iterdir()] == ["movie.mp4"]


def test_what_cannot_be_opened_is_named(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"bad\.mp4: OpenCV cannot open it"):
        list(predict_video(predictor, tmp_path / "bad.mp4"))
    with pytest.raises(DataError, match="no such file"):
        Frames(tmp_path / "gone.mp4")
    with pytest.raises(DataError, match="camera:99: OpenCV cannot open it: is it connected"):
        Frames("camera:99")
    with pytest.raises(UsageError, match="not a video file or a camera"):
        Frames(tmp_path / "photo.png")
    with pytest.raises(UsageError, match="below 1, not 1"):
        Smoothing(1, None)
