"""How fast each kind of job runs at each number of GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vtrain_sim.decide import Bounds, Plan, Request, plan
from vtrain_sim.decide.search_space import Workload
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.simulate.projection import Projector

Kind = tuple[str, int]  # model, global batch size


@dataclass(frozen=True)
class SpeedTable:
    """Seconds of an iteration by number of GPUs, ascending."""

    gpus: tuple[int, ...]
    seconds: tuple[float, ...]

    def improving(self) -> SpeedTable:
        """Without the counts that are no faster than a smaller one: a job would not take them."""
        best = np.minimum.accumulate([math.inf, *self.seconds])
        kept = [i for i, seconds in enumerate(self.seconds) if seconds < best[i]]
        return SpeedTable(tuple(self.gpus[i] for i in kept), tuple(self.seconds[i] for i in kept))


def speed_tables(
    counts: Mapping[Kind, Sequence[int]],
    projector: Projector,
    progress: Progress = unwatched,
    workloads: Mapping[str, Workload] | None = None,
) -> tuple[dict[Kind, SpeedTable], dict[Kind, SpeedTable]]:
    """For each kind: with the best plan at each GPU count, and with one plan whose data parallel size grows.

    The second is how ElasticFlow scales a job (Gu et al., ASPLOS 2023): the layout of the smallest number
    of GPUs on which the job fits, replicated. counts: the numbers of GPUs to plan, by kind, ascending; those that no
    layout uses are left out. workloads: what names of models mean, other than presets. Raises `UserError` for a kind
    that fits on no count.
    """
    best: dict[Kind, SpeedTable] = {}
    scaled: dict[Kind, SpeedTable] = {}
    ordered = sorted(counts)
    for kind in ordered:
        workload = (workloads or {}).get(kind[0]) or Workload(kind[0])
        plans = {n: p for n in counts[kind] if (p := _best(workload, kind[1], n, projector)) is not None}
        if not plans:
            raise UserError(
                f"{kind[0]} with a global batch of {kind[1]} fits on no number of GPUs up to {max(counts[kind])}: a "
                "larger cluster or GPU memory would hold it"
            )
        best[kind] = _table({n: p.projection.iteration_time_s for n, p in plans.items()})
        scaled[kind] = _replicated(min(plans.items())[1], counts[kind], projector)
        progress(len(best), len(ordered), len(best) / len(ordered))
    return best, scaled


def _best(workload: Workload, batch: int, gpus: int, projector: Projector) -> Plan | None:
    model, step, bounds = workload.space(Bounds(recompute=("none", "full"), max_cp=1))
    request = Request(model, (batch,), num_gpus=(gpus,), bounds=bounds, base=step, rank_by="time")
    try:
        return plan(request, projector, top=1).plans[0]
    except UserError:
        return None  # no layout, or none that fits


def _replicated(smallest: Plan, counts: Sequence[int], projector: Projector) -> SpeedTable:
    c = smallest.projection.configuration
    times = {}
    for gpus in counts:
        copies, over = divmod(gpus, c.parallel.world_size // c.parallel.dp)
        if over or gpus < c.parallel.world_size or c.train.global_batch_size % (copies * c.train.micro_batch_size):
            continue
        try:
            wider = replace(c, parallel=replace(c.parallel, dp=copies, overlap_grad_reduce=copies > 1))
        except UserError:
            continue
        evaluated = projector.evaluate([wider])
        if evaluated.fits[0]:
            times[gpus] = float(evaluated.iteration_time_s[0])
    return _table(times)


def _table(times: dict[int, float]) -> SpeedTable:
    gpus = tuple(sorted(times))
    return SpeedTable(gpus, tuple(times[count] for count in gpus)).improving()
