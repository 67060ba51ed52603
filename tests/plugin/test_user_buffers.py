"""Products with tensor parallel communication inside say so, and are not taken for products alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugin.row_tables import by_table
from vtrain_plugin.adapters.megatron.user_buffers import communication_inside
from vtrain_plugin.capture.clock import HostClock
from vtrain_plugin.capture.hooked import ModuleCall
from vtrain_plugin.capture.modules import ModuleHooks
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Position, Recorder
from vtrain_plugin.capture.rows import rows_of_step
from vtrain_plugin.capture.run_rows import environment_columns, rank_row
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas.operators import Operator
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.measured import load_operators

torch = pytest.importorskip("torch")


def linear(**attributes: Any) -> Any:
    """A linear layer with the attributes that Transformer Engine gives its own."""
    module = torch.nn.Linear(4, 8)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ("attributes", "role"),
    [
        ({}, ""),
        ({"ub_overlap_rs_fprop": False, "ub_overlap_ag_fprop": False, "ub_name": "qkv"}, ""),
        ({"ub_overlap_rs_fprop": True}, "tp"),
        ({"ub_bulk_wgrad": True, "ub_overlap_ag": False}, "tp"),
    ],
)
def test_the_layer_says_whether_it_communicates(attributes: dict[str, Any], role: str) -> None:
    assert communication_inside(linear(**attributes)) == role


def test_operators_with_communication_inside_are_marked_and_left_out(tmp_path: Path) -> None:
    """Of two layers of different widths, one with user buffers, the other's products alone are measured."""
    recorder = Recorder(HostClock(), NoRanges(), 100)
    session: Any = SimpleNamespace(
        recorder=recorder,
        speaks=False,
        settings=SimpleNamespace(operators=True),
        position=Position("forward", 0, 0),
        guard=SimpleNamespace(run=lambda function, *args: function(*args)),
        recording=lambda: recorder,
        close_span=recorder.close,
    )

    def operator_of(call: ModuleCall, output: Any) -> Operator:
        return Operator("gemm", "forward", 2, output.shape[-1], call.tensor_in.shape[-1], dtype="float32")

    rules: Any = SimpleNamespace(
        span_kind=lambda path, module, operators: "linear" if path else None,
        layer_number=lambda module: None,
        before_module=lambda call: None,
        operator_of=operator_of,
        communication_inside=communication_inside,
        has_delayed_weight_gradient=lambda module: False,
    )
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), linear(ub_overlap_rs_fprop=True))
    hooks = ModuleHooks(session, rules)
    hooks.install(model)
    recorder.start_step(0)
    with torch.no_grad():
        model(torch.ones(2, 4))
    tables = by_table(rows_of_step(recorder.end_step(), recorder.clock.seal_step().times(), "r", 0, lambda ranks: 1))
    assert {row["n"]: row["communication_role"] for row in tables["operators"]} == {4: None, 8: "tp"}
    sink = Sink(str(tmp_path), "r", 0)
    for table, rows in tables.items():
        sink.write(table, rows)
    sink.write("runs", [{"run_id": "r", "source": "plugin", "clock_source": "host", **environment_columns()}])
    sink.write("ranks", [rank_row("r")])
    catalog = Catalog(tmp_path / "catalog.duckdb")
    catalog.add([str(tmp_path)])
    with catalog.reading() as connection:
        measured = load_operators(connection, ["r"])
    assert [operator.n for operator, _ in measured] == [4]
