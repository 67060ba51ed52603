"""Policies compared, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from vtrain_sim.decide.fleet import FleetResult
from vtrain_sim.decide.fleet import policies as cluster_policies
from vtrain_sim.report import amounts
from vtrain_sim.report.fleet_words import counts_said, gpus_of, said
from vtrain_sim.report.tables import percent, said_once
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Row

# Columns that are all 0 where gangs do not move, or nothing fails.
_SELDOM = ("moves", "failures", "lost GPU-h")
_NODES_SAID = (
    "fragmented: of the GPU time in use, on more nodes than hold the gang; stranded: of all GPU time, free while gangs "
    "wait of which none fits on as few nodes as hold it; down: of all GPU time, out of service"
)
# Columns of times, each in one unit.
_TIMES = {"mean_jct_s": "mean completion", "p95_jct_s": "p95 completion", "makespan_s": "makespan"}


@printers.register(FleetResult)
def print_fleet(result: FleetResult, console: Console, rows: bool = True) -> None:
    """One line per policy; figures of several traces with their standard deviation. Then nodes, and tenants."""
    policies = result.to_dict()["policies"]
    times = {name: amounts.in_one_unit([figures[name] for figures in policies.values()]) for name in _TIMES}
    lines = [
        _line(name, figures, {title: times[key][place] for key, title in _TIMES.items()})
        for place, (name, figures) in enumerate(policies.items())
    ]
    console.print(f"{gpus_of(result)}; speeds are projected (modelled)")
    console.print(counts_said(result))
    for sentence in said(result):
        console.print(sentence)
    console.print(said_once("policies", lines, ("jobs", "rejected"), {"rejected": 0}))
    if result.conditions.placement is not None:
        nodes = [_on_nodes(name, figures) for name, figures in policies.items()]
        console.print(said_once("nodes", nodes, _SELDOM, dict.fromkeys(_SELDOM, 0)))
        console.print(_NODES_SAID)
    tenants = result.tenants().rows()
    if tenants:
        means = amounts.in_one_unit([row["mean_jct_s"] for row in tenants])
        own = [_tenant(row, mean) for row, mean in zip(tenants, means, strict=True)]
        console.print(said_once("tenants of the last trace", own, (), left=2))
    price = amounts.price(result.cluster, result.price_per_gpu_hour)
    console.print(
        f"mean and 95th percentile of completion: from a job's arrival to its end; dollars: of the GPU-hours in use, "
        f"{f'at {price}' if price else 'but no price is known: give a cluster file that says it'}"
    )
    for name in policies:
        console.print(f"{name}: {cluster_policies.get(name).says}")
    one, all_plans = policies.get("elasticflow"), policies.get("elastic-plans")
    if one and all_plans and one["deadline_satisfactory_ratio"] and all_plans["deadline_satisfactory_ratio"]:
        ratio = all_plans["deadline_satisfactory_ratio"] / one["deadline_satisfactory_ratio"]
        console.print(f"deadlines met with plans over ElasticFlow's: {ratio:.2f}x")


def _on_nodes(name: str, figures: Row) -> dict[str, object]:
    """What became of a policy's gangs on nodes, by column."""
    return {
        "policy": name,
        "fragmented": percent(figures["fragmented_share"]),
        "stranded": percent(figures["stranded_share"]),
        "restarts": round(figures["restarts"]),
        "moves": round(figures["migrations"]),
        "failures": round(figures["failures"]),
        "lost GPU-h": round(figures["lost_gpu_hours"]),
        "down": percent(figures["down_share"]) if figures["down_share"] else None,
    }


def _tenant(row: Row, mean: str | None) -> dict[str, object]:
    """A tenant under a policy, by column. mean: its mean completion, as text."""
    borrowed, ratio = row["borrowed_gpu_hours"], row["deadline_satisfactory_ratio"]
    return {
        "policy": row["policy"],
        "tenant": row["tenant"] or "(none)",
        "quota": row["quota"],
        "jobs": row["jobs"],
        "deadlines met": percent(ratio),
        "mean completion": mean,
        "GPU-h": f"{row['gpu_hours']:,.0f}",
        "borrowed": None if borrowed is None else f"{borrowed:,.0f}",
    }


def _line(name: str, figures: Row, times: Mapping[str, str | None]) -> dict[str, object]:
    """A policy by column. times: by title, as text."""
    spread, ratio = figures["spread"], figures["deadline_satisfactory_ratio"]
    makespan, rejected = figures["makespan_s"], figures["rejected"]
    varied = _plus(spread["makespan_s"] / makespan, "{:.0%}") if makespan else ""
    return {
        "policy": name,
        "jobs": round(figures["jobs"]),
        "rejected": round(rejected) if rejected >= 1000 else rejected,
        "deadlines met": None
        if ratio is None
        else f"{ratio:.1%}" + _plus(spread["deadline_satisfactory_ratio"], "{:.1%}"),
        **times,
        "makespan": f"{times['makespan']}{varied}" if makespan else None,
        "in use": f"{figures['gpu_utilisation']:.1%}",
        "dollars": amounts.dollars(figures["cost_usd"]),
    }


def _plus(spread: float | None, form: str) -> str:
    return f" ± {form.format(spread)}" if spread else ""
