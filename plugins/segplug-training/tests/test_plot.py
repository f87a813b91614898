"""``seg-kernel plot``: plots and error messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segkernel.errors import DataError, SegKernelError, UsageError
from segplug_training.plot import NoMatplotlib, command, default_keys, draw_curves, read_curves, smoothed

LINES = [
    {"kind": "train", "iteration": 10, "epoch": 0.5, "lr": 0.01, "loss": 1.2, "decode.loss_ce": 1.2},
    {"kind": "train", "iteration": 20, "epoch": 1.0, "lr": 0.02, "loss": None, "decode.loss_ce": 0.9},
    {"kind": "val", "iteration": 20, "mIoU": 47.9, "IoU.road": 80.0, "IoU.car": 20.0, "loss": 0.8},
    {"kind": "test", "iteration": 20, "mIoU": 45.0, "IoU.road": 79.0, "IoU.car": 18.0},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "work_dirs" / "a" / "20261121_120000", LINES)


def write(folder: Path, lines: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_run_is_plotted_into_its_directory(run: Path) -> None:
    result = call(run)
    assert result.exit_code == 0, result.output
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert str(run / "curves.png") in result.output


def test_out_names_the_file_and_its_format(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "curves.svg"
    assert call(run, "--out", out).exit_code == 0
    assert "<svg" in out.read_text()


def test_lines_of_training_are_smoothed_over_their_values(tmp_path: Path) -> None:
    lines = [{"kind": "train", "iteration": n, "loss": float(n % 2)} for n in range(1, 41)]
    run = read_curves(write(tmp_path / "run", [*lines, {"kind": "val", "iteration": 40, "loss": 0.7}]))
    (axes,) = draw_curves([run], ["loss"], smooth=0.9).axes
    raw, mean, validation = (line.get_ydata() for line in axes.get_lines())
    assert list(raw) == [line["loss"] for line in lines]
    assert 0.4 < min(mean[20:]) < max(mean[20:]) < 0.6
    assert list(validation) == [0.7]


def test_a_moving_average_has_no_bias_and_leaves_out_what_is_not_finite() -> None:
    assert smoothed([3.0, 3.0, float("nan"), 3.0], 0.9) == pytest.approx([3.0] * 4)
    assert smoothed([1.0, 0.0], 0.5) == pytest.approx([1.0, 1 / 3])
    assert smoothed([1.0, 2.0], 0) == [1.0, 2.0]


def test_a_style_of_matplotlib_is_used_and_an_unknown_one_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "curves.svg"
    assert call(run, "--keys", "loss", "--style", "ggplot", "--out", out).exit_code == 0
    assert "fill: #e5e5e5" in out.read_text(), "the background is grey"
    error = call(run, "--style", "gplot").exception
    assert isinstance(error, UsageError)
    assert "did you mean 'ggplot'" in str(error)


def test_a_log_file_can_replace_its_directory(run: Path) -> None:
    assert read_curves(run / "metrics.jsonl").points == read_curves(run).points


def test_null_values_are_gaps(run: Path) -> None:
    curves = read_curves(run)
    assert curves.points["train", "loss"] == [(10, 1.2)]
    assert curves.points["train", "lr"] == [(10, 0.01), (20, 0.02)]


def test_the_default_is_loss_rate_metrics_and_the_iou_of_classes(run: Path) -> None:
    assert default_keys([read_curves(run)]) == ["loss", "lr", "mIoU", "val.IoU.*"]
    more = {
        "kind": "val",
        "iteration": 30,
        "ECE": 4.0,
        "mECE": 1.0,
        "ECE.road": 2.0,
        "wall.mIoU": 3.0,
        "wall.IoU.a": 1.0,
    }
    write(run.parent / "more", [*LINES, more])
    means = ["loss", "lr", "mIoU", "ECE", "mECE", "wall.mIoU"]
    curves = read_curves(run.parent / "more")
    assert default_keys([curves]) == [*means, "val.IoU.*", "val.wall.IoU.*"]
    assert default_keys([curves, curves]) == means


def test_the_classes_of_a_run_have_a_colour_each(run: Path) -> None:
    lines = [{"kind": "val", "iteration": 5, **{f"IoU.{number}": 1.0 for number in range(30)}}]
    (axes,) = draw_curves([read_curves(write(run.parent / "many", lines))], ["val.IoU.*"]).axes
    assert len({str(line.get_color()) for line in axes.get_lines()}) == 30


def test_a_key_without_kind_means_all_kinds(run: Path) -> None:
    curves = read_curves(run)
    assert curves.matching("loss") == [("train", "loss"), ("val", "loss")]
    assert curves.matching("val.loss") == [("val", "loss")]
    assert curves.matching("val.IoU.*") == [("val", "IoU.road"), ("val", "IoU.car")]


def test_each_pattern_gets_a_panel_with_a_line_per_run_kind_and_key(run: Path) -> None:
    first, second = read_curves(run), read_curves(run)
    first.name, second.name = "first", "second"
    panels = draw_curves([first, second], ["lr", "IoU.*"]).axes
    assert [axes.get_title() for axes in panels] == ["lr", "IoU.*"]
    assert labels(panels[0]) == ["first", "second"]
    assert labels(panels[1])[:2] == ["first IoU.road (val)", "first IoU.car (val)"]
    assert len(panels[1].lines) == 8


def colors(axes: object) -> list[str]:
    return [line.get_color() for line in axes.lines]  # type: ignore[attr-defined]


def test_a_run_keeps_its_colour_from_panel_to_panel(run: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", [{"kind": "val", "iteration": 20, "mIoU": 40.0, "IoU.road": 70.0}])
    curves = [read_curves(other), read_curves(run)]
    loss, mean, classes = draw_curves(curves, ["loss", "mIoU", "IoU.*"]).axes
    assert colors(loss) == ["C1", "C1"]  # the first run has none
    assert colors(mean) == ["C0", "C1", "C1"]
    assert colors(classes) == ["C0", *["C1"] * 4]
    assert [line.get_marker() for line in classes.lines] == ["o", "o", "s", "o", "s"]


def test_of_one_run_kinds_share_a_colour_and_keys_do_not(run: Path) -> None:
    loss, classes = draw_curves([read_curves(run)], ["loss", "val.IoU.*"]).axes
    assert colors(loss) == ["C0", "C0"]
    assert [line.get_linestyle() for line in loss.lines] == ["-", "--"]
    assert colors(classes) == ["C0", "C1"]


def labels(axes: object) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[attr-defined]


def test_runs_are_named_by_their_differences(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write(tmp_path / "work_dirs" / "b" / "1", LINES)
    seen: list[str] = []
    monkeypatch.setattr("segplug_training.plot.draw_curves", lambda curves, *_: seen.extend(c.name for c in curves))
    call(run, other)
    assert seen == [str(Path("a", "20261121_120000")), str(Path("b", "1"))]


def test_the_legend_must_name_every_run(run: Path) -> None:
    assert isinstance(call(run, run, "--legend", "one").exception, UsageError)
    assert call(run, run, "--legend", "one,two", "--out", run / "two.png").exit_code == 0


def test_a_run_cut_short_while_writing_is_read(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "itera')
    assert read_curves(run).points["val", "mIoU"] == [(20, 47.9)]


@pytest.mark.parametrize("line", ["rubbish", "[1]", '{"kind": "train"}', '{"kind": 3, "iteration": 1}'])
def test_a_broken_line_is_named(run: Path, line: str) -> None:
    path = run / "metrics.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(DataError, match="line 1 ") as error:
        read_curves(run)
    assert error.value.path == str(path)


def test_an_empty_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no metrics yet"):
        read_curves(write(tmp_path / "empty", []))


def test_a_misspelt_run_is_suggested(run: Path) -> None:
    with pytest.raises(UsageError, match=f"did you mean .*{run.name}"):
        read_curves(run.with_name("20261121_120001"))


def test_the_parent_of_runs_suggests_the_newest(run: Path) -> None:
    with pytest.raises(UsageError, match=f"did you mean .*{run.name}"):
        read_curves(run.parent)


def test_a_misspelt_key_is_suggested(run: Path) -> None:
    error = call(run, "--keys", "mIou").exception
    assert isinstance(error, UsageError)
    assert "did you mean 'mIoU'" in str(error)


def test_an_unknown_format_lists_the_known_ones(run: Path) -> None:
    error = call(run, "--out", run / "curves.xyz").exception
    assert isinstance(error, UsageError)
    assert "png" in str(error)


def test_a_file_that_cannot_be_written_is_named(run: Path) -> None:
    error = call(run, "--out", run / "metrics.jsonl" / "curves.png").exception
    assert isinstance(error, DataError)


def test_show_without_a_display_explains_what_to_do(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    error = call(run, "--show").exception
    assert isinstance(error, UsageError)
    assert "--out" in str(error)


@pytest.mark.parametrize(("backend", "said"), [("tkag", "--backend tkag"), ("template", None)])
def test_a_backend_opens_the_window(run: Path, monkeypatch: pytest.MonkeyPatch, backend: str, said: str | None) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    result = call(run, "--show", "--backend", backend)
    assert (said in str(result.exception)) if said else result.exit_code == 0


def test_without_matplotlib_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    error = call(run).exception
    assert isinstance(error, NoMatplotlib)
    assert isinstance(error, SegKernelError)
    assert error.exit_code == 3
    assert "pip install 'segplug-training[plot]'" in str(error)


# ---------------------------------------------------------------- logs of MMSegmentation


def lines_of(folder: Path, name: str, lines: list[dict[str, object]]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"mode": "tra')
    return path


OF_0X: list[dict[str, object]] = [
    {"env_info": "sys.platform: linux", "seed": 0},
    {"mode": "train", "epoch": 1, "iter": 50, "lr": 0.01, "decode.loss_ce": 2.0, "loss": 2.5, "memory": 9},
    {"mode": "train", "epoch": 1, "iter": 100, "lr": 0.009, "decode.loss_ce": 1.0, "loss": 1.5},
    {"mode": "val", "epoch": 1, "iter": 500, "lr": 0.009, "aAcc": 0.9, "mIoU": 0.45, "mAcc": 0.5, "IoU.road": 0.95},
]
OF_1X: list[dict[str, object]] = [
    {"lr": 0.01, "loss": 2.5, "decode.loss_ce": 2.0, "iter": 50, "step": 50, "time": 0.5},
    {"lr": 0.009, "loss": 1.5, "decode.loss_ce": 1.0, "iter": 100, "step": 100},
    {"aAcc": 90.0, "mIoU": 45.0, "mAcc": 50.0, "data_time": 0.1, "step": 100},
]


def test_logs_of_both_versions_of_mmsegmentation_have_our_names_and_units(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    lines_of(old, "20210101_000000.log.json", OF_0X)
    lines_of(new, "20230101_000000/vis_data/scalars.json", OF_1X)
    for curves in map(read_curves, (old, new)):
        assert curves.points["train", "loss"] == [(50, 2.5), (100, 1.5)]
        assert curves.points["train", "lr"] == [(50, 0.01), (100, 0.009)]
        assert curves.points["val", "mIoU"] == [(100, 45.0)]
        assert curves.points["val", "aAcc"] == [(100, 90.0)]
    assert read_curves(old).points["val", "IoU.road"] == [(100, 95.0)]


def test_epochs_of_mmsegmentation_become_iterations(tmp_path: Path) -> None:
    train = [{"mode": "train", "epoch": 1 + i // 2, "iter": 50 * (1 + i % 2), "loss": 1.0} for i in range(4)]
    old = lines_of(tmp_path, "a.log.json", [*train, {"mode": "val", "epoch": 2, "iter": 9, "mIoU": 0.5}])
    assert read_curves(old).points["train", "loss"] == [(n, 1.0) for n in (50, 100, 150, 200)]
    assert read_curves(old).points["val", "mIoU"] == [(200, 50.0)]
    lines = [{"loss": 1.0, "epoch": 1, "iter": 70, "step": 70}, {"mIoU": 50.0, "step": 1}]
    assert read_curves(lines_of(tmp_path, "scalars.json", lines)).points["val", "mIoU"] == [(70, 50.0)]


def test_a_log_of_mmsegmentation_is_plotted_beside_a_run(run: Path, tmp_path: Path) -> None:
    theirs = lines_of(tmp_path / "theirs", "1/vis_data/scalars.json", OF_1X).parents[2]
    assert call(run, theirs, "--keys", "loss,mIoU", "--out", tmp_path / "both.png").exit_code == 0
    assert (tmp_path / "both.png").is_file()


@pytest.mark.parametrize(("text", "said"), [("{}\n[1]\n", "no line has a mode"), ("{\n{}\n", "line 1 is not JSON")])
def test_a_file_that_is_no_log_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_curves(tmp_path / "a.json")
