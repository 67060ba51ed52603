"""Plans for the terminal."""

from __future__ import annotations

import shlex

from rich.console import Console

from vtrain_sim.decide import Plan, PlanResult
from vtrain_sim.report.tables import duration, gib, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.specs.train import AUTO


@printers.register(PlanResult)
def print_plans(result: PlanResult, console: Console, rows: bool = True) -> None:
    """The best plans, the Pareto front of days and dollars, and how to launch the best."""
    request = result.request
    # Without a number of tokens the days of a training are those of one step.
    ranked_by = "time" if request.rank_by == "days" and not request.tokens else request.rank_by
    console.print(
        f"{result.evaluated:,} plans of {request.model.name or 'the model'} on {result.cluster} evaluated in "
        f"{result.elapsed_s:.1f} s, {result.feasible:,} feasible; ranked by {ranked_by} (all modelled)"
    )
    # Megatron-Core's own two are told apart by the chunks.
    other = any(p.projection.configuration.train.schedule != AUTO for p in (*result.plans, *result.pareto))
    columns = (
        "",
        *(["schedule"] if other else []),
        "tp",
        "pp",
        "vpp",
        "dp",
        "cp",
        "ep",
        "mbs",
        "batch",
        "recompute",
        "zero-1",
        "GPUs",
        "step",
        "90% band",
        "MFU",
        "memory",
        *(["days", "dollars"] if request.tokens else []),
        "",
    )
    lines = [_row(str(i + 1), p, other, request.tokens > 0) for i, p in enumerate(result.plans)]
    console.print(table("best plans", columns, lines))
    if request.tokens and len(result.pareto) > 1:
        front = [_row("", p, other, True) for p in result.pareto]
        console.print(table("Pareto front of days and dollars", columns, front))
    if any(p.tied_with_best for p in result.plans[1:]):
        console.print("tie: the plan's band overlaps that of the best; which of them is faster is not known")
    best = result.plans[0]
    if best.checkpoint_interval_s is not None:
        console.print(f"checkpoint every {duration(best.checkpoint_interval_s)} (days and dollars include failures)")
    console.print(f"launch the best with: {shlex.join(best.to_dict()['megatron_args'])}")


def _row(name: str, plan: Plan, with_schedule: bool, of_training: bool) -> tuple[object, ...]:
    projection = plan.projection
    c = projection.configuration
    p, t = c.parallel, c.train
    band = f"{duration(projection.iteration_time_low_s)} to {duration(projection.iteration_time_high_s)}"
    return (
        name,
        *([c.schedule] if with_schedule else []),
        p.tp,
        p.pp,
        p.vpp,
        p.dp,
        p.cp,
        p.ep,
        t.micro_batch_size,
        t.global_batch_size,
        t.recompute_granularity,
        p.distributed_optimizer,
        p.world_size,
        duration(projection.iteration_time_s),
        band,
        f"{projection.mfu:.1%}",
        gib(projection.memory.worst.peak_bytes),
        *([f"{plan.days:.2f}", f"${plan.cost_usd:,.0f}"] if of_training else []),
        "tie" if plan.tied_with_best and name != "1" else "",
    )
