"""Passes of two microbatches at once: every part of both is recorded, with its microbatch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import Capture

pytestmark = pytest.mark.slow
FLAGS = ("--num-experts", "4", "--expert-model-parallel-size", "2")
PARTS = ("pre_dispatch_computation", "attn", "moe_dispatch", "mlp", "moe_combine")


@pytest.fixture
def run(capture: Callable[..., Capture]) -> Capture:
    pytest.importorskip("megatron.core.pipeline_parallel.combined_1f1b")
    return capture("combined", 2, *FLAGS, "--bf16", "--overlap-moe-expert-parallel-comm")


def test_every_part_of_every_layer_is_recorded(run: Capture) -> None:
    rows = run.catalog.sql(
        """
        SELECT name, phase, microbatch, count(*) AS n FROM spans
        WHERE rank = 0 AND step = 2 AND kind IN ('forward_step', 'backward_step') GROUP BY ALL
        """
    ).to_pylist()
    parts = {(row["name"], row["phase"], row["microbatch"]): row["n"] for row in rows}
    for phase in ("forward", "backward"):
        for microbatch in (0, 1):
            of_layers = {
                name: n for (name, at, m), n in parts.items() if (at, m) == (phase, microbatch) and name in PARTS
            }
            assert {"moe_dispatch", "mlp", "moe_combine"} <= set(of_layers)
            assert set(of_layers.values()) == {4}, "one of each for each of 4 layers"
            assert parts["pre_process", phase, microbatch] == 1
            assert parts["post_process", phase, microbatch] == 1


def test_modules_inside_are_as_in_passes_of_their_own(run: Capture, capture: Callable[..., Capture]) -> None:
    alone = capture("moe", 2, *FLAGS)

    def operators(of: Capture) -> set[tuple[object, ...]]:
        rows = of.catalog.sql(
            """
            SELECT s.name, s.layer_number, s.microbatch, s.phase, o.kind, count(*) AS n
            FROM operators o JOIN spans s USING (run_id, rank, step, span_id)
            WHERE step = 2 AND s.kind NOT IN ('forward_step', 'backward_step', 'transformer_layer', 'moe')
            GROUP BY ALL
            """
        ).to_pylist()
        return {tuple(row.values()) for row in rows}

    assert operators(run) == operators(alone)
    assert len(operators(run)) > 100


def test_steps_and_time_are_whole(run: Capture) -> None:
    steps = run.catalog.sql("SELECT num_microbatches, tokens FROM steps").to_pylist()
    assert steps == [{"num_microbatches": 2, "tokens": 64}] * 4
    for row in run.catalog.sql("SELECT * FROM step_breakdown").to_pylist():
        assert min(row["forward_ns"], row["backward_ns"]) > 0
        assert row["other_ns"] >= 0
    assert not run.catalog.check()


def test_what_is_not_recorded_is_said_once(run: Capture) -> None:
    said = [line for line in run.stderr.splitlines() if "interleaved" in line]
    assert len(said) == 1
    assert "transformer layers have no spans" in said[0]
