"""A study for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.decide import Bounds
from vtrain_sim.decide.study.result import StudyResult
from vtrain_sim.report.shared_words import unit_name
from vtrain_sim.report.tables import duration, percent, said_once, text
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Row

_SAID_ONCE = ("cluster", "batch", "GPUs", "schedule", "cp", "ep", "recompute", "zero-1")


@printers.register(StudyResult)
def print_study(result: StudyResult, console: Console, rows: bool = True) -> None:
    """The best plan of each unit."""
    lines = [_line(row) for row in result.rows()]
    # Megatron-Core's own two schedules are told apart by the chunks.
    if all(line["schedule"] in (None, *Bounds.schedules) for line in lines):
        lines = [{**line, "schedule": None} for line in lines]
    console.print(said_once("best plan of each unit (modelled)", lines, _SAID_ONCE, {"cp": 1, "ep": 1}))
    if any("checkpoint_interval_s" in plan for unit in result.results for plan in unit.get("plans") or []):
        console.print("days and dollars include failures and checkpoints")
    for row in result.rows():
        if row["reason"]:
            console.print(f"{unit_name(row)}: {row['reason']}")


def _line(row: Row) -> dict[str, object]:
    """The best plan of a unit by column; without figures where there is none."""
    planned = row["iteration_time_s"] is not None
    return {
        "model": row["model"],
        "cluster": row["cluster"],
        "batch": row["global_batch_size"],
        "GPUs": row["num_gpus"],
        "schedule": row["schedule"],
        "tp": row["tp"],
        "pp x vpp": (f"{row['pp']}x{row['vpp']}" if row["vpp"] > 1 else str(row["pp"])) if planned else None,
        "dp": row["dp"],
        "cp": row["cp"],
        "ep": row["ep"],
        "mbs": row["mbs"],
        "recompute": row["recompute"],
        "zero-1": text(row["distributed_optimizer"]) if planned else None,
        "step": duration(row["iteration_time_s"]) if planned else None,
        "MFU": percent(row["mfu"]),
        "days": f"{row['days']:.3g}" if planned else None,
        "dollars": f"${row['cost_usd']:,.2f}" if planned else None,
    }
