"""Every function of torch.distributed that ranks call together is recorded, by whatever of its arguments are named."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from plugin.test_waits import _Session
from vtrain_plugin.capture.collectives import COLLECTIVES, CallRecorder

torch = pytest.importorskip("torch")


def test_no_function_is_missing() -> None:
    """Torch's own list: the functions that take `async_op`."""
    from torch.distributed import distributed_c10d as c10d

    public = [getattr(c10d, name) for name in c10d.__all__]
    functions = {f.__name__ for f in public if callable(f) and not isinstance(f, type) and _takes_async_op(f)}
    assert {"all_reduce", "all_to_all_single"} <= functions
    assert functions <= COLLECTIVES.keys()


def _takes_async_op(function: Any) -> bool:
    try:
        return "async_op" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("name", "position"), [("all_gather_single", 2), ("reduce_scatter_single", 3)])
def test_payload_and_group_are_read_from_the_arguments(name: str, position: int, named: bool) -> None:
    def all_gather_single(output_tensor: Any, input_tensor: Any, group: Any = None, async_op: bool = False) -> None: ...

    def reduce_scatter_single(
        output: Any, input: Any, op: Any = None, group: Any = None, async_op: bool = False
    ) -> None: ...

    original = {f.__name__: f for f in (all_gather_single, reduce_scatter_single)}[name]
    session = _Session()
    groups = SimpleNamespace(describe=lambda group: (group, (0, 1)))
    wrapped = CallRecorder(session, groups).wrap_collective(*COLLECTIVES[name])(original)  # type: ignore[arg-type]
    values = [torch.zeros(2), torch.zeros(4), "sum", "tp"]
    given = [*values[:2], *values[4 - (position - 1) :]]
    names = list(inspect.signature(original).parameters)
    if named:
        wrapped(**dict(zip(names, given, strict=False)))
    else:
        wrapped(*given)
    (row,) = session.rows()
    assert (row["op"], row["role"], row["bytes"]) == (COLLECTIVES[name][0], "tp", 16)
    assert not row["is_async"]
