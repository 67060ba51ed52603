"""Fits the scan and the convolution of Mamba2 mixers to a table of single calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtrain_schemas.operators import Operator
from vtrain_schemas.operators import kind as kind_of
from vtrain_sim.calibration.measurements import equal_to, query
from vtrain_sim.calibration.surfaces import descend
from vtrain_sim.errors import UserError
from vtrain_sim.specs import DeviceSpec

Floats = NDArray[np.float64]
Calls = list[tuple[Operator, float]]
# Fewer shapes leave the coefficients open.
FEWEST = 20
# Shorter sequences and fewer tokens than training has: they do not fill a device.
SHORTEST, FEWEST_TOKENS = 2048, 4096
# Seconds that one kernel of a graph takes whatever it does: more is work that does not grow with tokens, which there is
# none of.
_MOST_FIXED = 4e-6
_KERNELS = {"chunk_scan": "mamba_chunk_scan_combined", "causal_conv1d": "causal_conv1d_fn"}


@dataclass(frozen=True)
class ScanFit:
    """Coefficients of the kinds that a table has. report: a line for each kind."""

    efficiency: dict[str, float]
    overhead_s: dict[str, float]
    sigma: dict[str, float]
    report: tuple[str, ...]


def read_scans(path: Path, system: str = "") -> dict[str, Calls]:
    """Forward calls by kind, of a table with kernel_source (mamba_chunk_scan_combined or causal_conv1d_fn), batch_size,
    seq_len, d_state, d_conv, nheads, head_dim, n_groups, chunk_size and duration_us; kinds without rows are left out.

    Raises `UserError`.
    """
    where, values = equal_to({"system": system})
    shapes = query(
        path,
        "SELECT kernel_source, batch_size, seq_len, d_state, d_conv, nheads, head_dim, n_groups, chunk_size, "
        "median(duration_us) FROM table WHERE seq_len >= $shortest AND batch_size * seq_len >= $fewest"
        f"{where} GROUP BY ALL ORDER BY ALL",
        {"shortest": SHORTEST, "fewest": FEWEST_TOKENS, **values},
    )
    calls: dict[str, Calls] = {}
    for kernel, batch, length, states, filters, heads, head_dim, groups, chunk, microseconds in shapes:
        if kernel == _KERNELS["chunk_scan"]:
            operator = Operator(
                "chunk_scan",
                "forward",
                n=states,
                k=chunk,
                batch=batch,
                seq_q=length,
                heads=heads,
                kv_heads=groups,
                head_dim=head_dim,
            )
        elif kernel == _KERNELS["causal_conv1d"]:
            channels = heads * head_dim + 2 * groups * states
            operator = Operator("causal_conv1d", "forward", batch * length, channels, filters)
        else:
            continue
        calls.setdefault(operator.kind, []).append((operator, microseconds / 1e6))
    calls = {kind: rows for kind, rows in calls.items() if len(rows) >= FEWEST}
    if not calls:
        raise UserError(f"{path} has fewer than {FEWEST} scans or convolutions of {FEWEST_TOKENS} tokens or more")
    return calls


def fit_scans(device: DeviceSpec, calls: Mapping[str, Calls]) -> ScanFit:
    """Share of the memory bandwidth that each kind reaches, and the fixed time of one call.

    The table has no backward pass: that of a scan is modelled as taking so much longer as it has more FLOPs, which its
    kernels are nearer to than to the memory's peak; that of a convolution moves its bytes as fast as the forward pass.
    """
    efficiency, overhead, sigma, report = {}, {}, {}, []
    for kind, rows in calls.items():
        ideal = np.array([operator.bytes() / device.memory_bandwidth for operator, _ in rows])
        measured = np.array([seconds for _, seconds in rows])
        share, fixed, residual = _fit(ideal, measured, _MOST_FIXED * kind_of(kind).launches(rows[0][0]))
        efficiency[kind] = round(share, 4)
        if kind == "chunk_scan":
            efficiency["chunk_scan/backward"] = round(share * _backward_share(rows), 4)
        overhead[kind] = float(f"{fixed:.3g}")
        sigma[kind] = round(float(residual.std()), 3)
        report.append(f"{kind}: {len(rows)} shapes, mean error {np.abs(np.expm1(residual)).mean():.1%}")
    return ScanFit(efficiency, overhead, sigma, tuple(report))


def _fit(ideal: Floats, measured: Floats, most_fixed: float) -> tuple[float, float, Floats]:
    """Efficiency, fixed time of a call, and [calls] logarithms of predicted over measured. ideal, measured: seconds."""

    def residual(values: Floats) -> Floats:
        share, fixed = np.exp(values)
        result: Floats = np.log((fixed + ideal / share) / measured)
        return result

    def loss(values: Floats) -> float:
        return np.inf if np.exp(values[1]) > most_fixed else float(np.abs(residual(values)).mean())

    best = descend(loss, np.log(np.array([0.5, most_fixed / 2])))
    return float(np.exp(best[0])), float(np.exp(best[1])), residual(best)


def _backward_share(rows: Calls) -> float:
    """Efficiency of the backward pass over that of the forward pass, with the gate that training has."""
    shares = []
    for operator, _ in rows:
        forward = replace(operator, fused=True)
        backward = replace(forward, phase="backward")
        shares.append(backward.bytes() / forward.bytes() / (backward.flops() / forward.flops()))
    return float(np.median(shares))
