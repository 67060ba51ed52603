"""Policies compared, for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.decide.fleet import POLICIES, FleetResult
from vtrain_sim.report.tables import duration, table
from vtrain_sim.report.terminal.printing import printers


@printers.register(FleetResult)
def print_fleet(result: FleetResult, console: Console, rows: bool = True) -> None:
    """One line per policy; figures of several traces with their standard deviation."""
    policies = result.to_dict()["policies"]
    lines = []
    for name, p in policies.items():
        spread = p["spread"]
        ratio = p["deadline_satisfactory_ratio"]
        lines.append(
            (
                name,
                POLICIES[name].says,
                p["jobs"],
                p["rejected"],
                None if ratio is None else f"{ratio:.1%}" + _plus(spread["deadline_satisfactory_ratio"], "{:.1%}"),
                duration(p["mean_jct_s"]) if p["mean_jct_s"] else None,
                duration(p["p95_jct_s"]) if p["p95_jct_s"] else None,
                duration(p["makespan_s"]) + _plus(spread["makespan_s"] / max(p["makespan_s"], 1e-9), "{:.0%}"),
                f"{p['gpu_utilisation']:.1%}",
                f"${p['cost_usd']:,.0f}",
            )
        )
    columns = (
        "policy",
        "",
        "jobs",
        "rejected",
        "deadlines met",
        "mean completion",
        "p95",
        "makespan",
        "GPUs in use",
        "dollars",
    )
    console.print(f"{result.num_gpus:,} GPUs of {result.cluster}; speeds are projected (modelled)")
    console.print(table("", columns, lines, left=2))
    one, all_plans = policies.get("elasticflow"), policies.get("elastic-plans")
    if one and all_plans and one["deadline_satisfactory_ratio"] and all_plans["deadline_satisfactory_ratio"]:
        ratio = all_plans["deadline_satisfactory_ratio"] / one["deadline_satisfactory_ratio"]
        console.print(f"deadlines met with plans over ElasticFlow's: {ratio:.2f}x")


def _plus(spread: float | None, form: str) -> str:
    return f" ± {form.format(spread)}" if spread else ""
