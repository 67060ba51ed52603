"""Work of a Mamba2 mixer's operators, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_schemas.operators import Operator, kind

# 2 sequences of 3 chunks of 4 tokens, 4 heads of 6 channels in 2 groups, states of 8.
SCAN = Operator("chunk_scan", "forward", n=8, k=4, batch=2, seq_q=12, heads=4, kv_heads=2, head_dim=6)
TOKENS, CHUNKS = 24, 6


def einsums(operator: Operator) -> dict[str, float]:
    """FLOPs of Dao and Gu 2024, listing 1, from the sizes of what each einsum multiplies and adds up."""
    heads, p, n, q, groups = operator.heads, operator.head_dim, operator.n, operator.k, operator.kv_heads
    return {
        "scores": CHUNKS * groups * 2.0 * q * q * n,
        "sums": CHUNKS * heads * 2.0 * q * q * p,
        "states": CHUNKS * heads * 2.0 * q * p * n,
        "passing": CHUNKS * heads * 2.0 * p * n,
        "outputs": CHUNKS * heads * 2.0 * q * p * n,
    }


def test_flops_of_the_scan_are_those_of_its_einsums() -> None:
    parts = einsums(SCAN)
    assert SCAN.flops() == sum(parts.values())
    again = parts["scores"] + parts["states"] + parts["passing"]
    assert replace(SCAN, phase="backward").flops() == 2 * sum(parts.values()) + again + parts["sums"]
    assert replace(SCAN, phase="recompute").flops() == SCAN.flops()


def test_a_begun_chunk_has_a_state_of_its_own() -> None:
    more = replace(SCAN, seq_q=13)
    states = 2 * 4 * 6 * 8 * (2 * 4 + 2 * 2)
    assert more.bytes() - SCAN.bytes() == states + 2 * 2 * (2 * 24 + 2 * 2 * 8 + 4)


def test_traffic_of_the_scan() -> None:
    channels, shared = 4 * 6, 2 * 2 * 8 + 4
    states = CHUNKS * channels * 8
    assert SCAN.bytes() == 2 * TOKENS * (2 * channels + shared) + (2 * 4 + 2 * 2) * states
    gated = replace(SCAN, fused=True)
    assert gated.bytes() - SCAN.bytes() == 2 * TOKENS * 2 * channels
    back = replace(SCAN, phase="backward")
    assert back.bytes() == 2 * TOKENS * (3 * channels + 2 * shared) + (6 * 4 + 5 * 2) * states
    assert replace(gated, phase="backward").bytes() - back.bytes() == 2 * TOKENS * 3 * channels


def test_the_scan_keeps_what_the_projection_made_and_the_output_before_the_gate() -> None:
    kept = kind("chunk_scan").saved(replace(SCAN, fused=True), dropout=False, gated=False)
    channels, shared = 4 * 6, 2 * 2 * 8 + 4
    assert kept == {
        "input": 2 * TOKENS * (channels + shared),
        "gate": 2 * TOKENS * channels,
        "ungated": 2 * TOKENS * channels,
    }
    assert kind("chunk_scan").saved(SCAN, dropout=False, gated=False) == {"input": kept["input"]}


@pytest.mark.parametrize(("phase", "flops", "passes"), [("forward", 1, 2), ("backward", 3, 5)])
def test_the_convolution(phase: str, flops: int, passes: int) -> None:
    convolution = Operator("causal_conv1d", phase, 10, 12, 4)
    assert convolution.flops() == flops * 2 * 10 * 12 * 4
    assert convolution.bytes() == passes * 2 * 10 * 12
    assert convolution.saved_bytes() == 0


def test_the_scan_counts_as_a_product_whose_backward_pass_stays_whole() -> None:
    record = kind("chunk_scan")
    assert record.matrix_product
    assert not record.splits_backward
    assert not kind("causal_conv1d").matrix_product
