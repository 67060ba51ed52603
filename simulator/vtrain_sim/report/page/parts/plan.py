"""A search: time against cost, and every plan that was evaluated."""

from __future__ import annotations

import shlex

from vtrain_sim.decide import Plan, PlanResult
from vtrain_sim.decide.evaluated import FITS
from vtrain_sim.report import amounts
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.page.parts.projection import (
    breakdown_section,
    described,
    figures_of,
    flags_of,
    memory_section,
    notes_of,
)
from vtrain_sim.report.plan_words import certainty, memory_margin, own_layout
from vtrain_sim.report.tables import counted
from vtrain_sim.results import Row

_LAYOUT = ("num_gpus", "tp", "pp", "vpp", "dp", "cp", "ep", "mbs", "global_batch_size", "recompute", "schedule")
_OF_TRAINING = ("days", "cost_usd")
# Columns that come first: what plans are compared by.
_FIRST = ("num_gpus", *_OF_TRAINING, "iteration_time_s", "mfu", "peak_bytes")


@pages.register(PlanResult)
def page_of_plan(result: PlanResult) -> Page:
    """The best plan's figures, the front, every plan, and where the best one's time and memory go."""
    best = result.plans[0]
    searched = Figure(
        "Search",
        "stopped" if result.interrupted else f"{result.candidates:,} candidates",
        f"{result.evaluated:,} projected, {result.feasible:,} feasible; {result.elapsed_s:.1f} s; all modelled",
    )
    cluster = best.projection.cluster
    price = amounts.price(cluster.name, cluster.price_per_gpu_hour) or "no known price"
    training: tuple[Figure, ...] = ()
    if result.request.tokens:
        training = (
            Figure("Training", amounts.days(best.days), f"{amounts.tokens(result.request.tokens)}; modelled"),
            Figure("Cost", amounts.dollars(best.cost_usd), f"US dollars, at {price}; modelled"),
        )
    first = breakdown_section(best.projection), memory_section(best.projection)
    return Page(
        "plan",
        f"{result.request.model.name or 'The model'} on {result.cluster}",
        f"best by {result.request.rank_by}: {counted(best.projection.configuration.parallel.world_size, 'GPUs')}, "
        f"{described(best.projection)}",
        (*figures_of(best.projection), *training, searched),
        (_front(result), _best(result), *first),
        _notes(result),
        texts=flags_of(best.projection),
    )


def _notes(result: PlanResult) -> tuple[str, ...]:
    kept = len(result.every.configurations)
    notes = [*own_layout(result), *notes_of(result.plans[0].projection)]
    if kept < result.every.total:
        notes.append(
            f"{kept:,} of {result.every.total:,} evaluated plans are listed: the best, and some that were dropped."
        )
    if result.candidates > result.evaluated and not result.interrupted:
        notes.append("Candidates that cannot be among the best, by lower bounds of time and memory, are not listed.")
    notes += [memory_margin(result), *certainty(result, "best is better")]
    return tuple(note[:1].upper() + note[1:] for note in notes)


def _front(result: PlanResult) -> Section:
    """Every plan as a point; those of the front are joined."""
    rows = result.every.rows()
    places = {_key(row): place for place, row in enumerate(rows)}
    front = [_place(plan, rows, places) for plan in result.pareto]
    best = [_place(plan, rows, places) for plan in result.plans]
    gpus = sorted({row["num_gpus"] for row in rows})
    training = bool(result.request.tokens)
    if not training:
        rows = [{k: v for k, v in row.items() if k not in _OF_TRAINING} for row in rows]
    several = ["num_gpus"] if len(gpus) > 1 else []
    across = ["days", "iteration_time_s", *several, "peak_bytes"] if training else [*several, "peak_bytes"]
    up = ["cost_usd", "mfu"] if training else ["iteration_time_s", "mfu"]
    rows = [{name: row[name] for name in (*_FIRST, *row) if name in row} for row in rows]
    feasible = [place for place, row in enumerate(rows) if row["verdict"] == FITS]
    words = "days and dollars" if training else "step time and GPU time"
    return Section(
        "Every evaluated plan",
        f"{len(feasible):,} of {len(rows):,} plans listed fit{' in time' if result.request.deadline_days else ''}; "
        f"{len(front)} of them form the Pareto front, where no other plan is better in both {words}. Choose a point, "
        "or a row, for its flags.",
        rows,
        {
            "draw": "points",
            "across": across,
            "logarithmic": [*_OF_TRAINING, "iteration_time_s", "num_gpus"],
            "up": up,
            "series": [
                {"name": "fits", "places": feasible, "style": "faint"},
                {"name": f"best by {result.request.rank_by}", "places": best, "style": "strong"},
                {"name": "Pareto front", "places": front, "style": "line"},
            ],
            "hover": [*(_OF_TRAINING if training else ()), "iteration_time_s", "mfu", "peak_bytes", *_LAYOUT],
        },
        "modelled",
    )


def _key(row: Row) -> tuple[object, ...]:
    return row["num_gpus"], row["megatron_args"]


def _place(plan: Plan, rows: list[Row], places: dict[tuple[object, ...], int]) -> int:
    """The row of a plan; added where the list of all was cut."""
    row = plan.to_dict()
    row["megatron_args"] = shlex.join(row["megatron_args"])
    if _key(row) not in places:
        places[_key(row)] = len(rows)
        rows.append({name: row[name] for name in rows[0] if name in row} | {"verdict": FITS})
    return places[_key(row)]


def _best(result: PlanResult) -> Section:
    hidden = () if result.request.tokens else _OF_TRAINING
    rows = [{k: row[k] for k in (*_FIRST, *row) if k not in hidden} for row in result.rows()]
    lead = f"The {len(rows)} best by {result.request.rank_by}, with the 90% band of a step."
    return Section("Best plans", lead, rows, None, "modelled")
