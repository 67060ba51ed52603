"""What was asked for: an executor by its name, so many tasks at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vtrain_sim.decide.executors.base import Answer, Task
from vtrain_sim.decide.executors.local import Local, cores
from vtrain_sim.decide.executors.registry import get
from vtrain_sim.specs.checks import whole


@dataclass(frozen=True)
class Workers:
    """Where tasks run. processes: tasks at a time; 0: one for each core. address: of a cluster. Raises `UserError`."""

    executor: str = "local"
    processes: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        whole("--processes", self.processes, 0)
        get(self.executor).check(self.processes, self.address)

    @property
    def count(self) -> int:
        """Tasks at a time, as far as this machine knows."""
        return self.processes or cores()

    @property
    def elsewhere(self) -> bool:
        """Whether tasks run on other machines too."""
        return self.executor != Local.name

    def map(self, work: Callable[[Task], Answer], tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
        """The place of each task and its answer, as they come. See `Executor.map`."""
        return get(self.executor).map(work, tasks, self.processes, self.address)
