"""DeepEP and HybridEP move tokens without torch.distributed: each of their passes is recorded as one all-to-all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from plugin.test_waits import _Session

torch = pytest.importorskip("torch")
fused_a2a = pytest.importorskip("megatron.core.transformer.moe.fused_a2a")

from vtrain_plugin.adapters.megatron import expert_exchange  # noqa: E402
from vtrain_plugin.capture.collectives import CallRecorder  # noqa: E402
from vtrain_plugin.capture.patches import Patches  # noqa: E402


def dispatch(context: Any, x: Any, group: Any, failing: bool = False) -> tuple[Any, int]:
    """Every token goes to two ranks."""
    context.group = group
    if failing:
        raise RuntimeError("no memory for the buffer")
    return torch.cat([x, x]), 2


def undispatch(context: Any, gradient: Any, *others: Any) -> tuple[Any, None, None]:
    one, two = gradient.chunk(2)
    return one + two, None, None


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(fused_a2a.FusedDispatch, "forward", staticmethod(dispatch))
    monkeypatch.setattr(fused_a2a.FusedDispatch, "backward", staticmethod(undispatch))
    monkeypatch.setattr(expert_exchange, "_experts_group", lambda: "experts")
    session: Any = _Session()
    session.patches = Patches()
    groups: Any = SimpleNamespace(describe=lambda group: ("ep", (0, 1) if group == "experts" else ()))
    session.calls = CallRecorder(session, groups)
    return session


def test_both_passes_are_exchanges(session: Any) -> None:
    before = dict(vars(fused_a2a.FusedDispatch))
    expert_exchange.install(session)
    x = torch.ones(4, 8, requires_grad=True)
    tokens, _ = fused_a2a.FusedDispatch.apply(x, "experts")
    tokens.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == torch.full((4, 8), 2.0).tolist()
    rows = session.rows()
    assert [(row["op"], row["role"], row["bytes"], row["group_ranks"]) for row in rows] == [
        ("all_to_all", "ep", 2 * 4 * 8 * 4, [0, 1])
    ] * 2
    assert all(row["duration_ns"] is not None and not row["is_async"] for row in rows)
    session.patches.remove()
    assert dict(vars(fused_a2a.FusedDispatch)) == before


def test_what_the_library_raises_is_what_training_sees(session: Any) -> None:
    expert_exchange.install(session)
    with pytest.raises(RuntimeError, match="no memory for the buffer"):
        fused_a2a.FusedDispatch.apply(torch.ones(4, 8), "experts", True)
    assert not session.recorder.record.calls
