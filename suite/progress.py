"""Progress on the terminal: a bar with the time left, or plain lines where there is no terminal."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_A_LINE = 15.0


class Bars:
    """A `Watch` that shows one bar a piece of work on stderr; use it as a context."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
        self.progress = Progress(*columns, console=self.console)
        self.tasks: dict[str, TaskID] = {}
        self.begun, self.done, self.said, self.first = "", 0, time.monotonic(), (0.0, 0)

    def __enter__(self) -> "Bars":
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.progress.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show that of `what`, `done` of `total` images are done."""
        if self.console.is_terminal:
            self._bar(what, done, total, note)
        else:
            self._line(what, done, total, note)

    def _bar(self, what: str, done: int, total: int, note: str) -> None:
        if what not in self.tasks or self.progress.tasks[self.tasks[what]].finished:
            self.tasks[what] = self.progress.add_task(what, total=total, note="")
        self.progress.update(self.tasks[what], completed=done, total=total, note=note)

    def _line(self, what: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if what != self.begun or done < self.done:
            self.begun, self.said, self.first = what, now, (now, done)
        elif now - self.said >= SECONDS_A_LINE or done >= total:
            self.said = now
            started, before = self.first
            left = (now - started) * (total - done) / max(done - before, 1)
            print(f"{what}: {done:,} of {total:,} images, {left:.0f} s left  {note}", file=sys.stderr, flush=True)
        self.done = done
