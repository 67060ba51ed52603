"""What one change at a time would bring to one configuration: each is a projection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtrain_sim.decide.faster_machine import RESOURCES, Resource
from vtrain_sim.decide.sweep import SweepPoint, evaluate_points
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import Projection
from vtrain_sim.specs import Configuration

SCHEMA = "vtrain.sensitivity/1"
MACHINE, CONFIGURATION = "machine", "configuration"


@dataclass(frozen=True)
class Effect:
    """One change. of: the machine or the configuration. values: the settings that it changes, by name; of a machine,
    the resource. reason: why it cannot be made; the figures are None then.

    step_s, peak_bytes, fits: with the change. change_s: of the step, negative where it is shorter; change: the same as
    part of the step. change_bytes: of the peak memory of the fullest GPU.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    >>> effects = {effect.name: effect for effect in vt.explain(job).effects}
    >>> effects["tp 4"].step_s == vt.project(job.with_(tp=4)).iteration_time_s
    True
    """

    name: str
    of: str
    values: Row
    reason: str = ""
    step_s: float | None = None
    change_s: float | None = None
    change: float | None = None
    peak_bytes: int | None = None
    change_bytes: int | None = None
    fits: bool | None = None


@dataclass(frozen=True, repr=False)
class Sensitivity(Result):
    """What each change would bring to a configuration, the shortest step first; those that cannot be made last.

    projection: without any change. shares: part of the step that goes with each resource, by name: how much of it would
    be saved if the resource were infinitely fast and all else went on as now, from what the change saves (to first
    order). sentences: what binds, and the changes that bring most, in words.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    >>> sensitivity = vt.explain(job)
    >>> max(sensitivity.shares, key=sensitivity.shares.get)
    'products'
    """

    projection: Projection
    effects: tuple[Effect, ...]
    shares: dict[str, float]
    sentences: tuple[str, ...] = ()

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.sensitivity/1."""
        memory = self.projection.memory
        return {
            "schema": SCHEMA,
            "cluster": self.projection.cluster.name,
            "num_gpus": self.projection.configuration.parallel.world_size,
            "iteration_time_s": self.projection.iteration_time_s,
            "peak_bytes": memory.worst.peak_bytes,
            "fits": memory.fits,
            "shares": self.shares,
            "effects": self.rows(),
            "sentences": list(self.sentences),
        }

    def summary(self) -> dict[str, object]:
        """The step, and the change that shortens it most."""
        best = next((e for e in self.effects if e.of == CONFIGURATION and e.fits), None)
        return {
            "iteration_time_s": self.projection.iteration_time_s,
            "fits": self.projection.memory.fits,
            "binds": max(self.shares, key=lambda name: self.shares[name]) if self.shares else None,
            "best": best.name if best is not None and (best.change_s or 0.0) < 0 else None,
        }

    def rows(self) -> list[Row]:
        """One row per change."""
        return [{**{k: v for k, v in vars(e).items() if k != "values"}, **e.values} for e in self.effects]


def sensitivity(
    projector: Projector, configuration: Configuration, changes: Sequence[tuple[str, SweepPoint]]
) -> Sensitivity:
    """Project a configuration as it is, on faster machines, and with each of the changes; see `Sensitivity`.

    changes: a name and the point that each is, with a reason where it cannot be made. Raises `UserError` where the
    configuration itself cannot be projected.
    """
    projection = projector.project(configuration)
    effects, shares = [], {}
    for resource in RESOURCES:
        effect = _on_faster(resource, projection, projector)
        effects.append(effect)
        if effect.change is not None:
            shares[resource.name] = max(0.0, -effect.change) / (1 - 1 / resource.factor)
    points = evaluate_points(projector, [point for _, point in changes])
    for (name, _), point in zip(changes, points, strict=True):
        effects.append(_effect(name, CONFIGURATION, point, projection))
    effects.sort(key=lambda effect: (effect.step_s is None, effect.step_s))
    return Sensitivity(projection, tuple(effects), shares)


def _on_faster(resource: Resource, projection: Projection, projector: Projector) -> Effect:
    values: Row = {"resource": resource.name}
    point = SweepPoint(values, projection.configuration)
    if unknown := resource.unknown(projector):
        point = SweepPoint(values, reason=unknown)
    else:
        (point,) = evaluate_points(resource.of(projector), [point])
    return _effect(resource.title, MACHINE, point, projection)


def _effect(name: str, of: str, point: SweepPoint, projection: Projection) -> Effect:
    step_s, peak = point.iteration_time_s, point.peak_bytes
    if step_s is None or peak is None:
        return Effect(name, of, point.values, point.reason)
    before_s = projection.iteration_time_s
    change_bytes = peak - projection.memory.worst.peak_bytes
    change_s = step_s - before_s
    return Effect(name, of, point.values, "", step_s, change_s, change_s / before_s, peak, change_bytes, point.fits)
