"""A progress bar on stderr; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Called with a word on what is done next.
Tell: TypeAlias = Callable[[str], None]


@contextmanager
def progress(total: int, shown: bool = True) -> Iterator[Tell]:
    """Yields what is called before each of `total` pieces of work. The bar goes when all is done.

    shown: False on ranks that leave it to another.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    visible = shown and sys.stderr.isatty()
    console = Console(stderr=True)
    # Drawn between pieces only: a thread that draws would take its time from what is measured.
    with Progress(*columns, *times, console=console, transient=True, auto_refresh=False, disable=not visible) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def tell(description: str) -> None:
            nonlocal begun
            bar.update(task, description=description, completed=begun)
            bar.refresh()
            begun += 1

        yield tell
        bar.update(task, completed=total)
