"""The simulator takes what it needs to know of a kind from its record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.synthetic import rank_row, run_row
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas import arrow_schema
from vtrain_schemas.operators import Family, Operator, OperatorKind, kind, register
from vtrain_schemas.operators.registry import _KINDS
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs import MODELLED, MeasuredOperators, OperatorCosts
from vtrain_sim.costs.measured import Measurement, load_operators
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.model import Parts, operators_of
from vtrain_sim.specs import Configuration, DeviceSpec, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import LayerKind

DEVICE = DeviceSpec("d", {"bfloat16": 100e12}, 1e12, 1 << 34)
FUSED = Operator(
    "attention",
    "forward",
    batch=4,
    seq_q=2048,
    seq_kv=2048,
    heads=32,
    kv_heads=32,
    head_dim=64,
    fused=True,
    causal=True,
)


@dataclass(frozen=True)
class Scan(OperatorKind):
    """A toy kind from outside: m x n elements, read once and written once."""

    family: Family = Family.MEMORY_BOUND

    def bytes(self, operator: Operator) -> float:
        return 4.0 * operator.m * operator.n


@pytest.fixture
def scan() -> Iterator[Scan]:
    yield register(Scan("scan", "selective scan of m tokens of width n", kernels=(2, 3)))
    del _KINDS["scan"]


def test_a_kind_from_outside_gets_an_estimate(scan: Scan) -> None:
    operator = Operator("scan", "forward", 1000, 1000)
    surface = DeviceSurface(
        DEVICE, Surfaces(launch_s=1e-6, efficiency={"scan": 0.5}, overhead_s={"scan": 1e-5}, sigma={"scan": 0.1})
    )
    estimate = OperatorCosts(surface).estimate(operator)
    assert estimate.provenance == MODELLED
    assert estimate.seconds == pytest.approx(1e-5 + 4e6 / 1e12 / 0.5)
    assert estimate.sigma == 0.1
    assert surface.launch_seconds(replace(operator, phase="backward")) == pytest.approx(3e-6)
    # One measurement moves other shapes, as it does for the kinds that vtrain brings.
    measured = MeasuredOperators([(operator, Measurement(2 * estimate.seconds, 0.01, 10))])
    near = replace(operator, m=1100)
    assert OperatorCosts(surface, measured).estimate(near).seconds > 1.5 * surface.seconds(near)


@pytest.mark.parametrize("bound", list(Family), ids=lambda bound: bound.name)
def test_the_family_says_which_formula_it_takes(bound: Family) -> None:
    register(Scan("scan", "a toy", bound))
    try:
        seconds = DeviceSurface(DEVICE).seconds(
            Operator("scan", "forward", 1000, 1000, 1000, seq_q=10, seq_kv=10, heads=1, kv_heads=1, head_dim=8)
        )
    finally:
        del _KINDS["scan"]
    assert (seconds > 0) == (bound not in (Family.CONSTANT, Family.UNMODELLED))


def test_a_mask_halves_the_time_of_fused_attention() -> None:
    surface = DeviceSurface(presets.device("h100-sxm-80gb"), Surfaces(half_seq=500.0, half_dim=10.0))
    assert surface.seconds(replace(FUSED, causal=False)) == pytest.approx(2 * surface.seconds(FUSED))
    assert surface.seconds(replace(FUSED, fused=False)) > surface.seconds(replace(FUSED, causal=False))


def test_attention_is_measured_apart_by_mask_and_kernel() -> None:
    entries = [
        (replace(FUSED, fused=fused, causal=causal), Measurement(1e-3 * (1 + fused + 2 * causal), 0.01, 10))
        for fused in (False, True)
        for causal in (False, True)
    ]
    costs = OperatorCosts(DeviceSurface(DEVICE), MeasuredOperators(entries))
    assert len(costs.measured) == 4
    assert all(costs.estimate(operator).seconds == measurement.seconds for operator, measurement in entries)


def test_what_is_learned_nearby_does_not_beat_the_peak() -> None:
    """Products measured 20% above the nominal peak, as clocks and caches allow: other shapes stay at it."""
    shapes = [Operator("gemm", "forward", size, size, size) for size in (2048, 4096)]
    surface = DeviceSurface(DEVICE)
    entries = [(o, Measurement(o.flops() / 120e12, 0.01, 10)) for o in shapes]
    other = Operator("gemm", "forward", 3072, 3072, 3072)
    assert OperatorCosts(surface, MeasuredOperators(entries)).estimate(other).seconds == other.flops() / 100e12


def test_saved_tensors_of_a_layer_add_up_to_its_activations() -> None:
    """A tensor that two operators share (the attention's output is the projection's input) counts once."""
    s, b, h, a = 2048, 2, 1024, 16
    for gated, dropout, attention in ((False, True, "unfused"), (True, False, "flash"), (False, True, "flash")):
        model = ModelSpec(4, h, a, s, 1024, swiglu=gated, dropout=dropout)
        configuration = Configuration(model, ParallelSpec(), TrainSpec(b, b, attention_kernel=attention))
        program = Parts(configuration.shard).layer(LayerKind())
        tensors = [kind(c.operator.kind).saved(c.operator, dropout, gated) for c in operators_of(program.forward)]
        total = sum(size for saved in tensors for name, size in saved.items() if name != "output")
        assert total == program.saved_bytes


def write_old_attention(out: Path) -> None:
    """A capture as schema 1.1 wrote it: one text for both, the full square, no column for the mask."""
    sink = Sink(str(out), "old", 0)
    sink.write("runs", [run_row("old", schema_version="1.1")])
    sink.write("ranks", [rank_row("old", 0)])
    shape = {"seq_q": 64, "seq_kv": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "batch": 1, "dtype": "float32"}
    rows = [
        {
            "run_id": "old", "rank": 0, "step": 1, "name": "core_attention", "kind": "attention", "phase": "forward",
            "source": "module", **shape, "fused": fused, "flops": 4.0 * 4 * 64 * 64 * 16, "bytes": 1.0,
            "start_ns": 1, "duration_ns": 1000 * (number + 1),
        }
        for number, fused in enumerate((None, "flash", "flash, not causal"))
    ]  # fmt: skip
    schema = arrow_schema("operators")
    old = schema.remove(schema.get_field_index("causal"))
    old = old.with_metadata({**(schema.metadata or {}), b"vtrain.schema_version": b"1.1"})
    path = out / "run_id=old" / "table=operators" / "rank=00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=old), path)


def test_files_of_the_version_before_are_read(tmp_path: Path) -> None:
    write_old_attention(tmp_path / "p")
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path / "p")]).problems
    with catalog.reading() as connection:
        measured = {(o.fused, o.causal): m.seconds for o, m in load_operators(connection, ["old"])}
    assert measured == {(False, True): 1e-6, (True, True): 2e-6, (True, False): 3e-6}
    rows = catalog.sql("SELECT fused, causal, flops FROM operator_times ORDER BY median_ns").to_pylist()
    square = 4.0 * 4 * 64 * 64 * 16
    assert [tuple(r.values()) for r in rows] == [
        (None, True, square), ("flash", True, square / 2), ("flash", False, square),
    ]  # fmt: skip


def test_runs_with_a_kind_that_is_not_installed_are_refused(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path / "p"), "r", 0)
    sink.write("runs", [run_row("r")])
    sink.write("ranks", [rank_row("r", 0)])
    row = {"name": "x", "kind": "scan", "phase": "forward", "source": "module", "m": 8, "start_ns": 1, "duration_ns": 9}
    sink.write("operators", [{"run_id": "r", "rank": 0, "step": 1, **row}])
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path / "p")])
    with (
        catalog.reading() as connection,
        pytest.raises(UserError, match="operators of an unknown operator kind 'scan'"),
    ):
        load_operators(connection, ["r"])
