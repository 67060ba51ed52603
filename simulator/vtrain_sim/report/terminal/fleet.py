"""Policies compared, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from vtrain_sim.decide.fleet import POLICIES, FleetResult
from vtrain_sim.report import amounts
from vtrain_sim.report.tables import counted, said_once
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Row

# Columns of times, each in one unit.
_TIMES = {"mean_jct_s": "mean completion", "p95_jct_s": "p95 completion", "makespan_s": "makespan"}


@printers.register(FleetResult)
def print_fleet(result: FleetResult, console: Console, rows: bool = True) -> None:
    """One line per policy; figures of several traces with their standard deviation."""
    policies = result.to_dict()["policies"]
    times = {name: amounts.in_one_unit([figures[name] for figures in policies.values()]) for name in _TIMES}
    lines = [
        _line(name, figures, {title: times[key][place] for key, title in _TIMES.items()})
        for place, (name, figures) in enumerate(policies.items())
    ]
    console.print(f"{counted(result.num_gpus, 'GPUs')} of {result.cluster}; speeds are projected (modelled)")
    counts = ", ".join(f"{count:,}" for count in result.counts)
    console.print(
        f"a job has one of these numbers of GPUs, none between: {counts} (where it fits, and is faster than on fewer)"
    )
    console.print(said_once("policies", lines, ("jobs", "rejected"), {"rejected": 0}))
    price = amounts.price(result.cluster, result.price_per_gpu_hour)
    console.print(
        f"mean and 95th percentile of completion: from a job's arrival to its end; dollars: of the GPU-hours in use, "
        f"{f'at {price}' if price else 'but no price is known: give a cluster file that says it'}"
    )
    for name in policies:
        console.print(f"{name}: {POLICIES[name].says}")
    one, all_plans = policies.get("elasticflow"), policies.get("elastic-plans")
    if one and all_plans and one["deadline_satisfactory_ratio"] and all_plans["deadline_satisfactory_ratio"]:
        ratio = all_plans["deadline_satisfactory_ratio"] / one["deadline_satisfactory_ratio"]
        console.print(f"deadlines met with plans over ElasticFlow's: {ratio:.2f}x")


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
