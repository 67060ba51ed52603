"""What one change at a time would bring, for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.decide.sensitivity import Effect, Sensitivity
from vtrain_sim.report.tables import duration, gib, percent, signed, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.report.terminal.projection import print_configuration

# Smaller changes are rounding.
_LEAST, _LEAST_BYTES = 5e-5, 1 << 23


@printers.register(Sensitivity)
def print_sensitivity(sensitivity: Sensitivity, console: Console, rows: bool = True) -> None:
    """Print the configuration, what binds it, and the changes, the one that brings most first."""
    projection = sensitivity.projection
    print_configuration(projection, console)
    console.print(f"iteration time [bold]{duration(projection.iteration_time_s)}[/bold]")
    console.print(f"memory (modelled): {projection.memory.sentence()}")
    for sentence in sensitivity.sentences:
        console.print(f"- {sentence}", highlight=False)
    if not rows:
        return
    lines = [(e.name, *_changed(e), _memory(e), e.fits) for e in sensitivity.effects if e.step_s is not None]
    columns = ("one change at a time", "step", "", "memory", "fits")
    console.print(table("", columns, lines))
    refused = [e for e in sensitivity.effects if e.step_s is None]
    for effect in refused:
        console.print(f"{effect.name}: {effect.reason}", highlight=False)


def _changed(effect: Effect) -> tuple[str, str]:
    """The change of the step in seconds and as a part of it."""
    change_s, change = effect.change_s or 0.0, effect.change or 0.0
    if abs(change) < _LEAST:
        return "the same", ""
    return signed(change_s, duration), percent(change, sign=True) or ""


def _memory(effect: Effect) -> str | None:
    change = effect.change_bytes or 0
    return signed(change, gib) if abs(change) >= _LEAST_BYTES else None
