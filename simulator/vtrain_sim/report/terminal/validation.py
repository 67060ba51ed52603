"""Projections beside measured times, for the terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from vtrain_sim.report.shared_words import unread_columns
from vtrain_sim.report.tables import duration, percent, said_once, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.validate.result import ValidationResult
from vtrain_sim.validate.rows import Row

_ROW = ("row", "measured", "projected", "error", "remark")
# Rows that are shown of tables whose rows are left out: those with the largest errors.
_FURTHEST = 10
_OF_FAMILY = ("mape", "median_ape", "bias", "coverage")  # of `_FIGURES`
# Figures of a file, and what they are called here; those that no file has are left out.
_FIGURES = {
    "mape": "mape",
    "median_ape": "median",
    "bias": "bias",
    "p90": "p90",
    "r2": "r2",
    "pairwise_order": "order",
    "regret": "regret",
    "coverage": "in band",
    "memory_mape": "memory mape",
}


@printers.register(ValidationResult)
def print_validation(result: ValidationResult, console: Console, rows: bool = True) -> None:
    """Every row (where left out: the few that are furthest off), and the figures of each file."""
    for file in result.files:
        if rows:
            console.print(table(file.file, _ROW, [_line(row) for row in file.rows], prose=_ROW[-1:]))
    figures = [
        {
            "file": file.file,
            "rows": len(file.rows),
            "simulated": sum(row.predicted_s is not None for row in file.rows),
            **{shown: percent(getattr(file, name)) for name, shown in _FIGURES.items()},
        }
        for file in result.files
    ]
    console.print(said_once("figures", figures, ()))
    for file in result.files:
        if file.families:
            names = ("GPU", "models", "rows", "simulated", *(_FIGURES[name] for name in _OF_FAMILY))
            lines = [
                (f.gpu, f.family, f.rows, f.simulated, *(percent(getattr(f, name)) for name in _OF_FAMILY))
                for f in file.families
            ]
            console.print(table(f"{file.file} by GPU and family", names, lines, left=2))
    if not rows:
        _print_furthest(result, console)
    for file in result.files:
        approximated = Counter(name for row in file.rows for name in row.approximated)
        if approximated:
            named = ", ".join(f"{name} ({count} rows)" for name, count in approximated.most_common())
            console.print(f"{file.file}: settings that are left out of projections: {named}")
        if file.known_clusters:
            console.print(f"{file.file}: calibrated clusters have {'; '.join(file.known_clusters)}")
        if file.unread:
            console.print(unread_columns(file))


def _print_furthest(result: ValidationResult, console: Console) -> None:
    """The rows with the largest errors of all files, where there are more."""
    projected = [row for file in result.files for row in file.rows if row.error is not None]
    if len(projected) <= _FURTHEST:
        return
    furthest = sorted(projected, key=lambda row: abs(row.error or 0.0), reverse=True)[:_FURTHEST]
    title = f"the {_FURTHEST} rows that are furthest off"
    console.print(table(title, _ROW, [_line(row) for row in furthest], prose=_ROW[-1:]))


def _line(row: Row) -> tuple[object, ...]:
    if row.pair is None:
        return (row.id, duration(row.measured_s) if row.measured_s else None, None, None, row.reason)
    measured, predicted = map(duration, row.pair)
    return (row.id, measured, predicted, percent(row.error, sign=True), _remark(row))


def _remark(row: Row) -> str:
    remarks = []
    if row.full_recompute_s is not None:
        remarks.append(f"recomputation not stated: up to {duration(row.full_recompute_s)}")
    if row.bracket_low_s is not None and row.bracket_high_s is not None:
        ends = f"{duration(row.bracket_low_s)} to {duration(row.bracket_high_s)}"
        remarks.append(f"sizes not stated: {ends}")
    if row.fits is False:
        remarks.append("does not fit in memory")
    return "; ".join(remarks)
