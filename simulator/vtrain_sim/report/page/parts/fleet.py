"""Many jobs on one cluster: the policies compared, and who runs when."""

from __future__ import annotations

from vtrain_sim.decide.fleet import FleetResult
from vtrain_sim.decide.fleet import policies as cluster_policies
from vtrain_sim.report import amounts
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.stacking import stacked
from vtrain_sim.report.tables import counted
from vtrain_sim.results import Row

_FIGURES = ("deadline_satisfactory_ratio", "mean_jct_s", "p95_jct_s", "makespan_s", "gpu_utilisation", "cost_usd")


@pages.register(FleetResult)
def page_of_fleet(result: FleetResult) -> Page:
    """A bar per policy for each figure, and the stretches of the last trace."""
    rows: list[Row] = [
        {"policy": row["policy"], "what it does": cluster_policies.get(row["policy"]).says, **row}
        for row in result.rows()
    ]
    traces = max((len(outcomes) for outcomes in result.outcomes.values()), default=0)
    gpus = counted(result.num_gpus, "GPUs")
    figures = (
        Figure("Cluster", gpus, result.cluster),
        Figure("Jobs", str(len(result.jobs)), counted(traces, "traces")),
        Figure(
            "Price",
            f"${result.price_per_gpu_hour:g}",
            f"US dollars: {amounts.price(result.cluster, result.price_per_gpu_hour) or 'no price is known'}",
        ),
    )
    shown = [name for name in _FIGURES if any(row.get(name) is not None for row in rows)]
    policies = {
        "draw": "bars",
        "category": "policy",
        "values": shown,
        "choose": True,
        "lying": True,
        "hover": ["what it does", *shown],
    }
    lead = f"{len(rows)} policies on the same jobs; figures are means over {counted(traces, 'traces')}."
    return Page(
        "cluster schedule",
        f"{counted(len(result.jobs), 'jobs')} on {result.cluster}",
        f"{gpus}; speeds are projected",
        figures,
        (Section("Policies", lead, rows, policies, "modelled"), _stretches(result)),
    )


def _stretches(result: FleetResult) -> Section:
    rows: list[Row] = [
        {
            "policy": name,
            "job": stretch.job_id,
            "gpus": stretch.gpus,
            "start_s": stretch.start_s,
            "end_s": stretch.end_s,
            "iterations": stretch.iterations,
            "first_gpu": floor,
        }
        for name, outcomes in result.outcomes.items()
        for stretch, floor in stacked(outcomes[-1])
    ]
    chart = {
        "draw": "gantt",
        "panel": "policy",
        "start": "start_s",
        "end": "end_s",
        "what": "job",
        "floor": "first_gpu",
        "height": "gpus",
        "top": result.num_gpus,
        "hover": ["job", "gpus", "start_s", "end_s", "iterations"],
        "rows": "GPUs",
    }
    lead = (
        "A block is a job on the same GPUs, as high as their number, of the last trace. It is a picture of numbers of "
        "GPUs, not of a placement."
    )
    return Section("Who runs when", lead, rows, chart, "simulated; speeds modelled", folded=True)
