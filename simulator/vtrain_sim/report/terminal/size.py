"""Model sizes for the terminal."""

from __future__ import annotations

import shlex

from rich.console import Console

from vtrain_sim.decide.sizing import LAWS, Candidate, SizeResult, tokens_for
from vtrain_sim.report import amounts
from vtrain_sim.report.tables import counted, table
from vtrain_sim.report.terminal.printing import printers


@printers.register(SizeResult)
def print_sizes(result: SizeResult, console: Console, rows: bool = True) -> None:
    """What the budget would pay for at the devices' peak, how that would really train, and what does."""
    gpus = counted(result.num_gpus, "GPUs")
    console.print(f"{gpus} of {result.cluster} for {result.days:g} days; law: {LAWS[result.law].source}")
    naive = (
        "at 100% MFU",
        None,
        f"{result.naive_parameters / 1e9:.2f}",
        f"{tokens_for(result.naive_parameters, result.law) / 1e9:,.0f}",
        f"{result.days:.1f}",
        "100.0%",
        None,
    )
    lines = [naive, ("nearest to that", *_row(result.naive))]
    lines.append(("largest in time", *_row(result.chosen)))
    columns = ("layers x hidden", "params (B)", "tokens (B)", "days", "MFU", "tp x pp x dp")
    console.print(table("models", ("", *columns), lines))
    near = [_row(c) for c in result.candidates if abs(c.days / result.days - 1) < 0.35]
    console.print(table("candidates near the limit (days and MFU: modelled)", columns, near))
    if result.chosen.plan is not None:
        plan = result.chosen.plan
        price = amounts.price(result.cluster, plan.projection.cluster.price_per_gpu_hour)
        if price:
            console.print(f"the largest in time costs {amounts.dollars(plan.cost_usd)} at {price}")
        console.print("launch it with:")
        console.out(shlex.join(plan.to_dict()["megatron_args"]), highlight=False)


def _row(c: Candidate) -> tuple[object, ...]:
    model = f"{c.model.num_layers} x {c.model.hidden_size}"
    sizes = (f"{c.parameters / 1e9:.2f}", f"{c.tokens / 1e9:,.0f}")
    if c.plan is None:
        return (model, *sizes, None, None, "none fits")
    p = c.plan.projection.configuration.parallel
    layout = f"{p.tp} x {p.pp}{f'x{p.vpp}' if p.vpp > 1 else ''} x {p.dp}"
    return (model, *sizes, f"{c.plan.days:.1f}", f"{c.plan.projection.mfu:.1%}", layout)
