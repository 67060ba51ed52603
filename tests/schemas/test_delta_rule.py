"""The gated delta rule: FLOPs of its chunks counted with matrices, what it keeps, and how both grow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_schemas.operators import Operator, kind

# One head, one chunk of 4 tokens, keys of 8 channels, 6 values.
N, CHUNK, VALUES = 8, 4, 6
RULE = Operator("delta_rule", "forward", n=N, k=CHUNK, batch=1, seq_q=CHUNK, heads=1, kv_heads=1, head_dim=VALUES)


def product(m: int, n: int, k: int) -> float:
    return 2.0 * m * n * k


def test_flops_are_those_of_the_products_of_a_chunk() -> None:
    """Section 3.3 of arXiv:2412.06464: T = (I + tril(B K K'))^-1 B, W = T K, U = T V, then with the state S of the
    chunks before: V' = U - W S, O = Q S + tril(Q K') V', S' = S + K' V'."""
    within = product(CHUNK, CHUNK, N) + product(CHUNK, N, CHUNK) + product(CHUNK, VALUES, CHUNK)
    output = product(CHUNK, CHUNK, N) + product(CHUNK, VALUES, CHUNK)
    state = product(CHUNK, VALUES, N) + product(CHUNK, VALUES, N) + product(N, VALUES, CHUNK)
    # Forward substitution of a triangular matrix: a third of the cube in multiply-adds.
    inverse = 2.0 * CHUNK**3 / 3
    assert RULE.flops() == pytest.approx(within + output + state + inverse)
    again = product(CHUNK, N, CHUNK) + product(CHUNK, VALUES, CHUNK) + 2 * product(CHUNK, VALUES, N)
    assert replace(RULE, phase="backward").flops() == 2 * (within + output + state) + again


def test_work_is_that_of_each_head_and_token() -> None:
    many = replace(RULE, batch=3, seq_q=5 * CHUNK, heads=2)
    assert many.flops() == 3 * 5 * 2 * RULE.flops()
    assert many.bytes() == 3 * 5 * 2 * RULE.bytes()
    assert RULE.bytes() < replace(RULE, phase="backward").bytes() < 4 * RULE.bytes()


def test_what_is_kept() -> None:
    """Queries, keys and values in 16 bits, decay and step in 32, and a row of the chunk's inverse."""
    kept = kind("delta_rule").saved(RULE, dropout=False, gated=False)
    assert sum(kept.values()) == CHUNK * (2 * (2 * N + VALUES) + 2 * 4 + 2 * CHUNK)
    assert kind("delta_rule").matrix_product
