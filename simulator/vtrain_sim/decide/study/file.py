"""Study files: the units that one stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from vtrain_sim import schedules
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.decide import Bounds, Failures, Request
from vtrain_sim.decide.failures import failures_given
from vtrain_sim.decide.search_space import Workload
from vtrain_sim.decide.study.entries import BOUNDS, FAILURES, REQUEST, Entries
from vtrain_sim.decide.study.unit import Unit
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import spec_file
from vtrain_sim.inputs.lookup import find_cluster
from vtrain_sim.inputs.megatron_flags import check_contradictions, parse_flags
from vtrain_sim.results import Document
from vtrain_sim.specs import ClusterSpec
from vtrain_sim.specs.checks import positive
from vtrain_sim.specs.cluster import PRICE

_BATCHES = "global_batch_sizes"
Workloads = Mapping[str, Workload]
ReadModels = Callable[[Iterable[str]], Workloads]


def of_models(names: Iterable[str]) -> dict[str, Workload]:
    """What names mean that are presets or ``config.json`` files. Raises `UserError` for others."""
    read = {name: Workload(name) for name in names}
    for workload in read.values():  # a misspelt name is found before hours of work
        workload.space(Bounds())
    return read


def read_study(path: Path, read: ReadModels = of_models) -> list[Unit]:
    """Units of a study file (TOML or YAML): models, clusters and global_batch_sizes (lists), flags, and any option of
    `plan` by its name (`entries.ENTRIES`). Without global_batch_sizes each job has its own.

    read: what the names of models mean. Raises `UserError`."""
    table = spec_file.load(path)
    try:
        return _units(Entries.read(table), read)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _units(entries: Entries, read: ReadModels) -> list[Unit]:
    models, clusters = entries.listed("models"), entries.listed("clusters")
    batches = entries.listed(_BATCHES) if _BATCHES in entries.values else ()
    fixed = entries.of(REQUEST)
    if not fixed.get("num_gpus") and not fixed.get("max_gpus"):
        raise UserError("it says neither num_gpus nor max_gpus")
    top: int = entries.values.get("top", Unit.top)
    positive("top", top)
    flags: tuple[str, ...] = entries.values.get("flags", ())
    _check_flags(flags)
    bounds, failures = _bounds(entries), _failures(entries)
    workloads = {name: replace(w, flags=(*w.flags, *flags)) for name, w in read(models).items()}
    if missing := [name for name in models if not workloads[name].batches(batches)]:
        raise UserError(f"it does not list its {_BATCHES}, and {missing[0]} does not say its own")
    spaces = {name: workload.space(bounds) for name, workload in workloads.items()}
    machines = {name: _machine(name, entries.values.get("price_per_gpu_hour")) for name in clusters}
    units = []
    for name, cluster in product(models, clusters):
        model, step, limits = spaces[name]
        for batch in workloads[name].batches(batches):
            request = Request(model, (batch,), bounds=limits, base=step, failures=failures, **fixed)
            said = {**entries.said(), **_of_job(name, workloads[name])}
            units.append(Unit(name, cluster, request, *machines[cluster], top, said))
    return units


def _bounds(entries: Entries) -> Bounds:
    bounds = Bounds(**entries.of(BOUNDS))
    for name in bounds.schedules:
        schedules.get(name)
    return bounds


def _failures(entries: Entries) -> Failures | None:
    given = entries.of(FAILURES)
    if given and not given.get("mtbf_hours"):
        raise UserError(f"{', '.join(entries.names(FAILURES))} says what a failure costs: it needs gpu_mtbf_hours")
    usual = {"checkpoint_s": Failures.checkpoint_s, "restart_s": Failures.restart_s, "interval_s": Failures.interval_s}
    return failures_given(**{**usual, **given}) if given else None


def _machine(name: str, price_per_gpu_hour: float | None) -> tuple[ClusterSpec, Surfaces]:
    """A cluster and its device's coefficients. price_per_gpu_hour: US dollars; None: the cluster's own."""
    cluster, surfaces = find_cluster(name)
    if price_per_gpu_hour is not None:
        PRICE.check("price_per_gpu_hour", price_per_gpu_hour)
        cluster = replace(cluster, price_per_gpu_hour=price_per_gpu_hour)
    return cluster, Surfaces.from_dict(surfaces)


def _check_flags(flags: Sequence[str]) -> None:
    check_contradictions(flags)
    if "global_batch_size" in parse_flags(flags).values:
        raise UserError(f"flags say --global-batch-size: {_BATCHES} does")


def _of_job(name: str, workload: Workload) -> Document:
    """What a unit says of a job beside its name, and of flags: nothing of a model alone."""
    said = {"preset": "" if workload.model == name else workload.model, "flags": list(workload.flags)}
    return {entry: value for entry, value in said.items() if value}
