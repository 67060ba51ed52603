"""How fast each kind of job runs at each number of GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.decide import Bounds, Plan, Request, plan
from vtrain_sim.decide.fleet.placement.fragments import Fragment
from vtrain_sim.decide.search_space import Workload
from vtrain_sim.errors import UserError
from vtrain_sim.model.step import parameters_of
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration

Kind = tuple[str, int]  # model, global batch size


@dataclass(frozen=True)
class SpeedTable:
    """Seconds of an iteration by number of GPUs, ascending, in as few nodes as hold them.

    apart: the same plans where the gang is on more nodes, or in more racks: by how it lies, seconds by number of GPUs.
    """

    gpus: tuple[int, ...]
    seconds: tuple[float, ...]
    apart: tuple[tuple[Fragment, tuple[float, ...]], ...] = ()

    def improving(self) -> SpeedTable:
        """Without the counts that are no faster than a smaller one: a job would not take them."""
        best = np.minimum.accumulate([math.inf, *self.seconds])
        return self.only([i for i, seconds in enumerate(self.seconds) if seconds < best[i]])

    def only(self, kept: Sequence[int]) -> SpeedTable:
        """The counts at these indices."""
        return SpeedTable(
            tuple(self.gpus[i] for i in kept),
            tuple(self.seconds[i] for i in kept),
            tuple((fragment, tuple(seconds[i] for i in kept)) for fragment, seconds in self.apart),
        )

    def times(self, factors: Sequence[float]) -> SpeedTable:
        """Slower by a factor for each count."""
        return SpeedTable(
            self.gpus,
            _product(self.seconds, factors),
            tuple((fragment, _product(seconds, factors)) for fragment, seconds in self.apart),
        )

    def seconds_on(self, gpus: int, fragment: Fragment) -> float:
        """Seconds of an iteration on so many GPUs that lie so; where that was not projected, as in few nodes."""
        place = self.gpus.index(gpus)
        return next((seconds[place] for at, seconds in self.apart if at == fragment), self.seconds[place])


def _product(seconds: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    return tuple(s * f for s, f in zip(seconds, factors, strict=True))


@dataclass(frozen=True)
class Speeds:
    """Speeds of each kind of job: with the best plan at each GPU count, and with one plan whose data parallel size
    grows, which is how ElasticFlow scales a job (Gu et al., ASPLOS 2023): the layout of the smallest number of GPUs on
    which the job fits, replicated. state_bytes: of a checkpoint, parameters and optimizer."""

    best: dict[Kind, SpeedTable]
    scaled: dict[Kind, SpeedTable]
    state_bytes: dict[Kind, float]


def project_speeds(
    counts: Mapping[Kind, Sequence[int]],
    projector: Projector,
    progress: Progress = unwatched,
    workloads: Mapping[str, Workload] | None = None,
    fragments: Mapping[Fragment, Projector] | None = None,
    may_fit_nowhere: bool = False,
) -> Speeds:
    """Plan each kind at each count.

    counts: the numbers of GPUs to plan, by kind, ascending; those that no layout uses are left out. workloads: what
    names of models mean, other than presets. fragments: projectors of the cluster for gangs that lie on more nodes.
    Raises `UserError` for a kind that fits on no count, unless it may_fit_nowhere; then it is left out.
    """
    speeds = Speeds({}, {}, {})
    ordered = sorted(counts)
    for done, kind in enumerate(ordered, 1):
        workload = (workloads or {}).get(kind[0]) or Workload(kind[0])
        plans = {n: p for n in counts[kind] if (p := _best(workload, kind[1], n, projector)) is not None}
        if plans:
            chosen = {n: p.projection.configuration for n, p in plans.items()}
            speeds.best[kind] = _table(chosen, projector, fragments or {})
            smallest = min(plans.items())[1].projection.configuration
            speeds.scaled[kind] = _table(_replicated(smallest, counts[kind], projector), projector, fragments or {})
            speeds.state_bytes[kind] = state_bytes(smallest)
        elif not may_fit_nowhere:
            raise UserError(
                f"{kind[0]} with a global batch of {kind[1]} fits on no number of GPUs up to {max(counts[kind])}: a "
                "larger cluster or GPU memory would hold it"
            )
        progress(done, len(ordered), done / len(ordered))
    return speeds


def state_bytes(configuration: Configuration) -> float:
    """Bytes of a checkpoint: the parameters, and what the optimizer keeps of each."""
    train = configuration.train
    precision = train.precision
    each = dtype_bytes(precision.params_dtype) + train.optimizer_types.bytes_per_parameter(precision)
    return float(parameters_of(configuration.model)) * each


def _best(workload: Workload, batch: int, gpus: int, projector: Projector) -> Plan | None:
    model, step, bounds = workload.space(Bounds(recompute=("none", "full"), max_cp=1))
    request = Request(model, (batch,), num_gpus=(gpus,), bounds=bounds, base=step, rank_by="time")
    try:
        return plan(request, projector, top=1).plans[0]
    except UserError:
        return None  # no layout, or none that fits


def _replicated(c: Configuration, counts: Sequence[int], projector: Projector) -> dict[int, Configuration]:
    """The layout in as many copies as fill the counts, where that can be and fits."""
    wider: dict[int, Configuration] = {}
    for gpus in counts:
        copies, over = divmod(gpus, c.parallel.world_size // c.parallel.dp)
        if over or gpus < c.parallel.world_size or c.train.global_batch_size % (copies * c.train.micro_batch_size):
            continue
        try:
            replicated = replace(c, parallel=replace(c.parallel, dp=copies, overlap_grad_reduce=copies > 1))
        except UserError:
            continue
        if projector.evaluate([replicated]).fits[0]:
            wider[gpus] = replicated
    return wider


def _table(
    chosen: Mapping[int, Configuration], projector: Projector, fragments: Mapping[Fragment, Projector]
) -> SpeedTable:
    gpus = tuple(sorted(chosen))
    seconds = _seconds([chosen[n] for n in gpus], projector)
    alone = {f: _seconds([chosen[n] for n in gpus], projector) for f, projector in fragments.items()}
    # Where the cost model has a gang faster in smaller parts of nodes, or in more racks, it is as fast as in larger
    # parts and fewer racks.
    apart = [
        (f, tuple(np.max([seconds, *(alone[other] for other in alone if f.is_no_better(other))], axis=0).tolist()))
        for f in sorted(fragments, reverse=True)
    ]
    return SpeedTable(gpus, seconds, tuple(apart)).improving()


def _seconds(configurations: Sequence[Configuration], projector: Projector) -> tuple[float, ...]:
    return tuple(float(s) for s in projector.evaluate(configurations).iteration_time_s)
