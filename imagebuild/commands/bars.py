"""The live part of a terminal's progress, drawn by rich. Loaded where something is drawn, in the main thread."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from imagebuild.progress import Step

_NARROW = 50  # columns; fewer have room for the numbers alone


class Bars:
    """One line at the bottom of the terminal: a bar with bytes and rate, or a spinner with the seconds since the last line."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        numbers = TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        words = TextColumn("{task.description}", markup=False, style="dim", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        columns: list[ProgressColumn] = [SpinnerColumn("line"), numbers]
        if self._console.width >= _NARROW:
            columns[1:1] = [words, BarColumn(20)]
        self._progress = Progress(
            *columns, console=self._console, auto_refresh=False, transient=True, expand=True, redirect_stdout=False, redirect_stderr=False
        )
        self._task: TaskID | None = None
        self._shown: Step | None = None
        self._is_drawn = False
        # Once here, unseen: what rich loads when it first measures and draws, it loads in the main thread.
        task = self._progress.add_task("", total=1, numbers="0 B of 1 B \N{HORIZONTAL ELLIPSIS}")
        self._console.render_lines(self._progress.get_renderable())
        self._progress.remove_task(task)

    def draw(self, step: Step | None, line: str, seconds: float) -> None:
        """Draw ``step``, or that ``line`` was ``seconds`` ago."""
        words, numbers, total, done = line, f"{seconds:.0f} s", None, 0
        if step is not None:
            words = step.line
            if step.total:
                numbers, total, done = step.describe(), step.total, min(step.done, step.total)
        if self._task is not None and step is not self._shown:
            self._progress.remove_task(self._task)
            self._task = None
        if self._task is None:
            self._task = self._progress.add_task(words, total=total, completed=done, numbers=numbers)
            self._shown = step
        self._progress.update(self._task, completed=done, total=total, numbers=numbers)
        if not self._is_drawn:
            self._is_drawn = True
            self._progress.start()
        self._progress.refresh()

    def hide(self) -> None:
        """Take away what is drawn; the cursor is shown again."""
        if self._is_drawn:
            self._is_drawn = False
            self._progress.stop()
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
