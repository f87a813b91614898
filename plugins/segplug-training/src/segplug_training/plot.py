"""``seg-kernel plot``: plots the curves of one or several runs from their ``metrics.jsonl``.

seg-kernel plot work_dirs/a/20261121_120000 work_dirs/b/20261121_130000 --keys 'loss,IoU.*' --out curves.png
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.errors import DataError, SegKernelError, UsageError, did_you_mean, suggest
from segplug_training.mmsegmentation_logs import find_log, read_log
from segplug_training.progress import is_of_one_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG = "metrics.jsonl"
KINDS = ("train", "val", "test")
NOT_METRICS = ("kind", "iteration")
STYLES = {"train": "-", "val": "--", "test": ":"}
MARKS = "os^vDPX*"


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", help="Run directories, which are drawn together.")
@click.option("--keys", metavar="GLOB,...", help="Keys to plot, one panel each; default: loss, lr and the metrics.")
@click.option("--legend", metavar="NAMES", help="Names of the runs, separated by commas.")
@click.option(
    "--smooth", type=click.FloatRange(0, 1, max_open=True), default=0, help="Weight of the past in a moving average."
)
@click.option("--style", metavar="NAME", help="Style of matplotlib, such as ggplot.")
@click.option("--backend", metavar="NAME", help="Backend of matplotlib that opens the window, such as tkagg.")
@click.option("--out", metavar="FILE", help="File to write; default: curves.png in RUN, or here for several.")
@click.option("--show", is_flag=True, help="Show a window; writes a file only when --out is given as well.")
def command(
    runs: tuple[str, ...],
    keys: str | None,
    legend: str | None,
    smooth: float,
    style: str | None,
    backend: str | None,
    out: str | None,
    show: bool,
) -> None:
    """Plot loss, learning rate and metric curves of runs.

    RUN is a run directory or a metrics.jsonl, or a work directory or JSON log of MMSegmentation. Keys are those of the
    log's lines, "loss", "lr", "mIoU", "IoU.road", and may be globs; "val.loss" is the validation loss alone. With
    --smooth 0.9, lines of training are exponential moving averages, and the values stand behind them in a lighter
    colour.

    \b
    Examples:
      seg-kernel plot work_dirs/NAME/TIME
      seg-kernel plot RUN RUN --keys 'loss,IoU.*' --legend old,new --smooth 0.9
    """
    curves = [read_curves(run) for run in runs]
    for curve, name in zip(curves, _names(curves, _split(legend))):
        curve.name = name
    patterns = _split(keys) or default_keys(curves)
    with styled(style):
        figure = draw_curves(curves, patterns, show, backend, smooth)
        if out or not show:
            path = Path(out) if out else (curves[0].folder if len(curves) == 1 else Path()) / "curves.png"
            write_figure(figure, path)
            click.echo(f"wrote {path}")
        if show:
            _show()


# ---------------------------------------------------------------- reading


@dataclass
class Curves:
    """The log of one run: ``points[kind, key]`` is a list of (iteration, value)."""

    name: str
    folder: Path
    points: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)

    def matching(self, pattern: str) -> list[tuple[str, str]]:
        """Return the (kind, key) pairs that match a glob such as ``mIoU``, ``IoU.*`` or ``val.loss``."""
        return [(kind, key) for kind, key in self.points if _matches(pattern, kind, key)]


def read_curves(run: str | Path) -> Curves:
    """Read a run directory or a ``metrics.jsonl``, or a work directory or a JSON log of MMSegmentation.

    Raises:
        UsageError: When the run does not exist.
        DataError: When the file has no metrics, or a line cannot be read (the last may be incomplete).
    """
    folder = Path(run)
    path = folder / LOG if folder.is_dir() else folder
    theirs = find_log(folder) if folder.is_dir() and not path.is_file() else path if path.suffix == ".json" else None
    path = theirs or path
    if not path.is_file():
        raise UsageError(_no_run(folder))
    curves = Curves(str(run), folder if folder.is_dir() else path.parent)
    for record in read_log(path) if theirs else _records(path):
        for key, value in record.items():
            if key not in NOT_METRICS and isinstance(value, int | float):
                curves.points.setdefault((record["kind"], key), []).append((record["iteration"], value))
    if not curves.points:
        raise DataError("no metrics yet: the run has not reached its first log interval", path)
    return curves


def _records(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        yield _record(line, path, number, last=number == len(lines))


def _no_run(run: Path) -> str:
    if not run.exists():
        siblings = [entry.name for entry in run.parent.iterdir()] if run.parent.is_dir() else []
        near = did_you_mean(run.name, siblings)
        hint = f"did you mean {run.parent / near[0]}?" if near else "a run is a directory such as work_dirs/NAME/TIME"
        return f"{run}: no such run\n    {hint}"
    inside = sorted(run.glob(f"*/{LOG}"))
    hint = f"did you mean {inside[-1].parent}?" if inside else "is it a run directory? a log is written in training"
    return f"{run}: no {LOG} in it\n    {hint}"


def _record(line: str, path: Path, number: int, last: bool) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if not isinstance(record["kind"], str) or not isinstance(record["iteration"], int):
            raise ValueError("needs a kind and an iteration")
    except (ValueError, KeyError, TypeError) as error:
        if last:  # a killed run may leave its last line incomplete
            return {}
        raise DataError(f"line {number} is not a line of a run's log: {error!r}", path) from None
    return record


def _matches(pattern: str, kind: str, key: str) -> bool:
    return fnmatchcase(key, pattern) or fnmatchcase(f"{kind}.{key}", pattern)


# ---------------------------------------------------------------- drawing


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _names(curves: Sequence[Curves], legend: list[str]) -> list[str]:
    if legend and len(legend) != len(curves):
        raise UsageError(f"--legend names {len(legend)} runs, but there are {len(curves)}: {', '.join(legend)}")
    if legend:
        return legend
    # Common parts of the paths are dropped: work_dirs/a/1 and work_dirs/b/2 become a/1 and b/2.
    folders = [str(curve.folder.resolve()) for curve in curves]
    if len(set(folders)) == 1:
        return [Path(curve.name).name for curve in curves]
    common = os.path.commonpath(folders)
    return [os.path.relpath(folder, common) for folder in folders]


def default_keys(curves: Sequence[Curves]) -> list[str]:
    """Return loss, lr and the validation or test metrics, if any run has them; of a single run also the IoU of classes.

    The lines of all classes share a panel, ``val.IoU.*``.
    """
    keys = dict.fromkeys(key for curve in curves for kind, key in curve.points if kind in KINDS[1:])
    means = [key for key in keys if not is_of_one_class(key, keys)]
    keys_in_order = ["loss", "lr", *(key for key in means if "loss" not in key)]
    if len(curves) == 1:
        heads = dict.fromkeys(key[: match.end()] for key in keys if (match := re.match(r"(.*\.)?IoU\.", key)))
        kind = next((kind for kind in KINDS[1:] if any(curves[0].matching(f"{kind}.{head}*") for head in heads)), "")
        keys_in_order += [f"{kind}.{head}*" for head in heads]
    return [key for key in keys_in_order if any(curve.matching(key) for curve in curves)]


def draw_curves(
    curves: Sequence[Curves],
    patterns: Sequence[str],
    show: bool = False,
    backend: str | None = None,
    smooth: float = 0,
) -> Figure:
    """Return a figure with one panel per pattern and one line per run, kind and key.

    Lines of training are smoothed, see `smoothed`, with the weight ``smooth``.

    Raises:
        UsageError: When a pattern matches nothing in any run, or as `new_figure`.
        NoMatplotlib: When matplotlib is not installed.
    """
    numbered = list(enumerate(curves))
    panels = {
        each: [(run, curve, *pair) for run, curve in numbered for pair in curve.matching(each)] for each in patterns
    }
    for pattern, lines in panels.items():
        if not lines:
            raise UsageError(_no_key(pattern, curves))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure((5.5 * columns, 3.8 * rows), show, backend)
    for place, (pattern, lines) in enumerate(panels.items(), 1):
        _panel(figure.add_subplot(rows, columns, place), pattern, lines, len(curves) > 1, smooth)
    return figure


def _no_key(pattern: str, curves: Iterable[Curves]) -> str:
    known = sorted({key for curve in curves for _, key in curve.points})
    near = did_you_mean(pattern.split(".", 1)[1] if pattern.split(".")[0] in KINDS else pattern, known)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(known)}"
    return f"no key of these runs matches {pattern!r}\n    {hint}"


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Return the exponential moving average of values, each mean over those until then, without a bias to zero.

    Args:
        values: The values; NaN and infinite ones are left out of the average.
        weight: Weight of the past, from 0 (the values themselves) to below 1.
    """
    total = norm = 0.0
    means = []
    for value in values:
        if math.isfinite(value):
            total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        means.append(total / norm if norm else value)
    return means


def _panel(
    axes: Axes, pattern: str, lines: Sequence[tuple[int, Curves, str, str]], several: bool, smooth: float
) -> None:
    """Draw lines: runs differ in colour and their keys in markers; keys of a single run differ in colour."""
    keys = list(dict.fromkeys(line[3] for line in lines))
    many_kinds, many_keys = len({line[2] for line in lines}) > 1, len(keys) > 1
    for run, curve, kind, key in lines:
        label = (
            [curve.name] * several + [key] * many_keys + [f"({kind})" if several or many_keys else kind] * many_kinds
        )
        points = curve.points[kind, key]
        number = keys.index(key)
        mark = MARKS[number % len(MARKS)] if several and many_keys else ""
        color = f"C{run}" if several else _color(number, len(keys))
        places, values = zip(*points)
        if smooth and kind == "train":
            axes.plot(places, values, color=color, linewidth=0.8, alpha=0.3)
            values = tuple(smoothed(values, smooth))
        axes.plot(
            places,
            values,
            STYLES.get(kind, "-"),
            color=color,
            marker=mark or ("o" if len(points) == 1 else ""),  # a line of one point would be invisible
            markevery=max(len(points) // 10, 1),
            label=" ".join(label) or None,
            linewidth=1.3,
        )
    axes.set(title=pattern, xlabel="iteration")
    axes.grid(alpha=0.3)
    if several or many_kinds or many_keys:
        axes.legend(fontsize="small" if len(lines) <= 10 else "xx-small", ncols=-(-len(lines) // 20))


def _color(number: int, count: int) -> Any:
    """Return the colour of a line of several; the default ones are ten."""
    if count <= 10:
        return f"C{number}"
    from matplotlib import colormaps

    return colormaps["turbo"](number / (count - 1))


# ---------------------------------------------------------------- matplotlib


class NoMatplotlib(SegKernelError):
    """matplotlib, of the extra ``plot``, is not installed."""

    exit_code = 3

    def __init__(self, error: ImportError) -> None:
        super().__init__(f"drawing needs matplotlib: {error}\n    pip install 'segplug-training[plot]'")


@contextmanager
def styled(style: str | None) -> Iterator[None]:
    """Draw with a style of matplotlib inside the block; None is the default one.

    Raises:
        UsageError: When there is no such style.
        NoMatplotlib: When it is not installed.
    """
    if style is None:
        yield
        return
    try:
        from matplotlib import style as styles
    except ImportError as error:
        raise NoMatplotlib(error) from error
    if style not in styles.available:
        raise UsageError(f"--style: matplotlib has no style {style!r}; {suggest(style, styles.available)}")
    with styles.context(style):
        yield


def new_figure(size: tuple[float, float], show: bool = False, backend: str | None = None) -> Figure:
    """Return an empty figure, its size in inches; one to ``show`` has a window, of matplotlib's ``backend``.

    Raises:
        UsageError: When there is no display, or matplotlib has no such backend.
        NoMatplotlib: When it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoMatplotlib(error) from error
    if not show:
        return Figure(figsize=size, layout="constrained")
    import matplotlib
    from matplotlib import pyplot

    try:
        if backend is not None:
            pyplot.switch_backend(backend)
        figure = pyplot.figure(figsize=size, layout="constrained")
    except (ImportError, ValueError) as error:  # without a toolkit or a display, or an unknown name
        raise UsageError(f"--backend {backend}: {error}\n    write a file instead: --out curves.png") from error
    if matplotlib.get_backend().lower() == "agg":
        raise UsageError("there is no display to show curves on\n    write a file instead: --out curves.png")
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure, in the format of the file's suffix.

    Raises:
        UsageError: When matplotlib does not support the format.
        DataError: When the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except ValueError as error:  # matplotlib's message lists the formats
        raise UsageError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", path) from error


def _show() -> None:
    from matplotlib import pyplot

    pyplot.show()
