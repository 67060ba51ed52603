"""Runs, queries and the schema of a catalog, for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.catalog.problems import Problem
from vtrain_sim.catalog.reports import CompactReport
from vtrain_sim.catalog.results import (
    Added,
    Compacted,
    Problems,
    QueryResult,
    Removed,
    Repaired,
    RunDetail,
    Runs,
    Schema,
)
from vtrain_sim.catalog.spread import MOST_ROWS, as_ranges, device_spread, rank_spread, slowest_ranks, step_spread
from vtrain_sim.ingest.notes import Note
from vtrain_sim.ingest.sources import OWN_RUN
from vtrain_sim.report.run_words import configuration
from vtrain_sim.report.tables import FittingTable, counted, duration, gib, said_once, signed, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.results import Row


@printers.register(Added)
def print_added(result: Added, console: Console, rows: bool = True) -> None:
    """What became of each imported trace, and how much is indexed."""
    report = result.report
    lines = []
    for run in report.ingested:
        unchanged = ": read before, unchanged" if run.unchanged else ""
        lines.append(f"{run.run_id} ({counted(run.ranks, 'ranks')}){unchanged}")
        lines += ["  " + _note(note) for note in run.notes]
    lines.append(
        f"{result.catalog}: {counted(len(report.runs), 'runs')}, {counted(report.files_added, 'files')} added "
        f"({counted(report.rows_added, 'rows')}), {report.files_unchanged:,} unchanged"
    )
    lines += [
        f"  {run} has {files:,} files, and a query opens each that it reads: vtrain-catalog compact {run} merges them"
        for run, files in report.many_files.items()
    ]
    lines += [f"  not indexed: {problem.what}" for problem in report.problems]
    lines += [f"  {'note' if OWN_RUN in notice else 'not read'}: {notice}" for notice in report.notices]
    _print_lines(lines, console)


@printers.register(Removed)
def print_removed(result: Removed, console: Console, rows: bool = True) -> None:
    """The run, and that its files are still there."""
    files = counted(result.files, "files")
    _print_lines([f"{result.catalog}: run {result.run_id} is no longer indexed; its {files} were not touched"], console)


@printers.register(Repaired)
def print_repaired(result: Repaired, console: Console, rows: bool = True) -> None:
    """What was taken off the index and what was judged anew."""
    report = result.report
    lines = [
        f"{result.catalog}: {counted(report.files_removed, 'files')} that are gone taken off the index, "
        f"{counted(report.files_updated, 'files')} judged anew"
    ]
    lines += [f"  nothing is left of run {run}" for run in report.runs_removed]
    lines += [f"  not indexed: {problem.what}" for problem in report.problems]
    _print_lines(lines, console)


@printers.register(Compacted)
def print_compacted(result: Compacted, console: Console, rows: bool = True) -> None:
    """Each run's files before and after."""
    lines = []
    for report in result.reports:
        before, after = ((n, f"{size / 2**20:,.1f} MiB") for n, size in _counts(report))
        if report.files_after < report.files_before:
            files = counted(before[0], "files")
            lines.append(f"{report.run_id}: {files} ({before[1]}) merged into {after[0]:,} ({after[1]})")
        else:
            lines.append(f"{report.run_id}: nothing to merge in its {counted(before[0], 'files')}")
    _print_lines(lines or ["no runs"], console)


def _counts(report: CompactReport) -> tuple[tuple[int, int], tuple[int, int]]:
    """Files and bytes, before and after."""
    return (report.files_before, report.bytes_before), (report.files_after, report.bytes_after)


@printers.register(Runs)
def print_runs(result: Runs, console: Console, rows: bool = True) -> None:
    """One line per run."""
    console.print(said_once("", [_run(run) for run in result.runs], (), left=3) if result.runs else "no runs")


def _run(run: Row) -> dict[str, object]:
    """A run by column."""
    chunks = {"pp": f"x{run['vpp']}" if (run["vpp"] or 1) > 1 else ""}
    layout = [f"{name} {run[name]}{chunks.get(name, '')}" for name in ("tp", "pp", "dp") if run[name] is not None]
    return {
        "run": run["run_id"],
        "source": run["source"],
        "device": run["device_name"],
        "ranks": f"{run['ranks']}/{run['world_size'] or '?'}",
        "layout": ", ".join(layout) or None,
        "layers x hidden": f"{run['num_layers']} x {run['hidden_size']}" if run["num_layers"] else None,
        "step": duration(run["step_s"]) if run["step_s"] else None,
    }


@printers.register(RunDetail)
def print_run(result: RunDetail, console: Console, rows: bool = True) -> None:
    """Configuration, tables, steps, time on the GPU, problems and notes of one run."""
    detail = result.detail
    described = configuration(result.summary()).items() if detail["run"] else ()
    console.print(table(f"run {result.run_id}", ("column", "value"), described, left=2))
    tables = [(t["table_name"], t["files"], t["rows"], t["bytes"]) for t in detail["tables"]]
    console.print(table("tables", ("table", "files", "rows", "bytes"), tables))
    if len(detail["ranks"]) > MOST_ROWS:
        console.print(
            table("ranks", ("of", "values"), [tuple(row.values()) for row in rank_spread(detail["ranks"])], left=2)
        )
    if len(detail["steps"]) > MOST_ROWS:
        _print_step_spread(detail["steps"], detail["ranks"], console)
    elif detail["steps"]:
        columns = ("rank", "step", "duration", "microbatches", "tokens", "peak memory")
        console.print(table("steps", columns, [_step(step) for step in detail["steps"]]))
    if len(detail["gpu"]) > MOST_ROWS:
        _print_gpu_spread(detail["gpu"], console)
    elif detail["gpu"]:
        _print_gpu(detail["gpu"], console)
    _print_lines([*_problems(detail["problems"]), *(_note(Note(**note)) for note in detail["notes"])], console)


def _step(step: Row) -> tuple[object, ...]:
    peak = step["peak_allocated_bytes"]
    return (
        step["rank"],
        step["step"],
        duration(step["duration_ns"] / 1e9),
        step["num_microbatches"],
        step["tokens"],
        gib(peak) if peak else None,
    )


def _seconds(row: Row, *names: str) -> list[str]:
    return [duration(row[f"{name}_ns"] / 1e9) for name in names]


def _print_step_spread(steps: list[Row], ranks: list[Row], console: Console) -> None:
    columns = ("step", "ranks", "shortest", "median", "90%", "longest", "of rank", "peak memory")
    rows = [
        (
            row["step"],
            f"{row['ranks']:,}",
            *_seconds(row, "shortest", "median", "p90", "longest"),
            row["longest_rank"],
            gib(row["peak_allocated_bytes"]) if row["peak_allocated_bytes"] else None,
        )
        for row in step_spread(steps)
    ]
    console.print(table("steps: duration over the ranks", columns, rows))
    slowest = [
        (row["rank"], row["host"], row["pp_rank"], row["steps"], signed(row["over_median"], "{:.1%}".format))
        for row in slowest_ranks(steps, ranks)
    ]
    if slowest:
        console.print(table("slowest ranks", ("rank", "host", "stage", "steps", "over the median"), slowest, left=2))


def _print_gpu_spread(devices: list[Row], console: Console) -> None:
    columns = ("part", "least", "median", "90%", "most", "of rank")
    rows = [
        (row["part"].replace("_", " "), *_seconds(row, "least", "median", "p90", "most"), row["most_rank"])
        for row in device_spread(devices)
    ]
    console.print(table(f"time on the device (measured), {counted(len(devices), 'devices')}", columns, rows))


def _problems(problems: list[Problem]) -> list[str]:
    """One line per problem; what many ranks have alike once."""
    ranks: dict[str, list[int | None]] = {}
    for problem in problems:
        ranks.setdefault(problem.what, []).append(problem.rank)
    lines = []
    for what, of_ranks in ranks.items():
        known = [rank for rank in of_ranks if rank is not None]
        several = f" (ranks {as_ranges(known)})" if len(known) > 1 else ""
        lines.append(f"problem: {what}{several}")
    return lines


def _print_gpu(ranks: list[Row], console: Console) -> None:
    parts = ("window", "compute", "exposed_communication", "overlapped_communication", "exposed_memory", "idle")
    keys = ("rank", "device") if len({r["rank"] for r in ranks}) < len(ranks) else ("rank",)
    lines = [(*(r[key] for key in keys), *(duration(r[f"{part}_ns"] / 1e9) for part in parts)) for r in ranks]
    console.print(table("time on the device (measured)", (*keys, *(p.replace("_", " ") for p in parts)), lines))


@printers.register(Problems)
def print_problems(result: Problems, console: Console, rows: bool = True) -> None:
    """One line per problem."""
    lines = []
    for problem in result.problems:
        where = problem.run_id if problem.rank is None else f"{problem.run_id} rank {problem.rank}"
        lines.append(f"{where}: {problem.what}")
    _print_lines(lines or ["no problem found"], console)


@printers.register(QueryResult)
def print_query(result: QueryResult, console: Console, rows: bool = True) -> None:
    """The rows; columns up to the first one of numbers are aligned left. A file or pipe gets each row on one line."""
    arrow = result.table
    lines = zip(*(c.to_pylist() for c in arrow.columns), strict=True) if arrow.num_columns else []
    numeric = [str(f.type).startswith(("int", "uint", "double", "float", "decimal")) for f in arrow.schema]
    left = next((i for i, n in enumerate(numeric) if n), len(numeric))
    whole = not console.is_terminal
    console.print(FittingTable("", arrow.column_names, lines, max(1, left), whole=whole))


@printers.register(Schema)
def print_schema(result: Schema, console: Console, rows: bool = True) -> None:
    """Every column of every table, its type and meaning."""
    for title, columns in result.tables().items():
        console.print(table(title, ("column", "type", "meaning"), [tuple(c.values()) for c in columns], left=3))


def _note(note: Note) -> str:
    example = f" ({note.example})" if note.example else ""
    return f"{note.outcome} {counted(note.count, note.subject)}: {note.reason}{example}"


def _print_lines(lines: list[str], console: Console) -> None:
    for line in lines:
        console.out(line, highlight=False)
