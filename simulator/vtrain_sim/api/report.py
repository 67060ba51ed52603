"""``report``: a result with what else its page shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vtrain_sim import schedules
from vtrain_sim.api.arguments import name_of
from vtrain_sim.api.job import Job, job_of
from vtrain_sim.api.machine import Machine, machine_of
from vtrain_sim.api.timeline import timeline
from vtrain_sim.catalog.results import RunDetail, RunProfile
from vtrain_sim.costs.algorithms import bus_factor
from vtrain_sim.decide.plan_result import PlanResult
from vtrain_sim.decide.sizing import SizeResult
from vtrain_sim.errors import UserError
from vtrain_sim.report.page import Report
from vtrain_sim.results import Result, Row
from vtrain_sim.simulate.result import Projection
from vtrain_sim.simulate.spans import Timeline
from vtrain_sim.specs import Configuration

if TYPE_CHECKING:
    from vtrain_sim.api.catalog import Catalog

# Passes that a chart can show: of a longer step the first and the last microbatches are kept.
MOST_PASSES = 24_000
# Layers times microbatches of a step that takes seconds to simulate pass by pass: a page of a longer one has no chart.
MOST_LAYER_PASSES = 100_000
_LAYERS = """
    SELECT layer_number AS layer,
           median(median_ns) FILTER (phase = 'forward') AS forward_ns,
           median(median_ns) FILTER (phase = 'backward') AS backward_ns,
           median(median_ns) FILTER (phase = 'recompute') AS recompute_ns
    FROM layer_summary
    WHERE run_id = ? AND kind = 'transformer_layer' AND layer_number IS NOT NULL
    GROUP BY 1 ORDER BY 1
"""


def report(
    result: Result,
    job: Job | None = None,
    *,
    cluster: str | Path | Machine = "",
    catalog: str | Path | Catalog | None = None,
    command: str = "",
) -> Report:
    """A result with what its page shows besides it: ``vt.render(vt.report(...), "html")`` is the page.

    job, or cluster: what a projection, plan or size was made on: the page then draws the passes of the step. catalog:
    of a captured run: the page then has its layers and collectives. command: the command line that makes the result
    again. Raises `UserError` for what is no result.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, pp=4, mbs=1, gbs=16)
    >>> page = vt.render(vt.report(vt.project(job), job), "html")
    >>> page.startswith("<!doctype html>")
    True
    """
    if not isinstance(result, Result):
        raise UserError(f"{result!r} is no result: the verbs give them, for example vt.project(job)")
    others: tuple[Result, ...] = ()
    configuration = _configuration(result)
    if configuration is not None and (job is not None or cluster):
        others = passes(job_of(job).machine if job is not None else machine_of(cluster), configuration)
    if isinstance(result, RunDetail) and catalog is not None:
        others = (_profile(catalog, result.run_id),)
    return Report(result, others, name_of("command", command))


def _configuration(result: Result) -> Configuration | None:
    """The configuration whose step the page of a result draws."""
    if isinstance(result, Projection):
        return result.configuration
    if isinstance(result, PlanResult):
        return result.plans[0].projection.configuration
    if isinstance(result, SizeResult) and result.chosen.plan is not None:
        return result.chosen.plan.projection.configuration
    return None


def passes(machine: Machine, configuration: Configuration, most: int = MOST_LAYER_PASSES) -> tuple[Timeline, ...]:
    """The passes of a step, for a chart; none where the step is too long for one. most: layers times microbatches."""
    count, parallel = configuration.num_microbatches, configuration.parallel
    if count * configuration.model.num_layers > most:
        return ()
    # Weight gradients may be passes of their own.
    kinds = 3 if schedules.get(configuration.schedule).splits_backward else 2
    kept = max(2, MOST_PASSES // (kinds * parallel.pp * parallel.vpp))
    shown = None if kept >= count else (*range(kept // 2), *range(count - kept // 2, count))
    return (timeline(Job(configuration, machine), microbatches=shown, detail="passes"),)


def _profile(catalog: str | Path | Catalog, run: str) -> RunProfile:
    """Layers of a run, and its collectives beside one latency and bandwidth that fit them."""
    from vtrain_sim import catalog as indexed
    from vtrain_sim.catalog.rows import dictionaries
    from vtrain_sim.costs.measured_collectives import load_collectives

    path = Path(catalog) if isinstance(catalog, (str, Path)) else catalog.path
    with indexed.Catalog(path).reading() as connection:
        layers = dictionaries(connection.execute(_LAYERS, [run]))
        measured = load_collectives(connection, [run])
    latency_s, bandwidth = measured.alpha_beta() or (0.0, 0.0)
    rows: list[Row] = []
    for (op, ranks), points in sorted(measured.points.items()):
        for point in points:
            carried = point.nbytes * bus_factor(op, ranks)
            rows.append(
                {
                    "op": op,
                    "ranks": ranks,
                    "bytes": point.nbytes,
                    "transfer_s": point.seconds,
                    "bus_bytes_per_s": carried / point.seconds,
                    "fitted_bytes_per_s": carried / (latency_s + carried / bandwidth),
                }
            )
    return RunProfile(run, tuple(layers), tuple(rows), latency_s, bandwidth)
