"""Model sizes for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console

from vtrain_sim.decide.sizing import Candidate, SizeResult
from vtrain_sim.decide.sizing.laws import TRAINING_FLOPS
from vtrain_sim.report import amounts
from vtrain_sim.report.tables import counted, duration, table
from vtrain_sim.report.terminal.printing import printers

# Lines of the frontier that are printed.
_MOST_OF_FRONTIER = 12


@printers.register(SizeResult)
def print_sizes(result: SizeResult, console: Console, rows: bool = True) -> None:
    """What the budget would pay for at the devices' peak, how that would really train, and what does."""
    counts = " or ".join(f"{count:,}" for count in result.gpu_counts)
    gpus = counted(result.num_gpus, "GPUs") if len(result.gpu_counts) == 1 else f"{counts} GPUs"
    console.print(f"{gpus} of {result.cluster} for {result.days:g} days")
    console.print(f"shape {result.shape.name}: {result.shape.source}")
    console.print(f"tokens: {result.rule.source}")
    if not result.rule.tokens_per_parameter:
        console.print(f"law {result.rule.law.name}: {result.rule.law.equation}")
    columns = _columns(result)
    naive = {
        "params (B)": f"{result.naive_parameters / 1e9:.2f}",
        "active (B)": f"{result.naive_parameters / 1e9:.2f}",
        "tokens (B)": f"{result.rule.tokens(result.naive_parameters) / 1e9:,.0f}",
        "days": f"{result.days:.1f}",
        "MFU": "100.0%",
    }
    if "active (B)" in columns:
        del naive["params (B)"]
    lines = [
        ("at 100% MFU", *(naive.get(column) for column in columns)),
        ("nearest to that", *_row(result.naive, columns)),
        ("largest in time", *_row(result.chosen, columns)),
    ]
    console.print(table("models", ("", *columns), lines))
    near = [_row(c, columns) for c in result.candidates if abs(c.days / result.days - 1) < 0.35]
    if near:
        console.print(table("candidates near the limit (days and MFU: modelled)", columns, near))
    _print_frontier(result, console, columns)
    for line in _of_the_largest(result):
        console.print(line)
    if result.chosen.plan is not None:
        console.print("launch it with:")
        console.out(shlex.join(result.chosen.plan.to_dict()["megatron_args"]), highlight=False)


def _print_frontier(result: SizeResult, console: Console, columns: Sequence[str]) -> None:
    """Sizes that none beats in days and dollars, thinned to a screen."""
    shown = tuple(column for column in columns if column != "tokens (B)")
    front, most = result.frontier, _MOST_OF_FRONTIER
    picked = front if len(front) <= most else [front[i * (len(front) - 1) // (most - 1)] for i in range(most)]
    if result.chosen in front and result.chosen not in picked:
        picked = sorted([*picked, result.chosen], key=lambda c: (c.active_parameters, c.days))
    lines = [
        (*_row(c, shown), amounts.dollars(c.cost_usd) if c.cost_usd else None, "chosen" if c is result.chosen else None)
        for c in picked
    ]
    title = "frontier of size, days and dollars (modelled)"
    if len(picked) < len(front):
        title = f"{title}: {len(picked)} of {len(front)}, --json has all"
    console.print(table(title, (*shown, "dollars", ""), lines))


def _columns(result: SizeResult) -> tuple[str, ...]:
    """Columns of a candidate: those that all have alike are left out."""
    experts = any(c.parameters != c.active_parameters for c in result.candidates)
    return (
        "layers x hidden",
        "params (B)",
        *(("active (B)",) if experts else ()),
        "tokens (B)",
        *(("GPUs",) if len(result.gpu_counts) > 1 else ()),
        "days",
        "MFU",
        "tp x pp x dp",
        *(("ep",) if experts else ()),
    )


def _row(c: Candidate, columns: Sequence[str]) -> tuple[object, ...]:
    cells: dict[str, object] = {
        "layers x hidden": f"{c.model.num_layers} x {c.model.hidden_size}",
        "params (B)": f"{c.parameters / 1e9:.2f}",
        "active (B)": f"{c.active_parameters / 1e9:.2f}",
        "tokens (B)": f"{c.tokens / 1e9:,.0f}",
        "GPUs": f"{c.num_gpus:,}",
        "tp x pp x dp": "none fits",
    }
    if c.plan is not None:
        p = c.plan.projection.configuration.parallel
        cells |= {
            "days": f"{c.plan.days:.1f}",
            "MFU": f"{c.plan.projection.mfu:.1%}",
            "tp x pp x dp": f"{p.tp} x {p.pp}{f'x{p.vpp}' if p.vpp > 1 else ''} x {p.dp}",
            "ep": p.ep,
        }
    return tuple(cells.get(column) for column in columns)


def _of_the_largest(result: SizeResult) -> Iterator[str]:
    """What training and serving the chosen model take, and what holds it down."""
    plan = result.chosen.plan
    assert plan is not None
    price = amounts.price(result.cluster, plan.projection.cluster.price_per_gpu_hour)
    if price:
        yield f"the largest in time costs {amounts.dollars(plan.cost_usd)} at {price}"
    if result.failures is not None and plan.checkpoint_interval_s is not None:
        mtbf, every = result.failures.gpu_mtbf_hours, duration(plan.checkpoint_interval_s)
        yield f"days and dollars include failures (one of each GPU in {mtbf:,.0f} h) and checkpoints, every {every}"
    yield from _over_its_life(result)
    for note in result.notes:
        yield f"of the largest in time: {note}"


def _over_its_life(result: SizeResult) -> Iterator[str]:
    """The loss of the chosen model and what serving it takes, where they are known."""
    chosen, law = result.chosen, result.rule.law.name
    if chosen.loss is not None:
        yield f"its loss by law {law}: {chosen.loss:.3f} nats per token (by the law's data, not measured)"
    if chosen.serving_flops:
        served = amounts.tokens(result.rule.served)
        training = TRAINING_FLOPS * chosen.active_parameters * chosen.tokens
        yield (
            f"serving {served} takes {chosen.serving_flops:.3g} FLOPs (2 per parameter and token); its training "
            f"{training:.3g} (6 per parameter and token)"
        )
    if chosen.serving_usd is not None:
        yield f"serving costs {amounts.dollars(chosen.serving_usd)} at an MFU of {result.rule.inference_mfu:.1%}"
