"""Plans for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console

from vtrain_sim.decide import Plan, PlanResult
from vtrain_sim.report import amounts
from vtrain_sim.report.plan_words import (
    certainty,
    memory_margin,
    overlap_words,
    own_layout,
    recompute_words,
    sharding_words,
)
from vtrain_sim.report.tables import counted, duration, said_once
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.simulate.result import BAND_PROBABILITY
from vtrain_sim.specs.train import AUTO

# Columns that say what a plan is: those that are the same in all plans are said once.
_SAID_ONCE = ("schedule", "cp", "ep", "etp", "batch", "recompute", "shards", "overlaps", "GPUs")


@printers.register(PlanResult)
def print_plans(result: PlanResult, console: Console, rows: bool = True) -> None:
    """The best plans, the Pareto front of days and dollars, and how to launch the best."""
    request = result.request
    # Without a number of tokens the days of a training are those of one step.
    ranked_by = "time" if request.rank_by == "days" and not request.tokens else request.rank_by
    console.print(f"{_searched(result)}, {result.feasible:,} feasible; ranked by {ranked_by} ({_where_from(result)})")
    _print_plans("best plans", result.plans, request.tokens > 0, console)
    if request.tokens and len(result.pareto) > 1:
        _print_plans("Pareto front of days and dollars", result.pareto, True, console)
    best = result.plans[0]
    if request.tokens:
        console.print(_money(best))
    step = best.projection
    console.print(
        f"the best takes {duration(step.iteration_time_s)} a step, {BAND_PROBABILITY:.0%} band "
        f"{duration(step.iteration_time_low_s)} to {duration(step.iteration_time_high_s)}"
    )
    for sentence in (memory_margin(result), *certainty(result, "sure")):
        console.print(sentence)
    if best.checkpoint_interval_s is not None:
        console.print(f"checkpoint every {duration(best.checkpoint_interval_s)} (days and dollars include failures)")
    for sentence in own_layout(result):
        console.print(sentence)
    console.print("launch the best with:")
    console.out(shlex.join(best.to_dict()["megatron_args"]), highlight=False)


def _searched(result: PlanResult) -> str:
    """How many candidates there are, and which of them were projected."""
    job, took = f"{result.request.model.name or 'the model'} on {result.cluster}", f"{result.elapsed_s:.1f} s"
    if result.interrupted:
        return f"search for plans of {job} stopped after {took}, the best of {result.evaluated:,} that were projected"
    whole = f"{counted(result.candidates, 'candidates')} of {job}, searched in {took}"
    if result.evaluated == result.candidates:
        return f"{whole}: all projected"
    others = "Megatron refuses the others" if result.request.exhaustive else "no other can be better"
    return f"{whole}: {result.evaluated:,} projected ({others})"


def _money(plan: Plan) -> str:
    """What dollars are of."""
    cluster = plan.projection.cluster
    price = amounts.price(cluster.name, cluster.price_per_gpu_hour)
    return f"dollars: at {price}" if price else "dollars: no price is known: give --price-per-gpu-hour"


def _where_from(result: PlanResult) -> str:
    """Where the times of the best plan come from."""
    shares = result.plans[0].projection.provenance
    measured = shares.get("measured", 0.0) + shares.get("interpolated", 0.0)
    return f"{measured:.0%} of the best plan's time measured or interpolated" if measured >= 0.005 else "all modelled"


def _print_plans(title: str, plans: Sequence[Plan], of_training: bool, console: Console) -> None:
    """A table of plans; below its title what all of them have."""
    lines = [_line(str(i + 1), plan, of_training) for i, plan in enumerate(plans)]
    # Megatron-Core's own two schedules are told apart by the chunks.
    if all(plan.projection.configuration.train.schedule == AUTO for plan in plans):
        lines = [{**line, "schedule": None} for line in lines]
    console.print(said_once(title, lines, _SAID_ONCE, {"cp": 1, "ep": 1, "etp": 1, "overlaps": "none"}))


def _line(name: str, plan: Plan, of_training: bool) -> dict[str, object]:
    """A plan by column."""
    projection = plan.projection
    c = projection.configuration
    p, t = c.parallel, c.train
    days = {"days": amounts.day_figures(plan.days), "dollars": amounts.dollars(plan.cost_usd)} if of_training else {}
    return {
        "": name,
        "schedule": c.schedule,
        "tp": p.tp,
        "pp x vpp": f"{p.pp}x{p.vpp}" if p.vpp > 1 else str(p.pp),
        "dp": p.dp,
        "cp": p.cp,
        "ep": p.ep,
        "mbs": t.micro_batch_size,
        "batch": t.global_batch_size,
        "etp": p.etp if c.model.num_experts else None,
        "recompute": recompute_words(t),
        "shards": sharding_words(p),
        "overlaps": overlap_words(p),
        "GPUs": p.world_size,
        "step": duration(projection.iteration_time_s),
        "MFU": f"{projection.mfu:.1%}",
        "GiB": f"{projection.memory.worst.peak_bytes / 2**30:.1f}",
        **days,
        "sure": "-" if name == "1" else f"{plan.best_is_better:.0%}",
    }
