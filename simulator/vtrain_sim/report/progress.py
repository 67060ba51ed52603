"""Progress of long work, on stderr and only where someone watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


@contextmanager
def counting(what: str, selected: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yields ``report(done, selected)``; shows both counts, with these words, and the time."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, count: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("searching")
        yield lambda done, count: bar.update(task, description=f"{done:,} {what}, {count:,} {selected}")


@contextmanager
def reading(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields ``report(done, total)`` in bytes; shows a bar, the bytes and their rate."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
