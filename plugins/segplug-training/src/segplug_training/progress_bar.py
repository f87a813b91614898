"""`ProgressBarHook`: a live bar in a terminal, in place of the lines of the kernel's `ProgressHook`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from segkernel.annotations import PositiveInt
from segkernel.hooks.records import ProgressHook
from segkernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class ProgressBarHook(ProgressHook):
    """Show training as one line that moves with every record, and is gone at the end.

    Args:
        interval: Iterations between two lines where there is no bar.
        live: Whether there is one; None decides by whether standard error is a terminal.
    """

    def __init__(self, interval: PositiveInt = 50, live: bool | None = None) -> None:
        super().__init__(interval)
        self.live = live
        self._bar: Any = None
        self._task: Any = None

    @hookimpl
    def before_train(self, run: Run) -> None:
        if run.is_main and (sys.stderr.isatty() if self.live is None else self.live):
            self._open(run)

    @hookimpl
    def after_train(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, run: Run, text: str) -> None:
        if self._bar is None:
            super().show(run, text)
        else:
            self._bar.update(self._task, completed=run.iteration, text=text)

    def _open(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=False, overflow="fold"))
        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), text)
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("train", total=run.max_iterations, completed=run.iteration, text="")
        self._bar.start()
