"""Progress of long work, on stderr and only where someone watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def counting(what: str, kept: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yields ``report(done, kept)``; shows counts and the time."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, found: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("searching")
        yield lambda done, found: bar.update(task, description=f"{done:,} {what}, {found:,} {kept}")
