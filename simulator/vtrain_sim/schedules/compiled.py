"""Kernels run in two ways: compiled by numba (for many pipelines), or as plain Python on lists.

Loading the compiler takes longer than a single small evaluation, so the first small ones of a process do
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from vtrain_sim.schedules.times import Booleans, Floats, Integers

Array = Floats | Integers | Booleans
# More passes than this are worth loading the compiler for.
WORTH_COMPILING = 400_000
# Evaluations of a process before the compiler is loaded.
PLAIN_CALLS = 3
_calls = 0


def worth_compiling(passes: int) -> bool:
    """Whether an evaluation of so many passes is to run compiled; asked once for each evaluation."""
    global _calls
    _calls += 1
    return _calls > PLAIN_CALLS or passes > WORTH_COMPILING


@cache
def _compile(kernel: Callable[..., None]) -> Callable[..., None]:
    import numba

    compiled: Callable[..., None] = numba.njit(cache=True, nogil=True, error_model="numpy")(kernel)
    return compiled


def call(kernel: Callable[..., None], arguments: Sequence[Array], compiled: bool) -> None:
    """Run a kernel that writes its results into some of its arguments."""
    if compiled:
        _compile(kernel)(*arguments)
        return
    # Plain Python works on lists several times faster than on arrays.
    lists = [array.tolist() for array in arguments]
    kernel(*lists)
    for array, values in zip(arguments, lists, strict=True):
        array[...] = values
