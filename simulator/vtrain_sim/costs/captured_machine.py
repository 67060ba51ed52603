"""The machine of a captured run, as far as its tables say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from vtrain_schemas.operators import dtype_bytes, kind
from vtrain_sim.costs.measured import MeasuredOperators
from vtrain_sim.specs import ClusterSpec, DeviceSpec, NetworkLevel
from vtrain_sim.specs.cluster import UNKNOWN_BANDWIDTH

_BACKENDS = ("nccl", "gloo", "mpi", "ucc", "fake")
# Kinds of operators whose time is that of reading and writing memory.
_STREAMED = ("norm", "activation", "optimizer", "grad_norm")


def contention(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> float:
    """How much slower compute is when all devices of a node work at once and wait for the slowest.

    The microbenchmark times the same work on one rank while the others wait, and on all together.
    """
    ((ratio,),) = connection.execute(
        """
        WITH slowest AS (
            SELECT run_id, name, step, max(duration_ns) AS ns FROM operators
            WHERE list_contains(?, run_id) AND name IN ('reference_alone', 'reference_together')
            GROUP BY ALL
        )
        SELECT median(ns) FILTER (name = 'reference_together') / median(ns) FILTER (name = 'reference_alone')
        FROM slowest
        """,
        [run_ids],
    ).fetchall()
    return max(1.0, float(ratio or 1.0))


def machine_of(
    run: Mapping[str, Any], operators: MeasuredOperators, contention: float, gpus_per_node: int
) -> ClusterSpec:
    """The cluster that a row of the runs table describes: peaks are the best that was seen on it, links unknown."""
    unknown = NetworkLevel("unknown", UNKNOWN_BANDWIDTH, 0.0)
    backend = str(run["backend"] or "gloo")
    return ClusterSpec(
        name=f"the machine of run {run['run_id']}",
        device=_device(run, operators),
        gpus_per_node=gpus_per_node,
        intra_node=unknown,
        inter_node=unknown,
        # gloo moves and reduces data on the cores that compute: nothing really hides.
        overlap_efficiency=0.0 if backend == "gloo" else 1.0,
        contention=contention,
        backend=backend if backend in _BACKENDS else "gloo",
    )


def _device(run: Mapping[str, Any], operators: MeasuredOperators) -> DeviceSpec:
    rates = _product_rates(operators)
    narrow = {dtype: rate for dtype, rate in rates.items() if dtype_bytes(dtype) == 1}
    rate = max((r for dtype, r in rates.items() if dtype not in narrow), default=1e12)
    bandwidth = max((o.bytes() / m.seconds for o, m in operators if o.kind in _STREAMED), default=rate / 100)
    return DeviceSpec(
        name=str(run["device_name"]),
        peak_flops={str(run["params_dtype"] or "bfloat16"): rate, **narrow},
        memory_bandwidth=bandwidth,
        memory_bytes=int(run["device_memory_bytes"] or 1 << 40),
    )


def _product_rates(operators: MeasuredOperators) -> dict[str, float]:
    """The best FLOP/s of a matrix product or attention that was measured, by element type."""
    rates: dict[str, float] = {}
    for operator, measurement in operators:
        if kind(operator.kind).matrix_product:
            rates[operator.dtype] = max(rates.get(operator.dtype, 0.0), operator.flops() / measurement.seconds)
    return rates
