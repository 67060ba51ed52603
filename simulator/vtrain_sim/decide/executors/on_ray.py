"""Tasks on a Ray cluster: one that runs, or one on this machine."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

from vtrain_sim.decide.executors.base import RETRIES, Answer, GivenUp, Task
from vtrain_sim.decide.executors.process import loaded
from vtrain_sim.errors import UserError


class OnRay:
    """Tasks as Ray's. Ray runs the task of a worker that died again on another one."""

    name = "ray"

    def check(self, processes: int, address: str) -> None:
        """Every option means something to Ray."""

    def map(
        self, work: Callable[[Task], Answer], tasks: Sequence[Task], processes: int, address: str
    ) -> Iterator[tuple[int, Answer]]:
        """See `Executor.map`. processes: tasks at a time; 0: as many as Ray has cores for."""
        if not tasks:
            return
        with _connected(address) as ray:
            remote = ray.remote(max_retries=RETRIES)(_call).options(name=_name(work))
            kept = ray.put(pickle.dumps(work))
            left = iter(range(len(tasks)))
            waiting = {remote.remote(kept, tasks[i]): i for i in islice(left, processes or len(tasks))}
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(ready)
                waiting |= {remote.remote(kept, tasks[i]): i for i in islice(left, 1)}
                try:
                    answer = ray.get(ready)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, (ImportError, ray.exceptions.RayError)):
                        raise UserError(
                            f"Ray cannot run the tasks: {str(error.cause).splitlines()[0]}; vtrain must be installed "
                            "on all machines of the cluster, in the same version"
                        ) from None
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    raise GivenUp(index, type(error).__name__) from None
                yield index, answer


def _call(work: bytes, task: object) -> object:
    return loaded(work)(task)


def _name(work: Callable[..., object]) -> str:
    """What Ray calls the tasks, in its lists and as the title of a worker."""
    function = work.func if isinstance(work, partial) else work
    return str(getattr(function, "__name__", function))


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected: the user's connection where there is one, else one for these tasks. Raises `UserError`."""
    try:
        import ray
    except ImportError:
        raise UserError("--executor ray needs Ray: pip install 'vtrain[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    # Without a word Ray would look for any cluster that was ever started here, and wait for one that is gone.
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(address=where, log_to_driver=False, include_dashboard=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot reach the Ray cluster {address or 'on this machine'}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
