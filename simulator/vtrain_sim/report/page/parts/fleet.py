"""Many jobs on one cluster: the policies compared, nodes and tenants, and who runs when."""

from __future__ import annotations

from vtrain_sim.decide.fleet import FleetResult
from vtrain_sim.decide.fleet import policies as cluster_policies
from vtrain_sim.decide.fleet.outcome import nodes_text
from vtrain_sim.report import amounts
from vtrain_sim.report.fleet_words import counts_said, said
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.stacking import blocks
from vtrain_sim.report.tables import as_sentence, counted
from vtrain_sim.results import Row

_FIGURES = ("deadline_satisfactory_ratio", "mean_jct_s", "p95_jct_s", "makespan_s", "gpu_utilisation", "cost_usd")
_ON_NODES = ("fragmented_share", "stranded_share", "migrations", "failures", "down_share", "lost_gpu_hours")
_OF_TENANTS = ("mean_jct_s", "p95_jct_s", "deadline_satisfactory_ratio", "gpu_hours", "borrowed_gpu_hours")
_TITLES = {
    "fragmented_share": "fragmented",
    "stranded_share": "stranded",
    "down_share": "out of service",
    "lost_gpu_hours": "GPU-hours lost",
    "restart_gpu_hours": "GPU-hours of restarts",
    "gpu_hours": "GPU-hours",
    "borrowed_gpu_hours": "GPU-hours borrowed",
}
OUT_OF_SERVICE = "(node out of service)"


@pages.register(FleetResult)
def page_of_fleet(result: FleetResult) -> Page:
    """A bar per policy for each figure, what became of nodes and tenants, and the stretches of the last trace."""
    rows: list[Row] = [
        {"policy": policy.name, "what it does": policy.says, "source": policy.source, **row}
        for row in result.rows()
        for policy in (cluster_policies.get(row["policy"]),)
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
    policies = [{name: cell for name, cell in row.items() if name not in _ON_NODES} for row in rows]
    lead = f"{len(rows)} policies on the same jobs; figures are means over {counted(traces, 'traces')}."
    sections = [Section("Policies", lead, policies, _bars(rows, _FIGURES), "modelled", titles=_TITLES)]
    if result.conditions.placement is not None:
        sections.append(_nodes(rows))
    if tenants := result.tenants().rows():
        sections.append(_tenants(tenants))
    return Page(
        "cluster schedule",
        f"{counted(len(result.jobs), 'jobs')} on {result.cluster}",
        f"{gpus}; speeds are projected",
        figures,
        (*sections, _stretches(result)),
        notes=tuple(as_sentence(sentence) for sentence in (counts_said(result), *said(result))),
    )


def _bars(rows: list[Row], figures: tuple[str, ...], category: str = "policy") -> dict[str, object]:
    """A chart of the figures that some row has."""
    shown = [name for name in figures if any(row.get(name) is not None for row in rows)]
    hover = (["what it does"] if category == "policy" else []) + shown
    return {"draw": "bars", "category": category, "values": shown, "choose": True, "lying": True, "hover": hover}


def _nodes(rows: list[Row]) -> Section:
    lead = (
        "Fragmented: the part of the GPU time in use on more nodes than hold the gang. Stranded: the part of all GPU "
        "time that was free while gangs waited of which none fits on as few nodes as hold it."
    )
    kept = ("policy", "what it does", *_ON_NODES, "restarts", "restart_gpu_hours")
    nodes: list[Row] = [{name: row.get(name) for name in kept} for row in rows]
    return Section("Nodes", lead, nodes, _bars(nodes, _ON_NODES), "simulated; speeds modelled", titles=_TITLES)


def _tenants(rows: list[Row]) -> Section:
    named = [{"tenant under policy": f"{row['tenant'] or '(none)'}, {row['policy']}", **row} for row in rows]
    chart = _bars(named, _OF_TENANTS, "tenant under policy")
    lead = "What each tenant had under each policy, in the last trace. Borrowed: what it used beyond its quota."
    return Section("Tenants", lead, named, chart, "simulated; speeds modelled", titles=_TITLES)


def _stretches(result: FleetResult) -> Section:
    rows: list[Row] = []
    for name, outcomes in result.outcomes.items():
        tenants = {job.job_id: job.tenant for job in outcomes[-1].jobs}
        rows += [
            {
                "policy": name,
                "job": stretch.job_id,
                "tenant": tenants[stretch.job_id],
                "gpus": stretch.gpus,
                "nodes": nodes_text(stretch.gang) if stretch.gang else None,
                "start_s": stretch.start_s,
                "end_s": stretch.end_s,
                "iterations": stretch.iterations,
                "lost_iterations": stretch.lost or None,
                "first_gpu": floor,
                "block": height,
            }
            for stretch, floor, height in blocks(outcomes[-1])
        ]
        hardware, size = outcomes[-1].hardware, outcomes[-1].size
        rows += [
            {
                "policy": name,
                "job": OUT_OF_SERVICE,
                "gpus": size,
                "nodes": str(node),
                "start_s": since,
                "end_s": until,
                "first_gpu": node * size,
                "block": size,
            }
            for node, since, until in (hardware.outages if hardware else ())
        ]
    known = {name for row in rows for name, cell in row.items() if cell not in (None, "")}
    chart = {
        "draw": "gantt",
        "panel": "policy",
        "start": "start_s",
        "end": "end_s",
        "what": "job",
        "floor": "first_gpu",
        "height": "block",
        "top": result.num_gpus,
        "hover": [
            *("job", "gpus", "start_s", "end_s", "iterations"),
            *(name for name in ("tenant", "nodes", "lost_iterations") if name in known),
        ],
        "rows": "GPUs",
    }
    where = "stacked: it is a picture of numbers of GPUs, not of a placement"
    if result.conditions.placement is not None:
        each = counted(result.conditions.gpus_per_node, "GPUs")
        where = f"those of one node of {each} after the other; a job on parts of several nodes has several blocks"
    lead = f"A block is a job on the same GPUs, as high as their number, of the last trace; GPUs are {where}."
    return Section("Who runs when", lead, rows, chart, "simulated; speeds modelled", folded=True)
