"""Policies compared, for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.decide.fleet import POLICIES, FleetResult
from vtrain_sim.report.tables import counted, duration, said_once
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Row


@printers.register(FleetResult)
def print_fleet(result: FleetResult, console: Console, rows: bool = True) -> None:
    """One line per policy; figures of several traces with their standard deviation."""
    policies = result.to_dict()["policies"]
    lines = [_line(name, figures) for name, figures in policies.items()]
    console.print(f"{counted(result.num_gpus, 'GPUs')} of {result.cluster}; speeds are projected (modelled)")
    console.print(said_once("policies", lines, ("jobs", "rejected"), {"rejected": 0}))
    for name in policies:
        console.print(f"{name}: {POLICIES[name].says}")
    one, all_plans = policies.get("elasticflow"), policies.get("elastic-plans")
    if one and all_plans and one["deadline_satisfactory_ratio"] and all_plans["deadline_satisfactory_ratio"]:
        ratio = all_plans["deadline_satisfactory_ratio"] / one["deadline_satisfactory_ratio"]
        console.print(f"deadlines met with plans over ElasticFlow's: {ratio:.2f}x")


def _line(name: str, figures: Row) -> dict[str, object]:
    """A policy by column."""
    spread, ratio = figures["spread"], figures["deadline_satisfactory_ratio"]
    makespan = figures["makespan_s"]
    return {
        "policy": name,
        "jobs": round(figures["jobs"]),
        "rejected": figures["rejected"],
        "deadlines met": None
        if ratio is None
        else f"{ratio:.1%}" + _plus(spread["deadline_satisfactory_ratio"], "{:.1%}"),
        "mean": duration(figures["mean_jct_s"]) if figures["mean_jct_s"] else None,
        "p95": duration(figures["p95_jct_s"]) if figures["p95_jct_s"] else None,
        "makespan": None if not makespan else duration(makespan) + _plus(spread["makespan_s"] / makespan, "{:.0%}"),
        "in use": f"{figures['gpu_utilisation']:.1%}",
        "dollars": f"${figures['cost_usd']:,.0f}",
    }


def _plus(spread: float | None, form: str) -> str:
    return f" ± {form.format(spread)}" if spread else ""
