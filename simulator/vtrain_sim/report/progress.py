"""Progress of long work, on stderr and only where someone watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

# Work that is done before has no bar: it would only flicker.
_PATIENCE_S = 1.0
# The time that is left follows from what was done in so many seconds: one step of long work may take minutes.
_PERIOD_S = 3600.0


@contextmanager
def counting(what: str, selected: str, quiet: bool = False) -> Iterator[Callable[[int, int, float], None]]:
    """Yields ``report(done, selected, share)``; shows both counts, with these words, and the time that is left."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), *_times())
    with _late(columns, quiet) as update:
        yield lambda done, count, share: update(f"{done:,} {what}, {count:,} {selected}", share, 1.0)


@contextmanager
def reading(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yields ``report(done, total)`` in bytes; shows a bar, the bytes and their rate."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _late(columns, quiet) as update:
        yield lambda done, total: update(what, done, total)


def _times() -> tuple[ProgressColumn, ...]:
    return TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()


@contextmanager
def _late(columns: tuple[ProgressColumn, ...], quiet: bool) -> Iterator[Callable[[str, float, float], None]]:
    """Yields ``update(description, done, total)`` of a bar that begins after a second, on a terminal alone."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda description, done, total: None
        return
    bar = Progress(*columns, console=console, transient=True, speed_estimate_period=_PERIOD_S)
    task = bar.add_task("", total=None)
    began = time.monotonic()

    def update(description: str, done: float, total: float) -> None:
        if time.monotonic() - began >= _PATIENCE_S:
            bar.start()
        bar.update(task, description=description, completed=done, total=total)

    try:
        yield update
    finally:
        bar.stop()
