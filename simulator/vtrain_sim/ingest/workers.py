"""Worker processes that end with what started them, however that ends."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
# Bytes that all processes have read: set in each of them when it starts.
_shared: Synchronized[int] | None = None


def in_processes(
    work: Callable[..., T], tasks: Sequence[tuple[Any, ...]], count: int, staging: Path, add: Callable[[int], None]
) -> Iterator[T]:
    """Results of the tasks, as they come. work: gets a task's entries and a function that counts bytes.

    count: processes. staging: directory that a process removes when it finds that its parent was killed. add: called
    with the bytes that were read since. Raises `BrokenProcessPool` where a process was killed.
    """
    context = get_context("spawn")
    shared: Synchronized[int] = context.Value("q", 0)
    others = set(active_children())
    with ProcessPoolExecutor(count, context, _begin, (shared, staging)) as pool:
        try:
            pending: set[Future[T]] = {pool.submit(_counted, work, task) for task in tasks}
            seen = 0
            while pending:
                done, pending = wait(pending, timeout=0.2)
                now = shared.value
                add(now - seen)
                seen = now
                for future in done:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:
                process.terminate()
            raise


def _begin(value: Synchronized[int], staging: Path) -> None:
    global _shared
    _shared = value
    threading.Thread(target=_end_with_parent, args=(staging,), daemon=True).start()


def _end_with_parent(staging: Path) -> None:
    parent = parent_process()
    if parent is None:
        return
    parent.join()
    shutil.rmtree(staging, ignore_errors=True)
    os._exit(1)


def _counted(work: Callable[..., T], task: tuple[Any, ...]) -> T:
    def add(count: int) -> None:
        assert _shared is not None
        with _shared.get_lock():
            _shared.value += count

    return work(*task, add)
