"""Fits the grouped products of a rank's experts to a table of whole expert feed-forward blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtrain_schemas.operators import Operator
from vtrain_sim.calibration.measurements import equal_to, query
from vtrain_sim.calibration.surfaces import descend
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.specs import DeviceSpec

Floats = NDArray[np.float64]
# Fewer shapes leave three coefficients open.
FEWEST = 20


@dataclass(frozen=True)
class ExpertBlock:
    """One measured block: rows that a rank's experts share, hidden and expert size, experts, tokens, seconds."""

    rows: int
    hidden: int
    ffn: int
    experts: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ExpertFit:
    """Coefficients of `grouped_gemm` beside the plain product's. report: a line for each element type."""

    efficiency: dict[str, float]
    overhead_s: float
    report: tuple[str, ...]


def read_experts(path: Path, rows_of: str, source: str = "", system: str = "") -> list[ExpertBlock]:
    """Evenly routed gated blocks of a table with num_tokens, hidden_size, inter_size, topk, num_experts, moe_tp_size,
    moe_ep_size, distribution, dtype, stack, kernel_source, system and duration_us; of the fastest kernel of each shape
    that is made for many rows. rows_of: the table's word for the element type."""
    where, values = equal_to({"stack": source, "system": system})
    rows = query(
        path,
        "SELECT num_tokens, hidden_size, inter_size // moe_tp_size, topk, num_experts, moe_ep_size, min(duration_us) "
        "FROM table WHERE dtype = $dtype AND distribution = 'balanced' AND num_experts >= 2 * moe_ep_size "
        "AND NOT contains(kernel_source, 'min_latency') "
        f"AND inter_size // moe_tp_size >= 256{where} GROUP BY ALL ORDER BY ALL",
        {"dtype": rows_of, **values},
    )
    if len(rows) < FEWEST:
        raise UserError(f"{path} has {len(rows)} blocks of experts in {rows_of}: a fit takes {FEWEST}")
    return [ExpertBlock(t * k // ep, h, f, experts // ep, t, us / 1e6) for t, h, f, k, experts, ep, us in rows]


def fit_experts(device: DeviceSpec, surfaces: Surfaces, tables: Mapping[str, list[ExpertBlock]]) -> ExpertFit:
    """Efficiency of grouped products over that of a plain one, by element type, and the fixed time of one.

    A block is two products, and passes over memory: the activation, rows to their experts, and their weighted sum. The
    share of the memory bandwidth that these reach is fitted too, and left out of the result.
    """
    # Kernels alone: what a product loses in a training step is no property of grouped ones.
    alone = {k: v for k, v in surfaces.efficiency.items() if not k.startswith(("gemm", "grouped_gemm"))}
    surface = DeviceSurface(device, replace(surfaces, efficiency=alone, overhead_s={}))
    efficiency: dict[str, float] = {}
    overheads, report = [], []
    for dtype, blocks in tables.items():
        products = np.array([_products_s(surface, dtype, b) for b in blocks])
        passes = np.array([2.0 * (3 * b.rows * (b.ffn + b.hidden) + b.tokens * b.hidden) for b in blocks])
        measured = np.array([b.seconds for b in blocks])
        share, overhead, error = _fit(products, passes / device.memory_bandwidth, measured)
        efficiency[dtype] = round(share, 4)
        overheads.append(overhead)
        report.append(f"experts in {dtype}: {len(blocks)} blocks, mean error {error:.1%}")
    return ExpertFit(efficiency, float(f"{np.median(overheads):.3g}"), tuple(report))


def _fit(products: Floats, passes: Floats, measured: Floats) -> tuple[float, float, float]:
    """Efficiency, fixed time of a product, and mean error. products, passes, measured: [blocks] seconds."""

    def predict(values: Floats) -> Floats:
        share, memory, overhead = np.exp(values)
        predicted: Floats = 2 * overhead + products / share + passes / memory
        return predicted

    def loss(values: Floats) -> float:
        return float(np.abs(np.log(predict(values) / measured)).mean())

    best = descend(loss, np.log(np.array([0.9, 0.6, 1e-5])))
    return float(np.exp(best[0])), float(np.exp(best[2])), float(np.abs(predict(best) / measured - 1).mean())


def _products_s(surface: DeviceSurface, dtype: str, block: ExpertBlock) -> float:
    first = Operator("grouped_gemm", "forward", block.rows, 2 * block.ffn, block.hidden, block.experts, dtype=dtype)
    second = Operator("grouped_gemm", "forward", block.rows, block.hidden, block.ffn, block.experts, dtype=dtype)
    return surface.seconds(first) + surface.seconds(second)
