"""The cost surface of a device: roofline with an efficiency per kind, GEMMs by tiles and waves.

Coefficients come from `vtrain_sim.calibration.surfaces` (see data/vtrain_data/devices) or, for a device
without any, are all 1: then only measurements say what it really reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtrain_schemas.operators import Family, Operator, dtype_bytes, kind
from vtrain_schemas.operators.attention import score_bytes
from vtrain_sim.specs import DeviceSpec

Floats = NDArray[np.float64]
Size: TypeAlias = float | NDArray[np.float64] | NDArray[np.int64]

# Uncertainty (standard deviation of the logarithm) of a surface that nothing was fitted to.
UNCALIBRATED_SIGMA = 0.7


@dataclass(frozen=True)
class Tile:
    """One output tile of a GEMM kernel and the share of peak that it sustains."""

    m: int
    n: int
    efficiency: float


@dataclass(frozen=True)
class GemmSurface:
    """Matrix products of one element type: tiles to choose from, and the fixed time of one wave."""

    tiles: tuple[Tile, ...]
    wave_s: float = 0.0


@dataclass(frozen=True)
class Surfaces:
    """Coefficients of one device.

    compute_units: streaming multiprocessors that share the tiles of a GEMM (0: no quantisation).
    gemm: surface by element type. half_seq, half_dim: sequence length and head dimension at which fused
    attention reaches half of its efficiency. head_dim: by head dimension, the rate of kernels made for it over
    that. Latent attention counts by the mean of its two dimensions. efficiency: by kind, "kind/phase" or
    "kind/dtype", of the roofline's bound. overhead_s: fixed time of one call of a kind. launch_s: host time of one
    kernel launch. host_s: further host time of one call of a kind (Python, autograd, waiting for sizes that the device
    knows); host_each_s: for each product of a grouped one. sigma: uncertainty by kind, standard deviation of the
    logarithm. step_sigma: that of a whole step, beyond its operators'.
    """

    compute_units: int = 0
    gemm: Mapping[str, GemmSurface] = field(default_factory=dict)
    half_seq: float = 0.0
    half_dim: float = 0.0
    head_dim: Mapping[str, float] = field(default_factory=dict)
    launch_s: float = 0.0
    step_sigma: float = 0.0
    efficiency: Mapping[str, float] = field(default_factory=dict)
    overhead_s: Mapping[str, float] = field(default_factory=dict)
    host_s: Mapping[str, float] = field(default_factory=dict)
    host_each_s: Mapping[str, float] = field(default_factory=dict)
    sigma: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Surfaces:
        """Read the [surfaces] section of a device preset."""
        gemm = {
            dtype: GemmSurface(
                tuple(Tile(int(t["m"]), int(t["n"]), float(t["efficiency"])) for t in table["tiles"]),
                float(table.get("wave_s", 0.0)),
            )
            for dtype, table in values.get("gemm", {}).items()
        }
        return cls(
            compute_units=int(values.get("compute_units", 0)),
            gemm=gemm,
            half_seq=float(values.get("half_seq", 0.0)),
            half_dim=float(values.get("half_dim", 0.0)),
            head_dim=dict(values.get("head_dim", {})),
            launch_s=float(values.get("launch_s", 0.0)),
            step_sigma=float(values.get("step_sigma", 0.0)),
            efficiency=dict(values.get("efficiency", {})),
            overhead_s=dict(values.get("overhead_s", {})),
            host_s=dict(values.get("host_s", {})),
            host_each_s=dict(values.get("host_each_s", {})),
            sigma=dict(values.get("sigma", {})),
        )

    def coefficient(self, table: Mapping[str, float], operator: Operator, default: float) -> float:
        """Most specific entry of a table: "kind/phase", "kind/dtype", "kind", or that of the kind which it is like."""
        record = kind(operator.kind)
        phase = "forward" if operator.phase == "recompute" else operator.phase
        for name in filter(None, (record.variant(operator), record.like)):
            for key in (f"{name}/{phase}", f"{name}/{operator.dtype}", name):
                if key in table:
                    return table[key]
        return default


class DeviceSurface:
    """Times of operators on a device, from its published peaks and its coefficients."""

    def __init__(self, device: DeviceSpec, surfaces: Surfaces | None = None) -> None:
        self.device = device
        self.surfaces = surfaces or Surfaces()
        self._formulas: dict[Family, Callable[[Operator], float]] = {
            Family.MATRIX_PRODUCT: self._gemm,
            Family.ATTENTION: self._attention,
            Family.MEMORY_BOUND: self._memory_bound,
        }

    def seconds(self, operator: Operator) -> float:
        """Duration of one call; 0 for a kind that costs nothing unless measured."""
        overhead = self.surfaces.coefficient(self.surfaces.overhead_s, operator, 0.0)
        formula = self._formulas.get(kind(operator.kind).family)
        if formula is None or not (operator.flops() or operator.bytes()):
            return overhead
        return overhead + formula(operator)

    def least_seconds(self, operator: Operator) -> float:
        """What a matrix product or attention takes at the device's peak; 0 for any other operator."""
        if not kind(operator.kind).matrix_product:
            return 0.0
        return operator.flops() / self.device.peak(operator.dtype)

    def sigma(self, operator: Operator) -> float:
        """Uncertainty of `seconds`, standard deviation of the logarithm."""
        return self.surfaces.coefficient(self.surfaces.sigma, operator, UNCALIBRATED_SIGMA)

    def launch_seconds(self, operator: Operator, share: float = 1.0) -> float:
        """Host time of one call: to launch its kernels, and besides. share: of its layer's time (`host_s`), where
        several calls are one layer. Input and weight gradients that run apart take together what the undivided
        backward pass does: where a schedule runs them does not spare the host anything."""
        if operator.phase not in ("dgrad", "wgrad"):
            return self.surfaces.launch_s * kind(operator.kind).launches(operator) + self._besides(operator, share)
        whole = replace(operator, phase="backward")
        record = kind(operator.kind)
        launches = record.launches(operator)
        if operator.phase == "dgrad":
            launches = max(launches, record.launches(whole) - record.launches(replace(operator, phase="wgrad")))
        return self.surfaces.launch_s * launches + self._besides(whole, share) / 2

    def _besides(self, operator: Operator, share: float) -> float:
        """Host time of one call that is not a kernel's launch."""
        surfaces = self.surfaces
        besides = share * surfaces.coefficient(surfaces.host_s, operator, 0.0)
        each_s = surfaces.coefficient(surfaces.host_each_s, operator, 0.0)
        return besides + each_s * kind(operator.kind).problems(operator)

    def _memory_bound(self, operator: Operator) -> float:
        efficiency = self.surfaces.coefficient(self.surfaces.efficiency, operator, 1.0)
        return operator.bytes() / self.device.memory_bandwidth / efficiency

    def _attention(self, operator: Operator) -> float:
        surfaces, bandwidth = self.surfaces, self.device.memory_bandwidth
        efficiency = surfaces.coefficient(surfaces.efficiency, operator, 1.0)
        products_s = operator.flops() / self.device.peak(operator.dtype)
        if operator.fused:
            share = attention_efficiency(operator.seq_kv, operator.head_dim, surfaces.half_seq, surfaces.half_dim)
            efficiency *= float(share) * surfaces.head_dim.get(str(operator.head_dim), 1.0)
            return float(max(products_s / efficiency, operator.bytes() / bandwidth))
        # Separate kernels: batched products, and passes over the score matrix.
        scores_s = score_bytes(operator) / bandwidth
        # Tensor cores take 16-bit operands in rows of 8: other head sizes fall back to much slower kernels.
        aligned = operator.head_dim % 8 == 0 or dtype_bytes(operator.dtype) != 2
        products = surfaces.efficiency.get("batched gemm" if aligned else "unaligned batched gemm", 1.0)
        return products_s / products + scores_s / efficiency

    def _gemm(self, operator: Operator) -> float:
        """Products of a call: a backward pass has the gradients of the input and of the weights."""
        m, n, k = operator.m, operator.n, operator.k
        # Input gradient [m, k] = [m, n] [n, k]; weight gradient [n, k] = [n, m] [m, k].
        if operator.phase == "dgrad":
            return self._product(operator, "dgrad", m, k, n)
        if operator.phase == "wgrad":
            return self._product(operator, "wgrad", n, k, m)
        if operator.phase == "backward":
            return self._product(operator, "dgrad", m, k, n) + self._product(operator, "wgrad", n, k, m)
        return self._product(operator, "forward", m, n, k)

    def _product(self, operator: Operator, phase: str, m: int, n: int, k: int) -> float:
        surfaces, device = self.surfaces, self.device
        problems = kind(operator.kind).problems(operator)
        sustained = surfaces.efficiency.get("gemm", 1.0)
        # What an entry for a type also holds, the kernels of plain products, says nothing of grouped ones.
        efficiency = sustained if problems > 1 else surfaces.efficiency.get(f"gemm/{operator.dtype}", sustained)
        if phase == "wgrad":
            efficiency *= surfaces.efficiency.get("gemm/wgrad", 1.0)
        if problems > 1:
            share = surfaces.efficiency.get(operator.kind, 1.0)
            efficiency *= surfaces.efficiency.get(f"{operator.kind}/{operator.dtype}", share)
        memory_s = replace(operator, phase=phase).bytes() / device.memory_bandwidth
        surface = surfaces.gemm.get(operator.dtype) or surfaces.gemm.get("bfloat16")
        if surface is None or not surfaces.compute_units:
            return max(2.0 * m * n * k / device.peak(operator.dtype) / efficiency, memory_s)
        per_unit = device.peak(operator.dtype) / surfaces.compute_units
        # Tokens are shared out over the problems: they are the rows, of a weight gradient the inner dimension.
        rows, columns, inner = (m / problems, n, float(k)) if phase != "wgrad" else (float(m), n, k / problems)
        fastest = min(
            tile_seconds(rows, columns, inner, tile, surfaces.compute_units, per_unit, surface.wave_s, problems)
            for tile in surface.tiles
        )
        return max(float(fastest) / efficiency, memory_s)


def tile_seconds(
    m: Size, n: Size, k: Size, tile: Tile, units: int, flops_per_unit: float, wave_s: float, problems: int = 1
) -> Floats:
    """Time of a GEMM with one kind of tile: whole waves of whole tiles over the compute units, seconds.

    m, n, k may be numbers or arrays [products]. NVIDIA, "Matrix multiplication background user's guide", tile
    and wave quantisation.
    """
    tiles = problems * np.ceil(m / tile.m) * np.ceil(n / tile.n)
    waves = np.ceil(tiles / units)
    seconds: Floats = waves * (2.0 * tile.m * tile.n * k / (flops_per_unit * tile.efficiency) + wave_s)
    return seconds


def attention_efficiency(seq: Size, head_dim: Size, half_seq: float, half_dim: float) -> Floats:
    """Share of its best rate that fused attention reaches: it saturates with sequence and head size."""
    efficiency: Floats = np.divide(1.0, (1.0 + half_seq / seq) * (1.0 + half_dim / head_dim))
    return efficiency
