"""A sweep for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.decide.sweep import SweepPoint, SweepResult
from vtrain_sim.report.shared_words import point_name
from vtrain_sim.report.tables import counted, duration, percent, table
from vtrain_sim.report.terminal.printing import printers


@printers.register(SweepResult)
def print_sweep(result: SweepResult, console: Console, rows: bool = True) -> None:
    """One line per point; below the table why points have no figures."""
    fitting = sum(bool(p.fits) for p in result.points)
    console.print(f"{counted(len(result.points), 'points')} on {result.cluster}, {fitting:,} fit in memory (modelled)")
    names = tuple(dict.fromkeys(name for point in result.points for name in point.values))
    columns = ("", *names, "GPUs", "step", "MFU", "HFU", "tokens/s/GPU", "GiB", "fits")
    lines = [_line(number, names, point) for number, point in enumerate(result.points, 1)]
    console.print(table("points", columns, lines))
    reasons: dict[str, list[str]] = {}
    for number, point in enumerate(result.points, 1):
        if point.reason:
            reasons.setdefault(point.reason, []).append(str(number))
    for reason, numbers in reasons.items():
        console.print(f"{', '.join(numbers)}: {reason}")
    fastest = result.fastest
    if fastest is not None and len(result.points) > 1:
        console.print(f"most tokens per second and GPU: {point_name(fastest)}")


def _line(number: int, names: tuple[str, ...], point: SweepPoint) -> tuple[object, ...]:
    c = point.configuration
    return (
        str(number),
        *(point.values.get(name) for name in names),
        c.parallel.world_size if c is not None else None,
        duration(point.iteration_time_s) if point.iteration_time_s is not None else None,
        percent(point.mfu),
        percent(point.hfu),
        f"{point.tokens_per_s_per_gpu:,.0f}" if point.tokens_per_s_per_gpu is not None else None,
        f"{point.peak_bytes / 2**30:.1f}" if point.peak_bytes is not None else None,
        point.fits,
    )
