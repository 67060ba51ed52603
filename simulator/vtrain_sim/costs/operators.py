"""Estimate of an operator: measured, else interpolated from what is near, else modelled."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from vtrain_schemas.operators import Operator, kind
from vtrain_sim.costs.estimate import INTERPOLATED, MEASURED, MODELLED, Estimate
from vtrain_sim.costs.measured import Group, MeasuredOperators, group
from vtrain_sim.costs.residual import ResidualField
from vtrain_sim.costs.surfaces import DeviceSurface

# Below this uncertainty a prediction rests on measurements nearby rather than on the surface.
_INTERPOLATED_BELOW = 0.5


class OperatorCosts:
    """Estimates operators on one device. Each distinct operator is estimated once."""

    def __init__(self, surface: DeviceSurface, measured: MeasuredOperators | None = None) -> None:
        self.surface = surface
        self.measured = measured or MeasuredOperators()
        self._estimates: dict[Operator, Estimate] = {}
        self._fields: dict[Group, ResidualField] = {}
        self._constants: dict[tuple[str, str], float] = {}
        self._fit()

    def estimate(self, operator: Operator) -> Estimate:
        """Duration of one call of an operator."""
        estimate = self._estimates.get(operator)
        if estimate is None:
            estimate = self._estimates[operator] = self._estimate(operator)
        return estimate

    def _estimate(self, operator: Operator) -> Estimate:
        simplest = kind(operator.kind).simplest(operator)
        if simplest != operator:
            return self.estimate(simplest)
        exact = self.measured.get(operator)
        if exact is not None:
            sigma = max(0.01, math.hypot(exact.spread / math.sqrt(max(1, exact.calls)), exact.error))
            return Estimate(exact.seconds, sigma, MEASURED)
        parts = self._measured_parts(operator)
        if parts is not None:
            return parts
        same = group(operator)
        if not kind(operator.kind).follows_shape:
            constant = self._constants.get((same.kind, same.phase))
            if constant is not None:
                return Estimate(constant, 0.3, INTERPOLATED)
            return Estimate(self.surface.seconds(operator), 0.5, MODELLED)
        base = self.surface.seconds(operator)
        field = self._fields.get(same)
        if field is None and same.phase == "backward":
            halves = self._predicted_parts(operator)
            if halves is not None:
                return halves
        if field is None or base <= 0:
            return Estimate(base, self.surface.sigma(operator), MODELLED)
        mean, sigma = field.predict(_point(operator))
        near = sigma < _INTERPOLATED_BELOW * self.surface.sigma(operator)
        # What is learned nearby may shorten a product, but not beyond the device's peak.
        seconds = max(base * math.exp(mean), self.surface.least_seconds(operator))
        return Estimate(seconds, sigma, INTERPOLATED if near else MODELLED)

    def _measured_parts(self, operator: Operator) -> Estimate | None:
        """A backward GEMM whose two gradients were measured one by one."""
        if operator.phase != "backward" or not kind(operator.kind).splits_backward:
            return None
        parts = [self.measured.get(replace(operator, phase=phase)) for phase in ("dgrad", "wgrad")]
        if parts[0] is None or parts[1] is None:
            return None
        return Estimate(parts[0].seconds + parts[1].seconds, max(0.01, parts[0].spread, parts[1].spread), MEASURED)

    def _predicted_parts(self, operator: Operator) -> Estimate | None:
        """A backward GEMM where only the two gradients by themselves were measured, at other shapes."""
        same = group(operator)
        if not any(same._replace(phase=phase) in self._fields for phase in ("dgrad", "wgrad")):
            return None
        a, b = (self.estimate(replace(operator, phase=phase)) for phase in ("dgrad", "wgrad"))
        seconds = a.seconds + b.seconds
        # The errors of one layer's gradients are much the same error.
        sigma = (a.seconds * a.sigma + b.seconds * b.sigma) / max(seconds, 1e-30)
        known = MODELLED if MODELLED in (a.provenance, b.provenance) else INTERPOLATED
        return Estimate(seconds, sigma, known)

    def _fit(self) -> None:
        groups: dict[Group, list[tuple[Operator, float]]] = {}
        for operator, measurement in self.measured:
            same = group(operator)
            if not kind(operator.kind).follows_shape:
                self._constants[same.kind, same.phase] = measurement.seconds
            elif measurement.seconds > 0 and self.surface.seconds(operator) > 0:
                groups.setdefault(same, []).append((operator, measurement.seconds))
        for key, members in groups.items():
            points = np.array([_point(operator) for operator, _ in members])
            residuals = np.array([math.log(s / self.surface.seconds(o)) for o, s in members])
            self._fields[key] = ResidualField(points, residuals, self.surface.sigma(members[0][0]))


def _point(operator: Operator) -> np.ndarray:
    """Coordinates of a shape: logarithms of its sizes, 0 for those that its kind lacks."""
    return np.array([math.log(d) if d > 0 else 0.0 for d in operator.dims])
