"""`PicturesHook`: writes predictions as overlays, next to the ground truth, and those of a test as label files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt, Probability
from segkernel.files import relative_path
from segkernel.hookspecs import Priority, hookimpl
from segplug_datasets.label_files import write_labels
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.visualize import draw, draws_itself

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.sample import Prediction, Targets


class PicturesHook:
    """Draw predictions of the test set, and of the validation set on request.

    Args:
        count: Maximum number of images whose overlays are written to ``pictures/`` in the run directory.
        show_dir: Folder for overlays of all images.
        labels_dir: Folder for label PNGs of all images, with the data set's own values.
        show: Show each overlay in a window.
        wait_time: Seconds a window stays open; 0 waits for a key.
        opacity: Opacity of the colours over the image, in (0, 1].
        interval: The first and then every ``interval``-th image of the set is one of ``count``.
        validation: Also draw the images of each validation, into ``pictures/val_N/`` for iteration N.
    """

    priority = Priority.BELOW_NORMAL

    def __init__(
        self,
        count: NonNegativeInt = 8,
        show_dir: str | Path | None = None,
        labels_dir: str | Path | None = None,
        show: bool = False,
        wait_time: NonNegative = 0,
        opacity: Probability = 0.5,
        interval: PositiveInt = 1,
        validation: bool = False,
    ) -> None:
        self.count, self.interval, self.opacity, self.validation = count, interval, opacity, validation
        self.show_dir, self.labels_dir = show_dir, labels_dir
        self.show, self.wait_time = show, wait_time
        self._seen = 0

    @hookimpl
    def before_validation(self) -> None:
        self._seen = 0

    @hookimpl
    def before_test(self) -> None:
        self._seen = 0

    @hookimpl
    def after_prediction(self, run: Run, prediction: Prediction, target: Targets) -> None:
        from segkernel.interfaces.model import PixelMap

        output = run.model.outputs["seg"]
        if not isinstance(output, PixelMap) and not draws_itself(output):
            return
        folder = run.work_dir / "pictures"
        if run.mode == "test":
            self._write(run, prediction, target)
        elif self.validation:
            folder /= f"val_{run.iteration:07d}"
        else:
            return
        number, rest = divmod(self._seen, self.interval)
        self._seen += 1
        if rest == 0 and number < self.count:
            self._draw(run, prediction, target, _file(folder, str(prediction.meta["name"])))

    def _write(self, run: Run, prediction: Prediction, target: Targets) -> None:
        """Write or show what is wanted of every image of the test set."""
        name = str(prediction.meta["name"])
        if self.labels_dir is not None and not draws_itself(run.model.outputs["seg"]):
            found = prediction.labels.cpu().numpy()
            labels = found if found.dtype.kind == "f" else LabelSpec.of(run.labels).decode(found)
            write_labels(self.labels_dir, name, labels, run.labels.classes)
        if self.show_dir is not None or self.show:
            self._draw(run, prediction, target, self.show_dir and _file(self.show_dir, name))

    def _draw(self, run: Run, prediction: Prediction, target: Targets, path: str | Path | None) -> None:
        part = run.test_set if run.mode == "test" else run.val_set
        sample = part.dataset[prediction.meta["index"]]  # type: ignore[union-attr]
        output = run.model.outputs["seg"]
        draw(
            sample.image,
            prediction,
            truth=(target if target.fields else None) if draws_itself(output) else target.get("seg"),
            classes=run.labels.classes,
            palette=run.labels.palette,
            opacity=self.opacity,
            title=str(prediction.meta["name"]),
            out_file=path or None,
            show=self.show and path is None,
            wait_time=self.wait_time,
            output=output,
        )


def _file(folder: str | Path, name: str) -> Path:
    return Path(folder) / relative_path(f"{name}.png")
