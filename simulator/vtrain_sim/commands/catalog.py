"""``vtrain-catalog``: index profiles, look at them, ask them in SQL."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

from vtrain_sim.catalog import Catalog
from vtrain_sim.commands import failures
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.notes import Note
from vtrain_sim.whole_file import write_file

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Index profiles in a DuckDB catalog and ask it in SQL. Parquet stays where it is.",
)
_CATALOG = typer.Option(Path("vtrain.duckdb"), "--catalog", "-c", help="Catalog file.")
_FORMATS = ("table", "csv", "json", "parquet", "markdown")


@app.command()
def add(
    locations: list[str] = typer.Argument(
        ...,
        help="Directories or URIs that the plugin wrote to; or traces: torch.profiler's .json (.gz, .zip, .tar), "
        "Nsight Systems' .sqlite, or a directory of such.",
    ),
    catalog: Path = _CATALOG,
    out: Path = typer.Option(None, "--out", help="Where profiles made of traces go (default: beside the catalog)."),
    run_id: str = typer.Option("", "--run-id", help="Name of the run that a trace becomes (default: the file's)."),
    rank: int = typer.Option(-1, "--rank", help="Rank of a trace that does not say it."),
    device: str = typer.Option("", "--device", help="GPU of a trace that does not say it, for example A100-SXM4-80GB."),
    processes: int = typer.Option(0, "--processes", min=0, help="Traces read at a time (default: one a core)."),
) -> None:
    """Index profiles, and read other profilers' traces into profiles; adding twice changes nothing."""
    from vtrain_sim.report.progress import reading
    from vtrain_sim.report.tables import counted

    if rank < -1:
        raise UserError(f"--rank is {rank}: it must be 0 or more")
    with reading("reading traces") as progress:
        report = Catalog(catalog).add(
            locations, out, run_id, rank if rank >= 0 else None, device, processes or os.cpu_count() or 1, progress
        )
    for run in report.ingested:
        print(f"{run.run_id} ({counted(run.ranks, 'ranks')})" + (": read before, unchanged" if run.unchanged else ""))
        for note in run.notes:
            print("  " + _note(note))
    print(
        f"{catalog}: {counted(len(report.runs), 'runs')}, {counted(report.files_added, 'files')} added "
        f"({counted(report.rows_added, 'rows')}), {report.files_unchanged:,} unchanged"
    )
    for problem in report.problems:
        print(f"  not indexed: {problem.what}")
    for notice in report.notices:
        print(f"  not read: {notice}")


def _note(note: Note) -> str:
    from vtrain_sim.report.tables import counted

    example = f" ({note.example})" if note.example else ""
    return f"{note.outcome} {counted(note.count, note.subject)}: {note.reason}{example}"


@app.command()
def ls(catalog: Path = _CATALOG, as_json: bool = typer.Option(False, "--json")) -> None:
    """List the runs."""
    runs = Catalog(catalog).runs()
    if as_json:
        print(json.dumps(runs, indent=2))
        return
    from vtrain_sim.report.tables import console, duration, table

    columns = (
        "run",
        "source",
        "device",
        "ranks",
        "tp",
        "pp",
        "vpp",
        "dp",
        "layers",
        "hidden",
        "steps",
        "step",
    )
    rows = [
        (
            r["run_id"],
            r["source"],
            r["device_name"],
            f"{r['ranks']}/{r['world_size']}",
            r["tp"],
            r["pp"],
            r["vpp"],
            r["dp"],
            r["num_layers"],
            r["hidden_size"],
            r["steps"],
            duration(r["step_s"]) if r["step_s"] else None,
        )
        for r in runs
    ]
    console().print(table("", columns, rows, left=3))


@app.command()
def show(
    run: str = typer.Argument(..., help="Run id."),
    catalog: Path = _CATALOG,
    as_json: bool = typer.Option(False, "--json"),
) -> None:
    """Show one run: configuration, ranks, steps, problems."""
    found = Catalog(catalog).show(run)
    if as_json:
        found["problems"] = [vars(p) for p in found["problems"]]
        print(json.dumps(found, indent=2, default=str))
        return
    from vtrain_sim.report.tables import console, duration, gib, table

    out = console()
    described = {k: v for k, v in (found["run"] or {}).items() if v is not None and k != "config_json"}
    out.print(table(f"run {run}", ("column", "value"), described.items(), left=2))
    out.print(
        table(
            "tables",
            ("table", "files", "rows", "bytes"),
            [(t["table_name"], t["files"], t["rows"], t["bytes"]) for t in found["tables"]],
        )
    )
    steps = [
        (
            s["rank"],
            s["step"],
            duration(s["duration_ns"] / 1e9),
            s["num_microbatches"],
            s["tokens"],
            gib(s["peak_allocated_bytes"]) if s["peak_allocated_bytes"] else None,
        )
        for s in found["steps"]
    ]
    if steps:
        out.print(table("steps", ("rank", "step", "duration", "microbatches", "tokens", "peak memory"), steps))
    if found["gpu"]:
        parts = ("window", "compute", "exposed_communication", "overlapped_communication", "exposed_memory", "idle")
        rows = [(g["rank"], *(duration(g[f"{part}_ns"] / 1e9) for part in parts)) for g in found["gpu"]]
        out.print(table("time on the device (measured)", ("rank", *(p.replace("_", " ") for p in parts)), rows))
    for problem in found["problems"]:
        print(f"problem: {problem.what}")
    for note in found["notes"]:
        print(_note(Note(**note)))


@app.command()
def check(catalog: Path = _CATALOG) -> None:
    """Look for missing ranks, clock or step mismatches and damaged files; exit code 1 if any."""
    problems = Catalog(catalog).check()
    for problem in problems:
        where = problem.run_id if problem.rank is None else f"{problem.run_id} rank {problem.rank}"
        print(f"{where}: {problem.what}")
    if problems:
        raise typer.Exit(1)
    print("no problem found")


@app.command()
def sql(
    query: str = typer.Argument(..., help="SQL; see vtrain-catalog schema for tables and views."),
    catalog: Path = _CATALOG,
    form: str = typer.Option("table", "--format", help="table, csv, json, parquet or markdown."),
    output: str = typer.Option("", "--output", "-o", help="File to write (needed for parquet)."),
) -> None:
    """Ask in SQL. Read-only, and without access to anything but the indexed files."""
    if form not in _FORMATS:
        raise UserError(f"--format is {form!r}: it takes one of {', '.join(_FORMATS)}")
    if form == "parquet" and not output:
        raise UserError("--format parquet needs --output FILE")
    answer = Catalog(catalog).sql(query)
    if form == "table" and not output:
        from vtrain_sim.report.tables import console, table

        rows = zip(*(c.to_pylist() for c in answer.columns), strict=True) if answer.num_columns else []
        numeric = [str(f.type).startswith(("int", "uint", "double", "float", "decimal")) for f in answer.schema]
        left = next((i for i, n in enumerate(numeric) if n), len(numeric))
        console().print(table("", answer.column_names, rows, left=max(1, left)))
        return
    data = _render(answer, form)
    if output:
        write_file(output, lambda stream: stream.write(data))
    else:
        print(data.decode(), end="")


def _render(answer: Any, form: str) -> bytes:
    import io

    if form == "parquet":
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(answer, buffer)
        return buffer.getvalue()
    rows = answer.to_pylist()
    names = answer.column_names
    if form == "json":
        return (json.dumps(rows, indent=2, default=str) + "\n").encode()
    if form == "csv":
        import csv

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([r[n] for n in names] for r in rows)
        return text.getvalue().encode()
    from vtrain_sim.report.tables import text as shown

    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(shown(r[n]).replace("|", "\\|") for n in names) + " |" for r in rows]
    return ("\n".join(lines) + "\n").encode()


@app.command()
def schema(
    name: str = typer.Argument("", help="One table or view (default: all)."),
    catalog: Path = _CATALOG,
) -> None:
    """Describe the tables and views: every column, its type and meaning."""
    columns = Catalog(catalog).schema()
    known = sorted({c["table_name"] for c in columns})
    if name and name not in known:
        from vtrain_sim.errors import nearest

        raise UserError(f"there is no table or view {name!r}{nearest(name, known)}")
    from vtrain_sim.report.tables import console, table

    out = console()
    for one in [name] if name else known:
        mine = [c for c in columns if c["table_name"] == one]
        title = f"{one}: {mine[0]['table_comment'] or ''}"
        out.print(
            table(
                title,
                ("column", "type", "meaning"),
                [(c["column_name"], c["data_type"], c["comment"]) for c in mine],
                left=3,
            )
        )


def main() -> None:
    """Entry point of ``vtrain-catalog``."""
    failures.run(app, "vtrain-catalog")


if __name__ == "__main__":
    main()
