"""A captured step beside the simulated one, for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_schemas.operators import Family, Operator, kind
from vtrain_sim.report.tables import duration, percent, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.simulate.result import BAND_PROBABILITY
from vtrain_sim.validate.captured import typical_error
from vtrain_sim.validate.comparison import Comparison

# Operators beyond these take little of the step.
_MOST = 20


@printers.register(Comparison)
def print_comparison(comparison: Comparison, console: Console, rows: bool = True) -> None:
    """Print the step, its parts and its operators; without `rows` only the step."""
    projection = comparison.projection
    console.print(
        f"run {comparison.run_id}: {comparison.steps} steps on {comparison.ranks} ranks, captured "
        f"[bold]{duration(comparison.captured_step_s)}[/bold] (measured), simulated "
        f"[bold]{duration(projection.iteration_time_s)}[/bold], {percent(comparison.error, sign=True)}; "
        f"{BAND_PROBABILITY:.0%} band {duration(projection.iteration_time_low_s)} to "
        f"{duration(projection.iteration_time_high_s)}"
    )
    shares = ", ".join(f"{share:.0%} {name}" for name, share in projection.provenance.items())
    console.print(f"provenance of the simulated time: {shares}")
    if rows:
        lines = [
            (p.part, p.direction, _time(p.captured_s), _time(p.simulated_s), _error(p.captured_s, p.simulated_s))
            for p in comparison.parts
        ]
        title = "by part, per step on a rank that holds it (captured: measured)"
        console.print(table(title, ("part", "", "captured", "simulated", "error"), lines, left=2))
        typical = typical_error(comparison.parts)
        if typical is not None:
            console.print(f"median error of a part: {percent(typical)}")
        operators = [
            (
                f"{o.operator.kind} {o.operator.phase}",
                shape(o.operator),
                _calls(o.captured_calls, o.simulated_calls),
                _time(o.captured_s),
                _time(o.simulated_s),
                _error(o.captured_s, o.simulated_s),
                o.provenance,
            )
            for o in comparison.operators[:_MOST]
        ]
        columns = ("operator", "shape", "calls", "captured", "simulated", "error", "provenance")
        title = "by operator, calls per step on a rank (captured, simulated where they differ) and time of one"
        console.print(table(title, columns, operators, left=2, prose=columns[-1:]))
    for remark in comparison.remarks:
        console.print(remark)


def shape(operator: Operator) -> str:
    """Sizes of an operator, short."""
    if kind(operator.kind).family is Family.ATTENTION:
        return f"{operator.batch} x {operator.seq_q} x {operator.seq_kv}, {operator.heads} heads of {operator.head_dim}"
    return " x ".join(str(d) for d in (operator.m, operator.n, operator.k) if d) or "-"


def _calls(captured: float, simulated: float) -> str:
    return f"{captured:g}" if captured == simulated else f"{captured:g}, {simulated:g}"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)


def _error(captured: float | None, simulated: float | None) -> str | None:
    return percent(simulated / captured - 1, sign=True) if captured and simulated else None
