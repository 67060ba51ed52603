"""Many given configurations on one machine, evaluated together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vtrain_sim.errors import UserError
from vtrain_sim.results import Document, Result, Row, short
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import peak_of, share_of_peak
from vtrain_sim.specs import Configuration

SCHEMA = "vtrain.sweep/1"


@dataclass(frozen=True, repr=False)
class SweepPoint:
    """One configuration of a sweep. values: what was varied. configuration: None where Megatron refuses it.

    Times in seconds, memory in bytes, MFU and HFU 0 to 1; None where there is a reason instead.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> vt.sweep(job, tp=[3]).points[0].reason
    '--num-gpus is 8, which is not a multiple of ...'
    """

    values: Row
    configuration: Configuration | None = None
    reason: str = ""
    iteration_time_s: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    tokens_per_s_per_gpu: float | None = None
    peak_bytes: int | None = None
    fits: bool | None = None

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.to_dict().items() if value not in (None, "")}
        return f"SweepPoint({', '.join(f'{name}={short(value)}' for name, value in shown.items())})"

    def to_dict(self) -> Row:
        """The point as a row: what was varied, the world size, and the figures or the reason."""
        parallel = self.configuration.parallel if self.configuration is not None else None
        figures = ("iteration_time_s", "mfu", "hfu", "tokens_per_s_per_gpu", "peak_bytes", "fits", "reason")
        return {
            **self.values,
            "num_gpus": parallel.world_size if parallel is not None else None,
            **{name: getattr(self, name) for name in figures},
        }


@dataclass(frozen=True, repr=False)
class SweepResult(Result):
    """A table of projections: one point per combination of the values that were varied, in their order.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> result = vt.sweep(job, tp=[1, 2], pp=[1, 2])
    >>> len(result.points)
    4
    """

    cluster: str
    points: tuple[SweepPoint, ...]

    @property
    def fastest(self) -> SweepPoint | None:
        """The point that fits in memory and trains on most tokens per second and device; None where none fits.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> sorted(vt.sweep(job, tp=[1, 2], pp=[1, 2]).fastest.values)
        ['pp', 'tp']
        """
        fitting = [p for p in self.points if p.fits and p.tokens_per_s_per_gpu is not None]
        return max(fitting, key=lambda p: p.tokens_per_s_per_gpu or 0.0, default=None)

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.sweep/1."""
        return {"schema": SCHEMA, "cluster": self.cluster, "points": self.rows()}

    def summary(self) -> dict[str, object]:
        """How many points there are, and the fastest that fits."""
        fastest = self.fastest
        return {
            "cluster": self.cluster,
            "points": len(self.points),
            "refused": sum(p.iteration_time_s is None for p in self.points),
            "fit": sum(bool(p.fits) for p in self.points),
            **(fastest.values if fastest is not None else {}),
            "iteration_time_s": fastest.iteration_time_s if fastest is not None else None,
        }

    def rows(self) -> list[Row]:
        """One row per point."""
        return [p.to_dict() for p in self.points]


def evaluate_points(projector: Projector, points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Times and memory of all points, in one batch; a point whose cost is not known gets the reason."""
    try:
        return _evaluate(projector, points)
    except UserError:
        return [_evaluate_one(projector, point) for point in points]


def _evaluate_one(projector: Projector, point: SweepPoint) -> SweepPoint:
    try:
        return _evaluate(projector, [point])[0]
    except UserError as error:
        return replace(point, reason=str(error))


def _evaluate(projector: Projector, points: Sequence[SweepPoint]) -> list[SweepPoint]:
    valid = [(index, p.configuration) for index, p in enumerate(points) if p.configuration is not None]
    evaluated = list(points)
    if not valid:
        return evaluated
    arrays = projector.evaluate([configuration for _, configuration in valid])
    cluster = projector.cluster
    for row, (index, configuration) in enumerate(valid):
        seconds, gpus = float(arrays.iteration_time_s[row]), configuration.parallel.world_size
        mfu, hfu = (
            float(share_of_peak(float(flops[row]), gpus, peak_of(cluster, configuration.train), seconds))
            for flops in (arrays.model_flops, arrays.hardware_flops)
        )
        evaluated[index] = replace(
            points[index],
            iteration_time_s=seconds,
            mfu=mfu,
            hfu=hfu,
            tokens_per_s_per_gpu=configuration.tokens_per_step / seconds / gpus,
            peak_bytes=round(float(arrays.peak_bytes[row])),
            fits=bool(arrays.fits[row]),
        )
    return evaluated
