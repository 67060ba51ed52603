"""Fits a device's cost surfaces to measurement tables.

The fit minimises the mean absolute logarithm of predicted over measured, which no single slow or
fast shape dominates. The spread that remains is the surface's error band.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtrain_schemas.operators import Family, Operator, element_bytes, kind
from vtrain_sim.calibration.measurements import columns_of, equal_to, query
from vtrain_sim.costs.measured import MeasuredOperators
from vtrain_sim.costs.surfaces import (
    DeviceSurface,
    GemmSurface,
    Surfaces,
    Tile,
    attention_efficiency,
    tile_seconds,
)
from vtrain_sim.errors import UserError
from vtrain_sim.specs import DeviceSpec

Array = NDArray[np.float64]
TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
# Below this size launch and clock ramps dominate a GEMM: training has no such shapes.
SMALLEST = 256


@dataclass(frozen=True)
class Fit:
    """Fitted surfaces, and how well they do on what they were fitted to."""

    surfaces: Surfaces
    report: tuple[str, ...]


def read_gemms(path: Path, source: str = "", dtype: str = "", system: str = "") -> Array:
    """[count, 4] m, n, k, seconds from a Parquet or CSV table with columns m, n, k and duration_us, or
    latency (ms). source, dtype, system: only rows with this `source` (or `stack`), this `gemm_dtype` (or `dtype`),
    this `system`."""
    columns = columns_of(path)
    where, values = _chosen_rows(columns, source, dtype, system)
    rows = query(
        path,
        f"SELECT m, n, k, median({_seconds(columns)}) FROM table "
        f"WHERE m >= $least AND n >= $least AND k >= $least{where} GROUP BY m, n, k ORDER BY ALL",
        {"least": SMALLEST, **values},
    )
    if not rows:
        raise UserError(
            f"{path} has no GEMM of {SMALLEST} or more in every dimension" + (f" from {source}" if source else "")
        )
    return np.array(rows, dtype=np.float64)


def _seconds(columns: list[str]) -> str:
    return "duration_us / 1e6" if "duration_us" in columns else "latency / 1e3"


def _chosen_rows(columns: list[str], source: str, dtype: str, system: str) -> tuple[str, dict[str, object]]:
    """SQL conditions, and their values, of the rows of one source, element type and system."""
    aliases = ((("source", "stack"), source), (("gemm_dtype", "dtype"), dtype), (("system",), system))
    return equal_to({next((name for name in names if name in columns), names[0]): text for names, text in aliases})


def read_attention(path: Path, system: str = "") -> list[tuple[Operator, float]]:
    """Causal attention forward from a table with batch_size, isl (or seq_length), num_heads, head_dim and latency (ms)
    or duration_us. system: only rows of this `system`."""
    columns = columns_of(path)
    length = "seq_length" if "seq_length" in columns else "isl"
    where, values = _chosen_rows(columns, "", "", system)
    if "window_size" in columns:
        # Whole causal attention in 16 bits, where a table also has windows and 8-bit attention.
        kind_of_element = "attn_dtype" if "attn_dtype" in columns else "dtype"
        where += f" AND window_size <= 0 AND {kind_of_element} IN ('bfloat16', 'float16')"
    rows = query(
        path,
        f"SELECT batch_size, {length}, num_heads, num_key_value_heads, head_dim, median({_seconds(columns)}) "
        f"FROM table WHERE {length} >= 1024 AND num_heads >= 4{where} GROUP BY ALL ORDER BY ALL",
        values,
    )
    return [
        (
            Operator(
                "attention",
                "forward",
                batch=b,
                seq_q=s,
                seq_kv=s,
                heads=h,
                kv_heads=kv or h,
                head_dim=d,
                dtype="bfloat16",
                fused=True,
                causal=True,
            ),
            seconds,
        )
        for b, s, h, kv, d, seconds in rows
    ]


def fit_gemms(device: DeviceSpec, units: int, table: Array, dtype: str = "bfloat16", most: int = 6000) -> Fit:
    """Efficiency of each tile and time of a wave, by coordinate descent on the mean |log error|."""
    step = max(1, len(table) // most)
    m, n, k, seconds = table[::step].T
    per_unit = device.peak(dtype) / units
    size = element_bytes(dtype)
    memory = (size * (m * k + k * n) + max(2, size) * m * n) / device.memory_bandwidth

    def predict(parameters: Array) -> Array:
        *efficiencies, wave, overhead = np.exp(parameters)
        times = [
            tile_seconds(m, n, k, Tile(tm, tn, e), units, per_unit, wave)
            for (tm, tn), e in zip(TILES, efficiencies, strict=True)
        ]
        best: Array = overhead + np.maximum(np.minimum.reduce(times), memory)
        return best

    def loss(parameters: Array) -> float:
        if np.any(np.exp(parameters[: len(TILES)]) > 0.95):
            return np.inf
        return float(np.abs(np.log(predict(parameters) / seconds)).mean())

    start = np.log(np.array([0.85, 0.85, 0.8, 0.65, 0.65, 0.45, 2e-6, 3e-6]))
    fitted = descend(loss, start)
    residual = np.log(predict(fitted) / seconds)
    *efficiencies, wave, overhead = (float(v) for v in np.exp(fitted))
    surfaces = Surfaces(
        compute_units=units,
        gemm={
            dtype: GemmSurface(
                tuple(Tile(tm, tn, round(e, 4)) for (tm, tn), e in zip(TILES, efficiencies, strict=True)),
                float(f"{wave:.3g}"),
            )
        },
        overhead_s={"gemm": float(f"{overhead:.3g}")},
        sigma={"gemm": round(float(residual.std()), 3)},
    )
    report = (
        f"gemm in {dtype}: {len(seconds)} shapes, mean error {np.abs(np.expm1(residual)).mean():.1%}, "
        f"median {np.median(np.abs(np.expm1(residual))):.1%}, bias {np.expm1(residual.mean()):+.1%}"
    )
    return Fit(surfaces, (report,))


def descend(
    loss: Callable[[Array], float],
    start: Array,
    rounds: int = 60,
    step: float = 0.2,
    least: float = 1e-3,
    progress: Callable[[int, float], None] = lambda number, value: None,
) -> Array:
    """Coordinate descent with a step that halves when no coordinate improves, until it is below `least`."""
    best: Array = start.copy()
    value = loss(start)
    for number in range(rounds):
        improved = False
        for index in range(len(best)):
            for sign in (step, -step):
                trial = best.copy()
                trial[index] += sign
                trial_value = loss(trial)
                if trial_value < value - 1e-7:
                    best, value, improved = trial, trial_value, True
                    break
        progress(number + 1, value)
        if not improved:
            step /= 2
            if step < least:
                break
    return best


def fit_attention(device: DeviceSpec, surfaces: Surfaces, rows: list[tuple[Operator, float]]) -> Fit:
    """Best rate of fused causal attention forward, and where it saturates."""
    seq, dim, seconds = (
        np.array(v, dtype=np.float64)
        for v in ([o.seq_kv for o, _ in rows], [o.head_dim for o, _ in rows], [s for _, s in rows])
    )
    ideal = np.array([o.flops() / device.peak(o.dtype) for o, _ in rows])
    memory = np.array([o.bytes() / device.memory_bandwidth for o, _ in rows])

    def predict(parameters: Array) -> Array:
        best, half_seq, half_dim, overhead = np.exp(parameters)
        rate = best * attention_efficiency(seq, dim, half_seq, half_dim)
        times: Array = overhead + np.maximum(ideal / rate, memory)
        return times

    def loss(parameters: Array) -> float:
        return float(np.abs(np.log(predict(parameters) / seconds)).mean())

    parameters = descend(loss, np.log(np.array([0.65, 700.0, 10.0, 3e-5])))
    residual = np.log(predict(parameters) / seconds)
    best, half_seq, half_dim, overhead = (float(v) for v in np.exp(parameters))
    fitted = replace(
        surfaces,
        half_seq=round(half_seq, 1),
        half_dim=round(half_dim, 1),
        efficiency={**surfaces.efficiency, "attention/forward": round(best, 4)},
        overhead_s={**surfaces.overhead_s, "attention": float(f"{overhead:.3g}")},
        sigma={**surfaces.sigma, "attention": round(float(residual.std()), 3)},
    )
    return Fit(
        fitted,
        (f"attention forward: {len(rows)} shapes, mean error {np.abs(np.expm1(residual)).mean():.1%}",),
    )


def in_layer_factor(device: DeviceSpec, surfaces: Surfaces, table: Array) -> float:
    """How much longer GEMMs take inside a running layer than alone: median over shapes."""
    surface = DeviceSurface(device, surfaces)
    step = max(1, len(table) // 3000)
    ratios = [
        seconds / surface.seconds(Operator("gemm", "forward", int(m), int(n), int(k), dtype="bfloat16"))
        for m, n, k, seconds in table[::step]
        if seconds > 1e-4
    ]
    return float(np.median(ratios)) if ratios else 1.0


def usual_dtype(measured: MeasuredOperators) -> str:
    """Element type of most of the time in measured products; bfloat16 without any."""
    seconds: dict[str, float] = {}
    for operator, measurement in measured:
        if operator.kind == "gemm":
            seconds[operator.dtype] = seconds.get(operator.dtype, 0.0) + measurement.seconds * measurement.calls
    return max(seconds, key=lambda dtype: seconds[dtype], default="bfloat16")


def from_profile(measured: MeasuredOperators, dtype: str) -> tuple[Array, dict[str, float]]:
    """What a user's own profile says: [count, 4] forward GEMMs (m, n, k, seconds), and the bytes per
    second that each memory-bound kind reaches, middle over its shapes."""
    gemms = [
        (o.m, o.n, o.k, m.seconds)
        for o, m in measured
        if o.kind == "gemm" and o.phase == "forward" and o.dtype == dtype and min(o.m, o.n, o.k) >= SMALLEST
    ]
    rates: dict[str, list[float]] = {}
    for operator, measurement in measured:
        if kind(operator.kind).family is Family.MEMORY_BOUND and measurement.seconds > 0:
            phase = "" if operator.phase in ("update", "recompute") else f"/{operator.phase}"
            rates.setdefault(operator.kind + phase, []).append(operator.bytes() / measurement.seconds)
    return np.array(gemms, dtype=np.float64).reshape(-1, 4), {k: float(np.median(v)) for k, v in rates.items()}


def to_toml(surfaces: Surfaces) -> str:
    """The [surfaces] section of a device preset."""
    lines = ["[surfaces]", f"compute_units = {surfaces.compute_units}"]
    lines += [f"half_seq = {surfaces.half_seq:g}", f"half_dim = {surfaces.half_dim:g}"]
    lines += [f"launch_s = {surfaces.launch_s:g}"]
    for dtype, gemm in surfaces.gemm.items():
        lines += ["", f"[surfaces.gemm.{dtype}]", f"wave_s = {gemm.wave_s:g}", "tiles = ["]
        lines += [f"    {{ m = {t.m}, n = {t.n}, efficiency = {t.efficiency:g} }}," for t in gemm.tiles]
        lines.append("]")
    for name in ("head_dim", "efficiency", "overhead_s", "host_s", "host_each_s", "sigma"):
        table = getattr(surfaces, name)
        if table:
            lines += ["", f"[surfaces.{name}]"]
            lines += [f'"{key}" = {value:g}' for key, value in sorted(table.items())]
    return "\n".join(lines) + "\n"
