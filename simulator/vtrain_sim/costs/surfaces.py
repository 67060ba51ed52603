"""The cost surface of a device: roofline with an efficiency per kind, GEMMs by tiles and waves.

Coefficients come from `vtrain_sim.calibration.surfaces` (see data/vtrain_data/devices) or, for a device
without any, are all 1: then only measurements say what it really reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vtrain_schemas.operators import Operator, dtype_bytes
from vtrain_sim.specs import DeviceSpec

# Uncertainty (standard deviation of the logarithm) of a surface that nothing was fitted to.
UNCALIBRATED_SIGMA = 0.7
GEMM_KINDS = ("gemm", "grouped_gemm", "router")
# Kernels that the host launches for one call, by kind: (forward, backward). Counted in Megatron-Core
# with fused bias, GELU, dropout and softmax; a linear layer's backward has two products.
_KERNELS = {
    "gemm": (1, 2),
    "grouped_gemm": (1, 2),
    "router": (4, 4),
    "attention": (1, 3),
    "unfused attention": (5, 8),
    "norm": (1, 2),
    "rope": (3, 3),
    "activation": (1, 1),
    "bias_dropout_add": (4, 4),
    "embedding": (3, 2),
    "loss": (8, 2),
    "permute": (4, 4),
    "cast": (1, 1),
    "grad_accumulate": (2, 2),
}


def _kind(operator: Operator) -> str:
    """The kind under which coefficients are kept: attention in separate kernels has its own."""
    return "unfused attention" if operator.kind == "attention" and not operator.fused else operator.kind


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
    attention reaches half of its efficiency. efficiency: by kind, "kind/phase" or "kind/dtype", of the
    roofline's bound. overhead_s: fixed time of one call of a kind. launch_s: host time of one kernel
    launch. sigma: uncertainty by kind, standard deviation of the logarithm. step_sigma: that of a whole
    step, beyond its operators'.
    """

    compute_units: int = 0
    gemm: Mapping[str, GemmSurface] = field(default_factory=dict)
    half_seq: float = 0.0
    half_dim: float = 0.0
    launch_s: float = 0.0
    step_sigma: float = 0.0
    efficiency: Mapping[str, float] = field(default_factory=dict)
    overhead_s: Mapping[str, float] = field(default_factory=dict)
    sigma: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Surfaces:
        """Read the [surfaces] section of a device preset."""
        gemm = {
            dtype: GemmSurface(
                tuple(Tile(int(t["m"]), int(t["n"]), float(t["efficiency"])) for t in held["tiles"]),
                float(held.get("wave_s", 0.0)),
            )
            for dtype, held in values.get("gemm", {}).items()
        }
        return cls(
            compute_units=int(values.get("compute_units", 0)),
            gemm=gemm,
            half_seq=float(values.get("half_seq", 0.0)),
            half_dim=float(values.get("half_dim", 0.0)),
            launch_s=float(values.get("launch_s", 0.0)),
            step_sigma=float(values.get("step_sigma", 0.0)),
            efficiency=dict(values.get("efficiency", {})),
            overhead_s=dict(values.get("overhead_s", {})),
            sigma=dict(values.get("sigma", {})),
        )

    def coefficient(self, table: Mapping[str, float], operator: Operator, default: float) -> float:
        """Most specific entry of a table: "kind/phase", then "kind/dtype", then "kind"."""
        kind = _kind(operator)
        phase = "forward" if operator.phase == "recompute" else operator.phase
        for key in (f"{kind}/{phase}", f"{kind}/{operator.dtype}", kind):
            if key in table:
                return table[key]
        return default


class DeviceSurface:
    """Times of operators on a device, from its published peaks and its coefficients."""

    def __init__(self, device: DeviceSpec, surfaces: Surfaces | None = None) -> None:
        self.device = device
        self.surfaces = surfaces or Surfaces()

    def seconds(self, operator: Operator) -> float:
        """Duration of one call; 0 for a kind that costs nothing unless measured."""
        surfaces = self.surfaces
        overhead = surfaces.coefficient(surfaces.overhead_s, operator, 0.0)
        flops, nbytes = operator.flops(), operator.bytes()
        if not flops and not nbytes:
            return overhead
        if operator.kind in GEMM_KINDS:
            return overhead + self._gemm(operator)
        efficiency = surfaces.coefficient(surfaces.efficiency, operator, 1.0)
        memory_s = nbytes / self.device.memory_bandwidth
        if operator.kind != "attention":
            return overhead + memory_s / efficiency
        products_s = flops / self.device.peak(operator.dtype)
        if operator.fused:
            efficiency *= attention_efficiency(operator.seq_kv, operator.head_dim, surfaces.half_seq, surfaces.half_dim)
            return float(overhead + max(products_s, memory_s) / efficiency)
        # Separate kernels: batched products, and passes over the score matrix.
        scores_s = operator.score_bytes() / self.device.memory_bandwidth
        # Tensor cores take 16-bit operands in rows of 8: other head sizes fall back to much slower kernels.
        aligned = operator.head_dim % 8 == 0 or dtype_bytes(operator.dtype) != 2
        products = surfaces.efficiency.get("batched gemm" if aligned else "unaligned batched gemm", 1.0)
        return overhead + products_s / products + scores_s / efficiency

    def sigma(self, operator: Operator) -> float:
        """Uncertainty of `seconds`, standard deviation of the logarithm."""
        return self.surfaces.coefficient(self.surfaces.sigma, operator, UNCALIBRATED_SIGMA)

    def launch_seconds(self, operator: Operator) -> float:
        """Host time to launch the kernels of one call."""
        if not self.surfaces.launch_s:
            return 0.0
        counts = _KERNELS.get(_kind(operator), (0, 0))
        split = operator.phase in ("dgrad", "wgrad")
        return self.surfaces.launch_s * (1 if split else counts[operator.phase == "backward"])

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
        efficiency = surfaces.efficiency.get(f"gemm/{operator.dtype}", surfaces.efficiency.get("gemm", 1.0))
        if phase == "wgrad":
            efficiency *= surfaces.efficiency.get("gemm/wgrad", 1.0)
        experts = operator.batch if operator.kind == "grouped_gemm" else 1
        if experts > 1:
            efficiency *= surfaces.efficiency.get("grouped_gemm", 1.0)
        memory_s = replace(operator, phase=phase).bytes() / device.memory_bandwidth
        surface = surfaces.gemm.get(operator.dtype) or surfaces.gemm.get("bfloat16")
        if surface is None or not surfaces.compute_units:
            return max(2.0 * m * n * k / device.peak(operator.dtype) / efficiency, memory_s)
        per_unit = device.peak(operator.dtype) / surfaces.compute_units
        # Tokens are shared out over the experts: they are the rows, of a weight gradient the inner dimension.
        rows, columns, inner = (m / experts, n, float(k)) if phase != "wgrad" else (float(m), n, k / experts)
        fastest = min(
            tile_seconds(rows, columns, inner, tile, surfaces.compute_units, per_unit, surface.wave_s, experts)
            for tile in surface.tiles
        )
        return max(float(fastest) / efficiency, memory_s)


def tile_seconds(
    m: Any, n: Any, k: Any, tile: Tile, units: int, flops_per_unit: float, wave_s: float, problems: int = 1
) -> Any:
    """Time of a GEMM with one kind of tile: whole waves of whole tiles over the compute units.

    m, n, k may be numbers or arrays. NVIDIA, "Matrix multiplication background user's guide", tile
    and wave quantisation.
    """
    tiles = problems * np.ceil(m / tile.m) * np.ceil(n / tile.n)
    waves = np.ceil(tiles / units)
    return waves * (2.0 * tile.m * tile.n * k / (flops_per_unit * tile.efficiency) + wave_s)


def attention_efficiency(seq: Any, head_dim: Any, half_seq: float, half_dim: float) -> Any:
    """Share of its best rate that fused attention reaches: it saturates with sequence and head size."""
    return 1.0 / ((1.0 + half_seq / seq) * (1.0 + half_dim / head_dim))
