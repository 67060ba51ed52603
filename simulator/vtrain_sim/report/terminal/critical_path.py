"""The critical path of a captured step, for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.catalog.critical_path import CriticalPath
from vtrain_sim.report.tables import counted, duration, percent, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Row

# As many parts as a screen shows; the others are added up in one line.
_SHOWN = 20


@printers.register(CriticalPath)
def print_critical_path(result: CriticalPath, console: Console, rows: bool = True) -> None:
    """How long the path is, its time by kind, and what takes longest on it."""
    visited = len({piece.rank for piece in result.pieces})
    console.out(
        f"run {result.run_id}, step {result.step}: the critical path takes {duration(result.path_ns / 1e9)} over "
        f"{visited} of {counted(result.ranks, 'ranks')}, with {counted(result.rank_changes, 'changes')} of rank; made "
        f"of {result.seen}",
        highlight=False,
    )
    whole = max(result.path_ns, 1)
    lines = [(kind, duration(ns / 1e9), percent(ns / whole)) for kind, ns in result.by_kind_ns.items()]
    console.print(table("by kind", ("kind", "time", "share"), lines))
    if rows:
        _print_parts(result, console)


def _print_parts(result: CriticalPath, console: Console) -> None:
    parts = result.rows()
    lines = [_part(part) for part in parts[:_SHOWN]]
    if len(parts) > _SHOWN:
        rest = parts[_SHOWN:]
        calls, seconds = sum(p["calls"] for p in rest), sum(p["duration_s"] for p in rest)
        share = percent(sum(p["share"] for p in rest))
        lines.append((counted(len(rest), "others"), None, None, None, calls, duration(seconds), share))
    columns = ("what", "phase", "kind", "rank", "calls", "time", "share")
    console.print(table("what takes longest on it", columns, lines, left=3))


def _part(part: Row) -> tuple[object, ...]:
    figures = (part["calls"], duration(part["duration_s"]), percent(part["share"]))
    return part["name"], part["phase"], part["kind"], part["rank"], *figures
