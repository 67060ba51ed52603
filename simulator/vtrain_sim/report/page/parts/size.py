"""A sizing: days against parameters."""

from __future__ import annotations

import shlex

from vtrain_sim.decide.sizing import SizeResult
from vtrain_sim.report import amounts
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.page.parts.projection import breakdown_section, flags_of, memory_section
from vtrain_sim.report.tables import counted
from vtrain_sim.results import Row

_LAYOUT = ("num_gpus", "tp", "pp", "vpp", "dp", "cp", "mbs", "recompute")


@pages.register(SizeResult)
def page_of_size(result: SizeResult) -> Page:
    """The chosen size, every candidate, and where the chosen one's time and memory go."""
    chosen = result.chosen
    figures: tuple[Figure, ...] = (
        Figure("Largest in time", f"{chosen.parameters / 1e9:,.2f} billion", f"parameters, {_shape(result)}; modelled"),
        Figure("Tokens", f"{chosen.tokens / 1e9:,.0f} billion", result.rule.source),
        Figure("Training", f"{chosen.days:.1f} days", f"of {result.days:g}; modelled"),
        Figure(
            "At 100% MFU", f"{result.naive_parameters / 1e9:,.2f} billion", "parameters that the peak would pay for"
        ),
    )
    sections = [_candidates(result), _frontier(result)]
    texts: tuple[tuple[str, str], ...] = ()
    if chosen.plan is not None:
        projection = chosen.plan.projection
        texts = flags_of(projection)
        price = amounts.price(result.cluster, projection.cluster.price_per_gpu_hour)
        if price:
            cost = amounts.dollars(chosen.plan.cost_usd)
            figures += (Figure("Cost", cost, f"US dollars, at {price}; modelled"),)
        if chosen.loss is not None:
            figures += (Figure("Loss", f"{chosen.loss:.3f}", f"nats per token, by law {result.rule.law.name}"),)
        if chosen.serving_usd is not None:
            at = f"US dollars, {result.rule.served:.3g} tokens at an MFU of {result.rule.inference_mfu:.1%}; modelled"
            figures += (Figure("Serving", amounts.dollars(chosen.serving_usd), at),)
        figures += (Figure("MFU", f"{projection.mfu:.1%}", "of the largest in time; modelled"),)
        sections += [breakdown_section(projection), memory_section(projection)]
    title = f"{_gpus(result)} of {result.cluster} for {result.days:g} days"
    return Page(
        "sizing",
        title,
        f"law {result.rule.law.name}: {result.rule.law.equation}",
        figures,
        tuple(sections),
        texts=texts,
    )


def _gpus(result: SizeResult) -> str:
    return " or ".join(f"{count:,}" for count in result.gpu_counts[:-1]) + (
        f" or {counted(result.num_gpus, 'GPUs')}" if len(result.gpu_counts) > 1 else counted(result.num_gpus, "GPUs")
    )


def _shape(result: SizeResult) -> str:
    model = result.chosen.model
    layers = f"{result.shape.name}, {model.num_layers} layers of {model.hidden_size:,}"
    if result.chosen.active_parameters == result.chosen.parameters:
        return layers
    return f"{layers}, {result.chosen.active_parameters / 1e9:,.2f} billion used by a token"


def _candidates(result: SizeResult) -> Section:
    rows: list[Row] = []
    for candidate, row in zip(result.candidates, result.rows(), strict=True):
        plan = candidate.plan.to_dict() if candidate.plan else {}
        flags = {"megatron_args": shlex.join(plan["megatron_args"])} if plan else {}
        rows.append({**row, **{name: plan.get(name) for name in _LAYOUT}, **flags})
    planned = [place for place, row in enumerate(rows) if row["days"] is not None]
    chosen = [place for place, candidate in enumerate(result.candidates) if candidate == result.chosen]
    chart = {
        "draw": "points",
        "across": ["parameters"],
        "up": ["days", "mfu"],
        "series": [
            {"name": "best plan", "places": planned, "style": "strong"},
            {"name": "largest in time", "places": chosen, "style": "mark"},
            {"name": "at 100% MFU", "places": list(range(len(rows))), "style": "line", "up": {"days": "naive_days"}},
        ],
        "limit": {"value": result.days, "label": f"{result.days:g} days", "up": "days"},
        "hover": ["num_layers", "hidden_size", "parameters", "tokens", "days", "mfu", *_LAYOUT],
    }
    lead = (
        f"{len(planned)} sizes were planned, each on its compute-optimal number of tokens; the largest below the line "
        f"has {result.chosen.parameters / 1e9:,.2f} billion parameters."
    )
    return Section("Sizes", lead, rows, chart, "modelled")


def _frontier(result: SizeResult) -> Section:
    """Size against dollars and days, of what nothing beats in all three."""
    rows = result.tables()["frontier of size, days and dollars"]
    chosen = [place for place, candidate in enumerate(result.frontier) if candidate is result.chosen]
    chart = {
        "draw": "points",
        "across": ["parameters"],
        "up": ["cost_usd", "days"],
        "series": [
            {"name": "frontier", "places": list(range(len(rows))), "style": "strong"},
            {"name": "largest in time", "places": chosen, "style": "mark"},
        ],
        "hover": ["num_layers", "hidden_size", "parameters", "tokens", "num_gpus", "days", "cost_usd", "mfu"],
    }
    lead = f"{counted(len(rows), 'candidates')} than which no other one is as large, as soon done and as cheap."
    return Section("Size, days and dollars", lead, rows, chart, "modelled")
