"""Videos and cameras, frame by frame: overlays as a video, other files per frame, probabilities smoothed over time.

for prediction in predict_video(Predictor("best.pt"), "street.mp4", "predictions", smoothing=0.6): ...
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.files import relative_path
from segkernel.image import opencv, refuse_giant
from segplug_datasets.image import overlay
from segplug_datasets.predict.outputs import Outputs, Predicted
from segplug_datasets.predict.sources import CAMERA, is_video, output_names
from segplug_datasets.predict.stream import Behind, grouped, mapped, prefetched
from segplug_datasets.visualize import background_ids, draws_itself, show_image

if TYPE_CHECKING:
    from segkernel.sample import Prediction


class Frames:
    """The frames of a video file, or of a camera (``camera:0``), as (H, W, 3) uint8 RGB.

    Args:
        source: The file or the camera.

    Attributes:
        fps: Frames per second; 30 where the file does not say.
        count: Number of frames as the file says; None for a camera, or where it does not say.

    Raises:
        DataError: When it cannot be opened.
    """

    def __init__(self, source: str | Path) -> None:
        if not is_video(Path(source)):
            raise UsageError(f"{source}: not a video file or a camera such as camera:0")
        camera = CAMERA.fullmatch(str(source))
        if not camera and not Path(source).is_file():
            raise DataError("no such file", source)
        cv2 = opencv()
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # none: the error says it
        self.source = str(source)
        self._capture = cv2.VideoCapture(int(camera[1]) if camera else self.source)
        if not self._capture.isOpened():
            hint = "is it connected, and may this user read it?" if camera else "it is damaged, or of an unknown codec"
            raise DataError(f"OpenCV cannot open it: {hint}", source)
        fps, number = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = float(fps) if 0 < fps <= 1000 else 30.0
        self.count = None if camera or not 0 < number < 2**31 else int(number)

    def __iter__(self) -> Generator[np.ndarray, None, None]:
        cv2 = opencv()
        found = False
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    break
                refuse_giant(frame.shape[:2], self.source)
                found = True
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()
        if not found:
            raise DataError("has no frame that OpenCV can decode", self.source)


class VideoFile:
    """Writes frames (H, W, 3) uint8 RGB of one size as MP4 (MPEG-4 part 2); the file appears when it is complete.

    Raises:
        DataError: When it cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Add a frame; one of another size is resized to that of the first."""
        cv2 = opencv()
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._size = (frame.shape[1], frame.shape[0])
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.fps, self._size)
            if not self._writer.isOpened():
                raise DataError("OpenCV cannot write this video", self.path)
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(frame, self._size)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
            self._temporary.replace(self.path)


class Smoothing:
    """Exponential moving average of probabilities over the frames of a video.

    Args:
        weight: Weight of the past, from 0 (none) to below 1; a camera that moves fast wants less.
        output: The output ``seg``, which decodes probabilities.

    Raises:
        UsageError: When ``weight`` is out of range.
    """

    def __init__(self, weight: float, output: Any) -> None:
        if not 0 <= weight < 1:
            raise UsageError(f"smoothing must be at least 0 and below 1, not {weight}")
        self.weight, self._output = weight, output
        self._mean: Any = None

    def __call__(self, prediction: Prediction) -> Prediction:
        """Return the prediction of the averaged probabilities."""
        if not self.weight:
            return prediction
        seen: Any = prediction["seg_probabilities"]
        same = self._mean is not None and self._mean.shape == seen.shape
        self._mean = seen + self.weight * (self._mean - seen) if same else seen
        fields = {"seg": self._output.decode(self._mean[None], activated=True), "seg_probabilities": self._mean}
        return type(prediction)({**prediction.fields, **fields}, prediction.meta)


def predict_video(
    predictor: Any,
    source: str | Path | Frames,
    out_dir: str | Path | None = None,
    *,
    formats: Sequence[str] = ("overlays",),
    opacity: float = 0.5,
    smoothing: float = 0,
    frames: int | None = None,
    show: bool = False,
    batch_size: int = 1,
    name: str | None = None,
) -> Iterator[Prediction]:
    """Predict the frames of a video in order.

    Args:
        predictor: The model, a `segkernel.Predictor`.
        source: A video file, or a camera, ``camera:0``.
        out_dir: Folder for the files; None writes nothing.
        formats: ``overlays`` is the video ``vis/NAME.mp4``; other formats as in `predict_images`, their files named by
            the number of the frame, in a folder of the video's name.
        opacity: Opacity of the classes' colours, above 0, at most 1.
        smoothing: Weight of the past in a moving average of probabilities, from 0 (none) to below 1.
        frames: Number of frames, after which it stops; None for all.
        show: Show the overlays in a window; the key q stops.
        batch_size: Largest number of frames that are computed at once; a camera then lags by as many.
        name: Name of the files; that of the source when None.

    Raises:
        DataError: When it cannot be opened or a file not written.
        UsageError: When an argument is out of range.
    """
    video = source if isinstance(source, Frames) else Frames(source)
    called = name or output_names([Path(video.source)])[0]
    folder = Path(out_dir) if out_dir is not None else Path()
    kinds = formats if out_dir is not None else ()
    outputs = Outputs(folder, predictor, [kind for kind in kinds if kind != "overlays"], opacity, {})
    output = predictor.model.outputs["seg"]
    if smoothing and draws_itself(output):
        raise UsageError("smoothing averages the probabilities of pixels, which this model does not predict")
    smooth = Smoothing(smoothing, output)
    drawn = VideoFile(folder / "vis" / relative_path(f"{called}.mp4"), video.fps) if "overlays" in kinds else None
    plain, palette = background_ids(predictor.classes), predictor.palette
    needed = outputs.need_probabilities or smoothing > 0
    with ExitStack() as stack:
        stack.callback(outputs.close)
        write = stack.enter_context(Behind())
        if drawn:
            stack.callback(drawn.close)
            encode = stack.enter_context(Behind(threads=1))  # in order
        numbers = count()
        read = stack.enter_context(closing(iter(video)))
        pixels = stack.enter_context(closing(prefetched(islice(read, frames))))
        prepare = lambda frame: (frame, predictor.prepare(predictor.read(frame), name=called))  # noqa: E731
        loaded = stack.enter_context(closing(mapped(prepare, pixels)))
        for group in grouped(loaded, lambda pair: pair[0].shape, batch_size):
            found = predictor.predict_samples([sample for _, sample in group], probabilities=needed)
            for (frame, _), raw in zip(group, found):
                prediction, number = smooth(raw), next(numbers)
                entry = Predicted(number, f"{called}/{number:06d}", frame, prediction)
                for job in outputs.jobs(entry):
                    write(job)
                if drawn or show:
                    painted = (
                        output.draw(frame, prediction["seg"], predictor.classes, palette, opacity)
                        if draws_itself(output)
                        else overlay(frame, prediction["seg"].numpy(), palette, opacity, plain)
                    )
                if drawn:
                    encode(drawn.write, painted)
                yield prediction
                if show and show_image(painted, called, 1e-3, keep=True) == "q":
                    return
