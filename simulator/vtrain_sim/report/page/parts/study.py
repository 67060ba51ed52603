"""A study: the best plan of each unit, and the front of each."""

from __future__ import annotations

import shlex

from vtrain_sim.decide.study.result import StudyResult
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.shared_words import unit_name
from vtrain_sim.results import Document, Row

_HOVER = (
    "unit",
    "num_gpus",
    "schedule",
    "tp",
    "pp",
    "vpp",
    "dp",
    "cp",
    "ep",
    "mbs",
    "recompute",
    "days",
    "cost_usd",
    "iteration_time_s",
    "mfu",
)


@pages.register(StudyResult)
def page_of_study(result: StudyResult) -> Page:
    """Days and dollars of every unit."""
    rows: list[Row] = [{"unit": unit_name(row), **row} for row in result.rows()]
    planned = [row for row in rows if row["days"] is not None]
    figures = (Figure("Units", str(len(rows)), f"{len(planned)} have a plan; all modelled"),)
    best = {
        "draw": "bars",
        "category": "unit",
        "values": ["days", "cost_usd", "iteration_time_s", "mfu"],
        "choose": True,
        "lying": True,
        "hover": ["days", "cost_usd", "num_gpus", "tp", "pp", "dp", "cp", "ep", "mfu"],
    }
    lead = f"The best plan of each model, cluster and global batch: {len(planned)} of {len(rows)} have one."
    sections = [Section("Best plan of each unit", lead, rows, best if planned else None, "modelled")]
    plans, series = _fronts(result)
    if plans:
        lead = "A line is the Pareto front of one unit: no other plan of it is both faster and cheaper."
        front = {"draw": "points", "across": ["days", "num_gpus", "iteration_time_s"], "up": ["cost_usd", "mfu"]}
        front["logarithmic"] = ["days", "cost_usd", "iteration_time_s", "num_gpus"]
        chart = {**front, "series": series, "hover": list(_HOVER)}
        sections.append(Section("Time against cost", lead, plans, chart, "modelled"))
    return Page("study", "Study", "", figures, tuple(sections))


def _fronts(result: StudyResult) -> tuple[list[Row], list[Document]]:
    """The plans of all units, and for each unit the places of its front."""
    rows: list[Row] = []
    series = []
    for unit in result.results:
        name = unit_name(unit["unit"])
        front = [_plan(name, plan, True) for plan in unit.get("pareto") or []]
        known = {row["megatron_args"] for row in front}
        best = [_plan(name, plan, False) for plan in unit.get("plans") or []]
        if front:
            places = list(range(len(rows), len(rows) + len(front)))
            series.append({"name": name, "places": places, "style": "line"})
        rows += [*front, *(row for row in best if row["megatron_args"] not in known)]
    return rows, series


def _plan(unit: str, plan: Document, on_front: bool) -> Row:
    kept = {name: value for name, value in plan.items() if name != "megatron_args"}
    return {"unit": unit, "on_front": on_front, **kept, "megatron_args": shlex.join(plan["megatron_args"])}
