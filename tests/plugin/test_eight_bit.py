"""Products of Transformer Engine inside its autocast are recorded in 8 bits; nothing else is."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from vtrain_plugin.adapters.megatron.classify import operator_of  # noqa: E402
from vtrain_plugin.capture.hooked import Hooked, ModuleCall  # noqa: E402


def _linear(library: str, kind: str) -> Any:
    """A linear layer of 8 inputs and 4 outputs whose class is of the library."""
    cls = type(kind, (torch.nn.Linear,), {"__module__": library})
    return cls(8, 4, dtype=torch.bfloat16)


def _dtype(module: Any) -> str:
    tensor = torch.zeros(16, 8, dtype=torch.bfloat16)
    call = ModuleCall(Hooked("linear_fc1", "linear", module, None, None), tensor, (tensor,))
    operator = operator_of(call, module(tensor), SimpleNamespace(config=None))  # type: ignore[arg-type]
    assert operator is not None
    assert (operator.m, operator.n, operator.k) == (16, 4, 8)
    return operator.dtype


@pytest.mark.parametrize("state", ["transformer_engine.pytorch.fp8", "transformer_engine.pytorch.quantization"])
@pytest.mark.parametrize("enabled", [True, False])
def test_products_in_8_bits(monkeypatch: pytest.MonkeyPatch, state: str, enabled: bool) -> None:
    module: Any = ModuleType(state)
    module.FP8GlobalStateManager = SimpleNamespace(is_fp8_enabled=lambda: enabled)
    monkeypatch.setitem(sys.modules, state, module)
    engine = _linear("transformer_engine.pytorch.module.linear", "Linear")
    # Megatron-Core derives its layers from Transformer Engine's.
    derived = type("TELinear", (type(engine),), {"__module__": "megatron.core.extensions.transformer_engine"})(8, 4)
    derived = derived.to(torch.bfloat16)
    plain = _linear("megatron.core.tensor_parallel.layers", "ColumnParallelLinear")
    expected = "float8" if enabled else "bfloat16"
    assert [_dtype(m) for m in (engine, derived, plain)] == [expected, expected, "bfloat16"]


def test_without_transformer_engine_nothing_is_in_8_bits() -> None:
    assert _dtype(_linear("transformer_engine.pytorch.module.linear", "Linear")) == "bfloat16"
