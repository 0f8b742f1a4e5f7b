"""What a person sees while a flow runs: one bar a step, and a line when it is done."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str, indent: int = 0, first: str = "") -> None:
    """Print `first` and a text; on a terminal, or where COLUMNS says a width, folded at words and indented.

    Intervals and commands stay whole. Where the output goes elsewhere, a line stays a line: it is searched, not read.
    """
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        print(first + text)
        return
    # A space that textwrap does not fold at, within brackets and commands and before a per cent sign.
    held = re.sub(r"\[[^\[\]]*\]|`[^`]*`|\d %", lambda found: found[0].replace(" ", "\xa0"), text)
    width = max(shutil.get_terminal_size().columns, indent + 40)
    lines = textwrap.wrap(held, width, initial_indent=first, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines).replace("\xa0", " ") if lines else first)


@contextmanager
def watching(title: str) -> Iterator[None]:
    """Show the steps of the flows that run inside; plain lines where the output is not a terminal."""
    from flows.settings import embedded

    began = time.monotonic()
    with embedded(), showing(title, began):
        yield


@contextmanager
def showing(title: str, began: float | None = None) -> Iterator[None]:
    """Show the steps that run inside, where no flow runs; times count from `began` (time.monotonic), without it from now."""
    from tasks import progress

    show = _Bars(title) if sys.stderr.isatty() else _Lines(title, time.monotonic() if began is None else began)
    progress.listen(show.update)
    try:
        with show:
            yield
    finally:
        progress.listen(None)


class _Lines:
    """A line at the end of each step, and one every ten seconds for a long one."""

    def __init__(self, title: str, began: float) -> None:
        self.began = began
        self.told: dict[str, float] = {}
        self.lock = threading.Lock()
        self._say(title)

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...

    def update(self, step: str, what: str, share: float) -> None:
        now = time.monotonic()
        with self.lock:
            if share >= 1.0:
                self._say(f"{step}: {what}")
            elif now - self.told.setdefault(step, now) > 10:
                self.told[step] = now
                self._say(f"{step}: {what} ({share:.0%})")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", file=sys.stderr, flush=True)


class _Bars:
    """rich bars of the steps that run now, over a line for each that is done."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        console.print(f"[bold]{title}[/bold]")
        self.progress = Progress(
            TextColumn("{task.fields[name]:>22}"), BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self.tasks: dict[str, int] = {}
        self.began: dict[str, float] = {}
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *exc: object) -> None:
        self.progress.stop()

    def update(self, step: str, what: str, share: float) -> None:
        with self.lock:
            if step not in self.tasks:
                self.began[step] = time.monotonic()
                self.tasks[step] = self.progress.add_task(what, total=1.0, name=step)
            self.progress.update(self.tasks[step], completed=share, description=what)  # type: ignore[arg-type]
            if share >= 1.0:
                self.progress.remove_task(self.tasks.pop(step))  # type: ignore[arg-type]
                took = time.monotonic() - self.began.pop(step)
                self.progress.console.print(f"{step:>22}  {what} [dim]{took:.1f} s[/dim]")
