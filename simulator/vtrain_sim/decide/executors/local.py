"""Tasks in this process, or in several of this machine."""

from __future__ import annotations

import os
import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait

from vtrain_sim.decide.executors.base import RETRIES, Answer, GivenUp, Task
from vtrain_sim.decide.executors.process import WorkerProcess
from vtrain_sim.errors import UserError


class Local:
    """Tasks on this machine: here if there is one at a time, else in processes that take one after the other."""

    name = "local"

    def check(self, processes: int, address: str) -> None:
        """Raise `UserError` for an address."""
        if address:
            raise UserError(f"--address {address} is that of a Ray cluster: it needs --executor ray")

    def map(
        self, work: Callable[[Task], Answer], tasks: Sequence[Task], processes: int, address: str
    ) -> Iterator[tuple[int, Answer]]:
        """See `Executor.map`."""
        count = min(processes or cores(), len(tasks))
        if count > 1:
            return _Pool(pickle.dumps(work), count).map(tasks)
        return ((index, work(task)) for index, task in enumerate(tasks))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Pool:
    """Processes, each with one task.

    Those of `concurrent.futures` lose all tasks with the process of one, and run the user's script in each of them.
    """

    def __init__(self, work: bytes, count: int) -> None:
        self._work, self._count = work, count
        self._idle: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, int] = {}
        self._deaths: Counter[int] = Counter()

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
        """The place of each task and its answer, as they come."""
        waiting = deque(range(len(tasks)))
        answers: list[tuple[int, Answer]] = []
        try:
            while waiting or self._busy:
                while waiting and len(self._busy) < self._count:
                    index = waiting.popleft()
                    process = self._idle.pop() if self._idle else WorkerProcess(self._work)
                    self._busy[process] = index
                    process.give(tasks[index])
                yield from answers
                answers.clear()
                for process in self._ready():
                    index = self._busy.pop(process)
                    try:
                        answers.append((index, process.take()))
                    except EOFError:
                        self._count_death(index, process)
                        waiting.appendleft(index)
                    else:
                        self._idle.append(process)
            yield from answers
        finally:
            for process in (*self._busy, *self._idle):
                process.end()

    def _ready(self) -> list[WorkerProcess]:
        """Those that answered or died."""
        by_connection = {process.connection: process for process in self._busy}
        answered = wait(list(by_connection))
        return [process for connection, process in by_connection.items() if connection in answered]

    def _count_death(self, index: int, process: WorkerProcess) -> None:
        reason = process.end()
        self._deaths[index] += 1
        if self._deaths[index] > RETRIES:
            raise GivenUp(index, reason)
