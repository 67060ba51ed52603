"""The cost surface of a device: roofline with an efficiency per kind, GEMMs by tiles and waves.

Coefficients come from `vtrain_sim.costs.calibrate` (see data/vtrain_data/devices) or, for a device
without any, are all 1: then only measurements say what it really reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vtrain_schemas.operators import Operator
from vtrain_sim.specs import DeviceSpec

# Uncertainty (standard deviation of the logarithm) of a surface that nothing was fitted to.
UNCALIBRATED_SIGMA = 0.7


@dataclass(frozen=True)
class Tile:
    """One output tile of a GEMM kernel and the share of peak that it sustains."""

    m: int
    n: int
    efficiency: float


@dataclass(frozen=True)
class Surfaces:
    """Coefficients of one device.

    compute_units: streaming multiprocessors that share the tiles of a GEMM (0: no quantisation).
    tiles: kernels to choose from. wave_s: fixed time of one wave. half_seq, half_dim: sequence length
    and head dimension at which fused attention reaches half of its efficiency. efficiency: by kind,
    or by "kind/phase", of the roofline's bound. overhead_s: fixed time of one call of a kind.
    sigma: uncertainty by kind, standard deviation of the logarithm.
    """

    compute_units: int = 0
    tiles: tuple[Tile, ...] = ()
    wave_s: float = 0.0
    half_seq: float = 0.0
    half_dim: float = 0.0
    efficiency: Mapping[str, float] = field(default_factory=dict)
    overhead_s: Mapping[str, float] = field(default_factory=dict)
    sigma: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Surfaces:
        """Read what `to_dict` (and the device presets) hold."""
        tiles = tuple(Tile(int(t["m"]), int(t["n"]), float(t["efficiency"])) for t in values.get("tiles", ()))
        return cls(
            compute_units=int(values.get("compute_units", 0)),
            tiles=tiles,
            wave_s=float(values.get("wave_s", 0.0)),
            half_seq=float(values.get("half_seq", 0.0)),
            half_dim=float(values.get("half_dim", 0.0)),
            efficiency=dict(values.get("efficiency", {})),
            overhead_s=dict(values.get("overhead_s", {})),
            sigma=dict(values.get("sigma", {})),
        )

    def coefficient(self, table: Mapping[str, float], operator: Operator, default: float) -> float:
        """Most specific entry of a table: "kind/phase", then "kind"."""
        specific = table.get(f"{operator.kind}/{operator.phase}")
        return specific if specific is not None else table.get(operator.kind, default)


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
        efficiency = surfaces.coefficient(surfaces.efficiency, operator, 1.0)
        memory_s = nbytes / self.device.memory_bandwidth
        if operator.kind in ("gemm", "grouped_gemm", "router") and surfaces.tiles:
            return overhead + max(self._gemm(operator) / efficiency, memory_s)
        if operator.kind == "attention" and operator.fused:
            efficiency *= attention_efficiency(operator.seq_kv, operator.head_dim, surfaces.half_seq, surfaces.half_dim)
        if operator.kind in ("gemm", "grouped_gemm", "router", "attention"):
            return overhead + max(flops / self.device.peak(operator.dtype), memory_s) / efficiency
        return overhead + memory_s / efficiency

    def sigma(self, operator: Operator) -> float:
        """Uncertainty of `seconds`, standard deviation of the logarithm."""
        return self.surfaces.coefficient(self.surfaces.sigma, operator, UNCALIBRATED_SIGMA)

    def _gemm(self, operator: Operator) -> float:
        """Best tile's time: whole waves of whole tiles (tile and wave quantisation)."""
        if operator.phase == "backward":
            # Data gradient [m, k] = [m, n] [n, k] and weight gradient [n, k] = [n, m] [m, k].
            return self._tiled(operator, operator.m, operator.k, operator.n) + self._tiled(
                operator, operator.n, operator.k, operator.m
            )
        if operator.phase == "dgrad":
            return self._tiled(operator, operator.m, operator.k, operator.n)
        if operator.phase == "wgrad":
            return self._tiled(operator, operator.n, operator.k, operator.m)
        return self._tiled(operator, operator.m, operator.n, operator.k)

    def _tiled(self, operator: Operator, m: int, n: int, k: int) -> float:
        surfaces = self.surfaces
        experts = operator.batch if operator.kind == "grouped_gemm" else 1
        per_unit = self.device.peak(operator.dtype) / surfaces.compute_units
        return float(
            min(
                tile_seconds(m / experts, n, k, tile, surfaces.compute_units, per_unit, surfaces.wave_s, experts)
                for tile in surfaces.tiles
            )
        )


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
