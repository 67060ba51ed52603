"""Policies compared, for the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vtrain_sim.decide.fleet import POLICIES, Outcome
from vtrain_sim.report.figures import new_figure, save
from vtrain_sim.report.tables import duration, table

SCHEMA = "vtrain.schedule/1"
_FIGURES = ("deadline_satisfactory_ratio", "mean_jct_s", "p95_jct_s", "makespan_s", "gpu_utilisation", "cost_usd")


def summary(
    outcomes: dict[str, list[Outcome]], cluster: str, gpus: int, price: float, restart_s: float
) -> dict[str, Any]:
    """The machine-readable result: figures of each policy, means over the traces with their spread."""
    policies: dict[str, Any] = {}
    for name, found in outcomes.items():
        each = [o.to_dict(price) for o in found]
        means = {key: _mean([e[key] for e in each]) for key in each[0]}
        spread = {key: _spread([e[key] for e in each]) for key in _FIGURES}
        policies[name] = {**means, "spread": spread, "traces": len(each)}
    return {
        "schema": SCHEMA,
        "cluster": cluster,
        "num_gpus": gpus,
        "restart_seconds": restart_s,
        "policies": policies,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    """Standard deviation over the traces."""
    known = [v for v in values if v is not None]
    return float(np.std(known)) if known else None


def print_schedule(result: dict[str, Any], console: Console) -> None:
    """One line a policy; figures of several traces with their standard deviation."""
    rows = []
    for name, p in result["policies"].items():
        spread = p["spread"]
        ratio = p["deadline_satisfactory_ratio"]
        rows.append(
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
        "turned away",
        "deadlines met",
        "mean completion",
        "p95",
        "makespan",
        "GPUs in use",
        "dollars",
    )
    console.print(f"{result['num_gpus']:,} GPUs of {result['cluster']}; speeds are projected (modelled)")
    console.print(table("", columns, rows, left=2))
    one, all_plans = result["policies"].get("elasticflow"), result["policies"].get("elastic-plans")
    if one and all_plans and one["deadline_satisfactory_ratio"] and all_plans["deadline_satisfactory_ratio"]:
        ratio = all_plans["deadline_satisfactory_ratio"] / one["deadline_satisfactory_ratio"]
        console.print(f"deadlines met with plans over ElasticFlow's: {ratio:.2f}x")


def _plus(spread: float | None, form: str) -> str:
    return f" ± {form.format(spread)}" if spread else ""


def draw_schedule(path: Path, outcomes: dict[str, Outcome]) -> None:
    """A panel a policy: each job's stretches, as high as its GPUs, stacked as they are handed out."""
    figure, first = new_figure(path, 9.0, 2.0 + 2.0 * len(outcomes))
    figure.delaxes(first)
    panels = figure.subplots(len(outcomes), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, outcome) in zip(panels, outcomes.items(), strict=True):
        order = {job.job_id: index for index, job in enumerate(outcome.jobs)}
        for stretch, floor in _stacked(outcome):
            colour = f"C{order[stretch.job_id] % 10}"
            hours = (stretch.start_s / 3600, (stretch.end_s - stretch.start_s) / 3600)
            axes.broken_barh([hours], (floor, stretch.gpus), facecolors=colour, edgecolor="white", linewidth=0.3)
        axes.set(ylabel="GPUs", ylim=(0, outcome.capacity), title=f"{name}: {POLICIES[name].says}")
    panels[-1].set_xlabel("hours")
    save(figure, path)


def _stacked(outcome: Outcome) -> list[tuple[Any, int]]:
    """Each stretch with the lowest GPU number from which as many are free for all of its time, else the
    pieces that are: a picture of numbers of GPUs, not of a placement."""
    free_at = np.zeros(outcome.capacity)
    found = []
    for stretch in outcome.stretches:
        free = np.flatnonzero(free_at <= stretch.start_s + 1e-6)
        runs = np.split(free, np.flatnonzero(np.diff(free) != 1) + 1)
        floor = next((int(r[0]) for r in runs if len(r) >= stretch.gpus), None)
        if floor is None:
            floor = int(free[0]) if len(free) else 0
        free_at[floor : floor + stretch.gpus] = stretch.end_s
        found.append((stretch, floor))
    return found
