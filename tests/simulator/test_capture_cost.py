"""What a capture costs is taken off what it measured, with its uncertainty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.synthetic import rank_row, run_row
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas.operators import Operator
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.capture_cost import MOST_OF_OPERATOR, CaptureCost, capture_cost
from vtrain_sim.costs.captured_steps import step_overhead_s
from vtrain_sim.costs.measured import Measurement, load_operators

LONG, SHORT = Operator("gemm", "forward", 64, 64, 64), Operator("norm", "forward", 64, 64)
# Of a step: six products of 100 us, two norms of 10 us, and the step itself, which is no operator.
STEP_NS, LONG_NS, SHORT_NS = 700_000, 100_000, 10_000


def catalog(tmp_path: Path, plain: list[int] | None, captured: tuple[int, ...]) -> Catalog:
    """A run of nine spans per step whose steps took so long."""
    sink = Sink(str(tmp_path / "p"), "r", 0)
    sink.write("runs", [run_row("r", world_size=1, plain_interval_ns=plain)])
    sink.write("ranks", [rank_row("r", 0)])
    steps, spans, operators = [], [], []
    for step, interval in enumerate(captured):
        common = {"run_id": "r", "rank": 0, "step": step, "start_ns": 1}
        steps.append({**common, "duration_ns": STEP_NS, "interval_ns": interval})
        for number in range(9):
            span = {**common, "span_id": number, "name": "s", "kind": "linear", "phase": "forward"}
            spans.append({**span, "duration_ns": 1, "self_ns": 1})
        for number, operator in enumerate([LONG] * 6 + [SHORT] * 2):
            sizes = {"m": operator.m, "n": operator.n, "k": operator.k or None}
            row = {"span_id": number, "name": "o", "source": "module", "kind": operator.kind, "phase": "forward"}
            duration = LONG_NS if operator is LONG else SHORT_NS
            operators.append({**common, **row, **sizes, "dtype": operator.dtype, "duration_ns": duration})
    for table, rows in (("steps", steps), ("spans", spans), ("operators", operators)):
        sink.write(table, rows)
    made = Catalog(tmp_path / "c.duckdb")
    assert not made.add([str(tmp_path / "p")]).problems
    return made


def costs(made: Catalog) -> tuple[CaptureCost, dict[Operator, Measurement], float]:
    with made.reading() as connection:
        operators = {replace(o, fused=False): m for o, m in load_operators(connection, ["r"])}
        return capture_cost(connection, "r"), operators, step_overhead_s(connection, ["r"])


def test_the_difference_of_plain_and_captured_steps_is_spread_over_the_spans(tmp_path: Path) -> None:
    """90 us in nine spans: 10 us each."""
    cost, operators, overhead_s = costs(catalog(tmp_path, [600_000, 610_000, 620_000], (690_000, 700_000, 710_000)))
    assert cost.seconds == pytest.approx(10e-6)
    assert cost.step_s == pytest.approx(90e-6)
    assert operators[LONG].seconds == pytest.approx(90e-6)
    # A norm of 10 us is not a capture's alone.
    assert operators[SHORT].seconds == pytest.approx((1 - MOST_OF_OPERATOR) * 10e-6)
    # 80 us beside the operators, 10 us of which is the ninth span's cost.
    assert overhead_s == pytest.approx(70e-6)
    # Both medians of three steps 10 us apart: 1.253 x 10 us / sqrt(3), in nine spans.
    assert cost.error == pytest.approx(2**0.5 * 1.253 * 10e-6 / 3**0.5 / 9)
    assert operators[LONG].error == pytest.approx(cost.error / 90e-6)


@pytest.mark.parametrize(
    ("plain", "captured"),
    [(None, (700_000, 700_000)), ([600_000], (700_000, 700_000)), ([], (1, 1)), ([800_000, 800_000], (700_000,) * 2)],
)
def test_without_plain_steps_or_a_difference_nothing_is_taken_off(
    tmp_path: Path, plain: list[int] | None, captured: tuple[int, ...]
) -> None:
    cost, operators, overhead_s = costs(catalog(tmp_path, plain, captured))
    assert cost.seconds == 0
    assert operators[LONG].seconds == pytest.approx(100e-6)
    assert operators[SHORT].seconds == pytest.approx(10e-6)
    assert overhead_s == pytest.approx(80e-6)
