"""Model sizes for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich.console import Console

from vtrain_sim.decide.sizing import Candidate, SizeResult
from vtrain_sim.decide.sizing.laws import TRAINING_FLOPS
from vtrain_sim.report import amounts
from vtrain_sim.report.tables import counted, table
from vtrain_sim.report.terminal.printing import printers


@printers.register(SizeResult)
def print_sizes(result: SizeResult, console: Console, rows: bool = True) -> None:
    """What the budget would pay for at the devices' peak, how that would really train, and what does."""
    gpus = counted(result.num_gpus, "GPUs")
    console.print(f"{gpus} of {result.cluster} for {result.days:g} days")
    console.print(f"tokens: {result.rule.source}")
    if not result.rule.tokens_per_parameter:
        console.print(f"law {result.rule.law.name}: {result.rule.law.equation}")
    naive = (
        "at 100% MFU",
        None,
        f"{result.naive_parameters / 1e9:.2f}",
        f"{result.rule.tokens(result.naive_parameters) / 1e9:,.0f}",
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
        for line in _over_its_life(result):
            console.print(line)
        console.print("launch it with:")
        console.out(shlex.join(plan.to_dict()["megatron_args"]), highlight=False)


def _over_its_life(result: SizeResult) -> Iterator[str]:
    """The loss of the chosen model and what serving it takes, where they are known."""
    chosen, law = result.chosen, result.rule.law.name
    if chosen.loss is not None:
        yield f"its loss by law {law}: {chosen.loss:.3f} nats per token (by the law's data, not measured)"
    if chosen.serving_flops:
        served = amounts.tokens(result.rule.served)
        training = TRAINING_FLOPS * chosen.parameters * chosen.tokens
        yield (
            f"serving {served} takes {chosen.serving_flops:.3g} FLOPs (2 per parameter and token); its training "
            f"{training:.3g} (6 per parameter and token)"
        )
    if chosen.serving_usd is not None:
        yield f"serving costs {amounts.dollars(chosen.serving_usd)} at an MFU of {result.rule.inference_mfu:.1%}"


def _row(c: Candidate) -> tuple[object, ...]:
    model = f"{c.model.num_layers} x {c.model.hidden_size}"
    sizes = (f"{c.parameters / 1e9:.2f}", f"{c.tokens / 1e9:,.0f}")
    if c.plan is None:
        return (model, *sizes, None, None, "none fits")
    p = c.plan.projection.configuration.parallel
    layout = f"{p.tp} x {p.pp}{f'x{p.vpp}' if p.vpp > 1 else ''} x {p.dp}"
    return (model, *sizes, f"{c.plan.days:.1f}", f"{c.plan.projection.mfu:.1%}", layout)
