"""A capture keeps no activation alive: a job that just fits must still fit."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from vtrain_plugin.capture.backward_ends import Input

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("leaf", [True, False])
def test_an_input_is_told_without_being_kept(leaf: bool) -> None:
    base = torch.ones(4, requires_grad=True)
    tensor: Any = base if leaf else base * 2
    given = Input(tensor, None)
    output = tensor * 3
    assert given.feeds(output.grad_fn)
    assert not given.feeds((torch.ones(4, requires_grad=True) * 3).grad_fn)
    kept = weakref.ref(tensor)
    del base, tensor, output
    assert kept() is None
