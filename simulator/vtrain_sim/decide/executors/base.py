"""What an executor is: it calls one function with each of many tasks, somewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from vtrain_sim.errors import UserError

Task = TypeVar("Task")
Answer = TypeVar("Answer")
# The process that has a task may die so often, and the task is tried again.
RETRIES = 5


class GivenUp(UserError):
    """A task whose process died at every attempt. index: its place among the tasks; reason: of the last attempt."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"task {index} was given up after {RETRIES + 1} attempts ({reason})")
        self.index, self.reason = index, reason


class Executor(Protocol):
    """Calls a function with each of many tasks."""

    @property
    def name(self) -> str:
        """What ``--executor`` calls it."""
        ...

    def check(self, processes: int, address: str) -> None:
        """Raise `UserError` for an option that means nothing to it."""
        ...

    def map(
        self, work: Callable[[Task], Answer], tasks: Sequence[Task], processes: int, address: str
    ) -> Iterator[tuple[int, Answer]]:
        """The place of each task and its answer, as they come; tasks begin in their order.

        work: a function of a module, or a `functools.partial` of one; it, tasks and answers are pickled, it once for
        each process, where what it holds (a projector's estimates) serves one task after the other. processes: tasks at
        a time; 0: as many as there are cores. address: of a cluster; "": this machine. Leaving the iterator
        ends what runs. Raises what `work` raises; `GivenUp` for a task whose process died `RETRIES` + 1 times.
        """
        ...
