"""Model sizes for the terminal and as a picture."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from vtrain_sim.decide.sizing import LAWS, Candidate, SizeResult, tokens_for
from vtrain_sim.report.figures import new_figure, save
from vtrain_sim.report.tables import table


def print_sizes(result: SizeResult, console: Console) -> None:
    """What the budget would pay for at the devices' peak, how that would really train, and what does."""
    console.print(
        f"{result.num_gpus:,} GPUs of {result.cluster} for {result.days:g} days; law: {LAWS[result.law].source}"
    )
    naive = (
        "naive: at 100% utilisation",
        None,
        f"{result.naive_parameters / 1e9:.2f}",
        f"{tokens_for(result.naive_parameters, result.law) / 1e9:,.0f}",
        f"{result.days:.1f}",
        "100.0%",
        None,
    )
    rows = [
        naive,
        _row("the nearest shape, as it would train", result.naive),
        _row("largest that trains in time", result.chosen),
    ]
    columns = ("", "shape", "parameters (billions)", "tokens (billions)", "days", "utilisation", "plan")
    console.print(table("", columns, rows, left=2))
    rows = [_row("", c) for c in result.candidates if abs(c.days / result.days - 1) < 0.35]
    console.print(table("candidates near the limit (days and utilisation: modelled)", columns, rows, left=2))
    if result.chosen.plan is not None:
        console.print(f"launch it with: {shlex.join(result.chosen.plan.to_dict()['megatron_args'])}")


def _row(name: str, c: Candidate) -> tuple[object, ...]:
    shape = f"{c.model.num_layers} layers, hidden {c.model.hidden_size}"
    sizes = (f"{c.parameters / 1e9:.2f}", f"{c.tokens / 1e9:,.0f}")
    if c.plan is None:
        return (name, shape, *sizes, None, None, "none fits")
    p = c.plan.projection.configuration.parallel
    where = f"tp {p.tp}, pp {p.pp}" + (f" x {p.vpp}" if p.vpp > 1 else "") + f", dp {p.dp} ({p.world_size:,} GPUs)"
    return (name, shape, *sizes, f"{c.plan.days:.1f}", f"{c.plan.projection.mfu:.1%}", where)


def draw_sizes(path: Path, result: SizeResult) -> None:
    """Days of the best plan against parameters, and what the devices' peak would promise."""
    figure, axes = new_figure(path, 7.5, 5.0)
    done = [c for c in result.candidates if c.plan is not None]
    axes.scatter([c.parameters / 1e9 for c in done], [c.days for c in done], s=18, label="best plan (modelled)")
    axes.plot(
        [c.parameters / 1e9 for c in result.candidates],
        [c.naive_days for c in result.candidates],
        color="grey",
        linestyle="--",
        label="at 100% utilisation",
    )
    axes.axhline(result.days, color="black", linewidth=0.8)
    chosen = result.chosen
    axes.annotate(
        f"{chosen.parameters / 1e9:.1f}B",
        (chosen.parameters / 1e9, chosen.days),
        xytext=(8, -14),
        textcoords="offset points",
    )
    axes.set(xlabel="parameters (billions)", ylabel="days", ylim=(0, 3 * result.days))
    axes.legend()
    save(figure, path)
