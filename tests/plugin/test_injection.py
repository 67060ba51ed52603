"""Whatever fails inside the plugin, and wherever it is switched off, training goes on as without it."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import run_python
from vtrain_plugin.capture.idle import torch_is_idle
from vtrain_plugin.capture.patches import Patches

torch = pytest.importorskip("torch")
SCRIPT = Path(__file__).with_name("injection_script.py")


@pytest.mark.slow
@pytest.mark.parametrize(("what", "at_least"), [("fail", 280), ("fail-kernels", 5), ("disable", 100)])
def test_training_goes_on_whatever_fails_and_wherever_it_is_switched_off(
    tmp_path: Path, what: str, at_least: int
) -> None:
    """Every function of the plugin that a capture calls fails, at its first and last call."""
    done = run_python([str(SCRIPT), str(tmp_path), what])
    trainings = re.search(r"(\d+) trainings, 0 bad", done.stdout)
    assert trainings, done.stdout[-3000:]
    assert int(trainings[1]) > at_least, "the capture calls the plugin's functions"


class _Asking(torch.nn.Module):  # type: ignore[misc]
    """Says whether torch was idle while it ran forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[bool] = []

    def forward(self, x: Any) -> Any:
        self.answers.append(torch_is_idle())
        y = x * 2
        y.register_hook(lambda gradient: self.answers.append(torch_is_idle()))
        return y


def test_torch_is_not_idle_inside_a_forward_call_or_a_backward_pass() -> None:
    module = _Asking()
    module(torch.ones(2, requires_grad=True)).sum().backward()
    assert module.answers == [False, False]
    assert torch_is_idle()


def test_patches_leave_what_another_tool_has_replaced_since(monkeypatch: pytest.MonkeyPatch) -> None:
    owner: Any = types.ModuleType("megatron_owner")
    owner.function = lambda: 1
    monkeypatch.setitem(sys.modules, "megatron_owner", owner)
    patches = Patches("megatron")
    patches.wrap_function(owner, "function", lambda f: lambda: f() + 1)
    ours = owner.function

    def theirs(original: Callable[[], int] = ours) -> int:
        return original() + 10

    owner.function = theirs
    patches.remove()
    assert owner.function is theirs
    assert owner.function() == 12
