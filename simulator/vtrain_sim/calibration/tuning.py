"""Fits the few coefficients that microbenchmarks leave open to measured training steps.

Maximum a posteriori: every coefficient has a prior (data/vtrain_data/priors), every row of the tables
an error that is robust against outliers. One set of coefficients serves all rows of a GPU, and one
network's serves all rows of a cluster. What is learned is checked by leaving out model sizes and files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.calibration.surfaces import descend
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.file_table import SpecFields
from vtrain_sim.inputs import presets
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ClusterSpec, Configuration

Floats = NDArray[np.float64]
# Errors below this are noise of the measurements, above it they count by their size, not its square.
NOISE = 0.02
# Weight of the priors against the rows: one standard deviation costs as much as this mean error.
PRIOR_WEIGHT = 6e-4


@dataclass(frozen=True)
class Coefficient:
    """One coefficient: path in the presets, expectation, standard deviation of its logarithm, source."""

    path: tuple[str, ...]
    value: float
    sigma: float
    source: str

    @property
    def name(self) -> str:
        """The path as one word."""
        return ".".join(self.path)


@dataclass(frozen=True)
class Sample:
    """One measured step: configuration, cluster preset, seconds, and the groups it belongs to."""

    configuration: Configuration
    cluster: str
    measured_s: float
    file: str
    size: str


def coefficients(name: str) -> list[Coefficient]:
    """The coefficients of a prior file, for example "a100"."""
    collected: list[Coefficient] = []

    def collect(path: tuple[str, ...], table: object) -> None:
        if isinstance(table, dict) and "sigma" in table:
            collected.append(Coefficient(path, float(table["value"]), float(table["sigma"]), str(table["source"])))
        elif isinstance(table, dict):
            for key, below in table.items():
                collect((*path, key), below)

    collect((), presets.priors(name))
    return collected


def devices(name: str) -> frozenset[str]:
    """The GPUs that a prior file is about, as devices are named."""
    return frozenset(presets.priors(name)["devices"])


def check_informative(configuration: Configuration, cluster: str, priors: str) -> None:
    """Raises `UserError` for a configuration whose step says little about the coefficients of these priors, or about
    any layout that one would choose."""
    device, known = presets.cluster(cluster).device.name, devices(priors)
    if device not in known:
        raise UserError(f"its GPU is {device}, the priors {priors} are about {', '.join(sorted(known))}")
    if configuration.model.num_experts:
        raise UserError("it is a mixture of experts: no coefficient of priors is about its kernels")
    tp, gpus = configuration.parallel.tp, presets.cluster(cluster).gpus_per_node
    if tp > gpus:
        raise UserError(
            f"--tensor-model-parallel-size is {tp}, more than the {gpus} GPUs of a node of {cluster}: "
            "what tensor parallel groups over nodes take says little about layouts that anyone runs"
        )


def machine(name: str, coefficients: Sequence[Coefficient], values: Sequence[float]) -> tuple[ClusterSpec, Surfaces]:
    """A cluster preset with these values of the coefficients in place of its own."""
    cluster, surfaces = presets.cluster(name), Surfaces.from_dict(presets.cluster_surfaces(name))
    # A cluster's own entry comes after the one for all clusters.
    for coefficient, value in sorted(zip(coefficients, values, strict=True), key=lambda p: p[0].path[1] != "*"):
        kind, *rest = coefficient.path
        if kind == "surfaces":
            field, *key = rest
            changes: SpecFields = {field: {**getattr(surfaces, field), key[0]: value} if key else value}
            surfaces = replace(surfaces, **changes)
        elif rest[0] in ("*", name):
            _, field, *key = rest
            changes = {field: replace(getattr(cluster, field), **{key[0]: value}) if key else value}
            cluster = replace(cluster, **changes)
    return cluster, surfaces


def preset_value(coefficient: Coefficient, samples: Sequence[Sample]) -> float:
    """The value that a coefficient has in the presets of the clusters that the samples are from."""
    kind, *rest = coefficient.path
    name = samples[0].cluster if kind == "surfaces" or rest[0] == "*" else rest[0]
    value: object = Surfaces.from_dict(presets.cluster_surfaces(name)) if kind == "surfaces" else presets.cluster(name)
    for part in rest if kind == "surfaces" else rest[1:]:
        value = value.get(part, coefficient.value) if isinstance(value, dict) else getattr(value, part)
    assert isinstance(value, (int, float))
    return float(value)


def predict(samples: Sequence[Sample], coefficients: Sequence[Coefficient], values: Sequence[float]) -> Floats:
    """[samples] projected seconds."""
    result = np.zeros(len(samples))
    for name in sorted({s.cluster for s in samples}):
        projector = Projector.modelled(*machine(name, coefficients, values))
        chosen = [i for i, s in enumerate(samples) if s.cluster == name]
        result[chosen] = projector.evaluate([samples[i].configuration for i in chosen]).iteration_time_s
    return result


def tune(
    samples: Sequence[Sample],
    coefficients: Sequence[Coefficient],
    start: Sequence[float] | None = None,
    rounds: int = 10,
    progress: Callable[[str], None] = lambda _: None,
) -> list[float]:
    """Most probable values of the coefficients, by coordinate descent in their logarithms.

    Files count by the square root of their number of rows. Raises `UserError` without samples.
    """
    if not samples:
        raise UserError("there is no row to tune to")
    expected = np.array([c.value for c in coefficients])
    sigma = np.array([c.sigma for c in coefficients])
    measured = np.array([s.measured_s for s in samples])
    files = [s.file for s in samples]
    weights = np.array([1 / math.sqrt(files.count(f)) for f in files])
    weights /= weights.sum()

    def loss(deviations: Floats) -> float:
        values = expected * np.exp(sigma * deviations)
        error = np.log(predict(samples, coefficients, values.tolist()) / measured)
        robust = np.sqrt(error**2 + NOISE**2) - NOISE
        return float((weights * robust).sum() + PRIOR_WEIGHT * (deviations**2).sum())

    begin = np.array(start if start is not None else expected, dtype=np.float64)
    deviations = descend(
        loss, np.log(begin / expected) / sigma, rounds, 0.3, 0.04, lambda n, v: progress(f"round {n}: {v:.5f}")
    )
    return [float(f"{v:.4g}") for v in expected * np.exp(sigma * deviations)]


def cross_validate(
    samples: Sequence[Sample], coefficients: Sequence[Coefficient], start: Sequence[float], by: str
) -> Floats:
    """[samples] held-out error of each row: its whole group ("size" or "file") was left out of the tuning."""
    errors = np.zeros(len(samples))
    for group in sorted({getattr(s, by) for s in samples}):
        rest = [s for s in samples if getattr(s, by) != group]
        members = [i for i, s in enumerate(samples) if getattr(s, by) == group]
        values = tune(rest, coefficients, start, rounds=3) if rest else [c.value for c in coefficients]
        held_out = [samples[i] for i in members]
        errors[members] = predict(held_out, coefficients, values) / np.array([s.measured_s for s in held_out]) - 1
    return errors
