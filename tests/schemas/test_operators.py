"""Operator kinds: work by hand, what is kept for the backward pass, and the registry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrain_schemas.operators import (
    Family,
    Operator,
    OperatorKind,
    UnknownDtypeError,
    UnknownKindError,
    dtype_bytes,
    kind,
    kinds,
    register,
)
from vtrain_schemas.operators.columns import causal_column, fused_column
from vtrain_schemas.operators.registry import _KINDS
from vtrain_schemas.words import OPERATOR_KINDS


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Kinds that a test registers are gone after it."""
    before = dict(_KINDS)
    yield
    _KINDS.clear()
    _KINDS.update(before)


SQUARE = Operator(
    "attention", "forward", batch=2, seq_q=16, seq_kv=16, heads=4, kv_heads=2, head_dim=8, dtype="float32", causal=True
)
FUSED = replace(SQUARE, fused=True)


def test_gemm_work_by_hand() -> None:
    forward = Operator("gemm", "forward", 4, 6, 8, dtype="bfloat16")
    assert forward.flops() == 2 * 4 * 6 * 8
    assert forward.bytes() == 2 * (4 * 8 + 8 * 6 + 4 * 6)
    backward, dgrad, wgrad = (replace(forward, phase=p) for p in ("backward", "dgrad", "wgrad"))
    assert backward.flops() == dgrad.flops() + wgrad.flops() == 2 * forward.flops()
    assert backward.bytes() == dgrad.bytes() + wgrad.bytes()
    # The weight gradient is added to an fp32 buffer: read and written.
    assert wgrad.bytes() - forward.bytes() == 8 * 8 * 6


def test_experts_have_weights_of_their_own() -> None:
    forward = Operator("grouped_gemm", "forward", 12, 6, 8, batch=3, dtype="bfloat16")
    assert forward.bytes() == 2 * (12 * 8 + 3 * 8 * 6 + 12 * 6)
    assert forward.flops() == replace(forward, kind="gemm", batch=1).flops()


def test_attention_work_by_hand() -> None:
    """Fused kernels skip the masked half of the square; separate ones compute it, and move the scores."""
    scores, inputs = 2 * 4 * 16 * 16, 2 * 2 * 16 * 4 * 8 + 2 * 2 * 16 * 2 * 8
    assert SQUARE.flops() == 4 * scores * 8
    assert FUSED.flops() == SQUARE.flops() / 2
    assert replace(FUSED, causal=False).flops() == replace(SQUARE, causal=False).flops() == SQUARE.flops()
    assert FUSED.bytes() == 4 * inputs
    assert SQUARE.bytes() == 4 * inputs + scores * (6 * 4 + 1)
    assert replace(FUSED, phase="backward").flops() == 2 * FUSED.flops()


def test_fused_attention_moves_no_scores_whether_causal_or_not() -> None:
    """ "flash, not causal" once meant fused to one formula and unfused to another: 134 MB against 7.1 GB."""
    shape = Operator(
        "attention", "forward", batch=4, seq_q=2048, seq_kv=2048, heads=32, kv_heads=32, head_dim=64, fused=True
    )
    assert shape.bytes() == replace(shape, causal=True).bytes() == 4 * 4 * 2048 * 32 * 64 * 2
    assert replace(shape, fused=False).bytes() == pytest.approx(7.1e9, rel=0.01)
    assert kind("attention").variant(shape) == kind("attention").variant(replace(shape, causal=True)) == "attention"
    assert kind("attention").variant(replace(shape, fused=False)) == "unfused attention"
    assert kind("attention").launches(shape) < kind("attention").launches(replace(shape, fused=False))


def test_the_fused_text_is_the_kinds_and_only_attention_is_causal() -> None:
    linear = Operator("gemm", "forward", 4, 6, 8)
    assert [fused_column(o) for o in (FUSED, SQUARE, linear, replace(linear, fused=True))] == [
        "flash", None, None, "layernorm",
    ]  # fmt: skip
    assert [causal_column(o) for o in (FUSED, replace(FUSED, causal=False), linear)] == [True, False, None]


@pytest.mark.parametrize(
    ("operator", "dropout", "gated", "tensors"),
    [
        (Operator("gemm", "forward", 4, 6, 8), True, False, {"input": 64}),
        (Operator("gemm", "forward", 4, 6, 8, dtype="float8"), True, False, {"input": 32}),
        (Operator("router", "forward", 4, 6, 8), True, False, {"input": 64, "probabilities": 96}),
        (Operator("norm", "forward", 4, 6), True, False, {"input": 48}),
        (Operator("activation", "forward", 4, 6), True, False, {"input": 48}),
        (Operator("activation", "forward", 4, 6), True, True, {"input": 96}),
        (Operator("bias_dropout_add", "forward", 4, 6), True, False, {"masks": 48}),
        (Operator("bias_dropout_add", "forward", 4, 6), False, False, {}),
        (Operator("rope", "forward", 4, 6), True, False, {}),
        (Operator("permute", "forward", 4, 6), True, False, {"expert_outputs": 48}),
        (Operator("loss", "forward", 4, 6), True, False, {"softmax": 96}),
        (Operator("optimizer", "update", 4), True, False, {}),
        (
            FUSED, True, False,
            {"query": 4096, "key": 2048, "value": 2048, "output": 4096, "statistics": 4 * 2 * 16 * 4},
        ),
        (SQUARE, False, False, {"query": 4096, "key": 2048, "value": 2048, "softmax": 8192}),
        (
            SQUARE, True, False,
            {"query": 4096, "key": 2048, "value": 2048, "softmax": 8192, "mask": 2048, "dropout": 8192},
        ),
    ],
)  # fmt: skip
def test_tensors_kept_for_the_backward_pass(
    operator: Operator, dropout: bool, gated: bool, tensors: dict[str, int]
) -> None:
    assert kind(operator.kind).saved(operator, dropout, gated) == tensors
    assert operator.saved_bytes(dropout, gated) == sum(tensors.values())


@pytest.mark.parametrize("record", kinds(), ids=lambda record: record.name)
def test_work_is_what_the_family_says(record: OperatorKind) -> None:
    operator = Operator(record.name, "forward", 8, 8, 8, seq_q=8, seq_kv=8, heads=1, kv_heads=1, head_dim=8)
    works = record.family not in (Family.CONSTANT, Family.UNMODELLED)
    assert (operator.bytes() > 0) == works
    assert operator.flops() > 0 or not record.matrix_product
    if not works:
        assert operator.flops() == 0
    assert record.splits_backward <= record.matrix_product
    assert OPERATOR_KINDS[record.name] == record.meaning


@given(st.sampled_from(kinds()), st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_more_rows_never_mean_less_work(record: OperatorKind, m: int, n: int, k: int) -> None:
    small = Operator(record.name, "backward", m, n, k, seq_q=m, seq_kv=n, heads=2, kv_heads=1, head_dim=k)
    large = replace(small, m=2 * m, seq_q=2 * m)
    assert small.flops() <= large.flops()
    assert small.bytes() <= large.bytes()
    assert small.saved_bytes() <= large.saved_bytes()


def test_unknown_kind_has_the_nearest_name() -> None:
    with pytest.raises(UnknownKindError, match=r"did you mean 'attention'.*entry point"):
        Operator("atention", "forward").flops()


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="already registered"):
        register(OperatorKind("gemm", "another"))
    assert register(kind("gemm")) is kind("gemm")


def test_unknown_names_are_looked_up_in_the_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    outside = {"scan": OperatorKind("scan", "a scan"), "broken": "no kind"}

    def entry_points(group: str, name: str) -> list[SimpleNamespace]:
        asked.append((group, name))
        return [SimpleNamespace(load=lambda: outside[name])] if name in outside else []

    monkeypatch.setattr("vtrain_schemas.operators.registry.entry_points", entry_points)
    Operator("gemm", "forward").flops()
    assert asked == []
    assert kind("scan") is kind("scan") is outside["scan"]
    assert asked == [("vtrain.operators", "scan")]
    with pytest.raises(UnknownKindError, match="must be an OperatorKind"):
        kind("broken")


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(UnknownDtypeError, match="known are"):
        dtype_bytes("float3")
