"""``vtrain-catalog``: index profiles, look at them, query them with SQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from vtrain_sim.commands import errors
from vtrain_sim.commands.help import Command
from vtrain_sim.commands.notices import is_quiet, with_quiet
from vtrain_sim.commands.output import FORMAT, JSON, REPORT, check_files, check_format, show, write_report
from vtrain_sim.commands.termination import ended_by_sigterm
from vtrain_sim.commands.timeline import DETAIL, MICROBATCHES, OUT, SCHEMA
from vtrain_sim.commands.version import version
from vtrain_sim.errors import UserError
from vtrain_sim.whole_file import write_file

app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Index profiles in a DuckDB catalog and query them with SQL. Parquet stays where it is.",
)
app.callback()(version)
_CATALOG = typer.Option(Path("vtrain.duckdb"), "--catalog", "-c", help="Catalog file.")
_FORMATS = ("table", "csv", "json", "parquet", "markdown", "html")


@app.command(cls=Command)
@with_quiet
def add(
    locations: list[str] = typer.Argument(
        ...,
        help="Directories or URIs that the plugin wrote to; or traces: torch.profiler's .json (.gz, .zip, .tar), "
        "Nsight Systems' .sqlite, or a directory of such.",
    ),
    catalog: Path = _CATALOG,
    out: Path = typer.Option(None, "--out", help="Where profiles made of traces go (default: beside the catalog)."),
    run_id: str = typer.Option("", "--run-id", help="Name of the run that a trace becomes (default: the file's)."),
    rank: int = typer.Option(None, "--rank", help="Rank of a trace that does not say it."),
    device: str = typer.Option("", "--device", help="GPU of a trace that does not say it, for example A100-SXM4-80GB."),
    processes: int = typer.Option(0, "--processes", min=0, help="Traces read at a time (default: one per core)."),
    as_json: bool = JSON,
) -> None:
    """Index profiles, and read other profilers' traces into profiles; adding twice changes nothing."""
    from vtrain_sim.api import catalog as api
    from vtrain_sim.report.progress import reading

    with ended_by_sigterm(), reading("reading traces", is_quiet()) as progress:
        result = api.Catalog(catalog).add(locations, out, run_id, rank, device, processes, progress)
    show(result, "json" if as_json else "table")


@app.command(cls=Command)
@with_quiet
def ls(catalog: Path = _CATALOG, as_json: bool = JSON, form: str = FORMAT) -> None:
    """List the runs."""
    from vtrain_sim.api import catalog as api

    form = check_format(form, as_json)
    show(api.Catalog(catalog).ls(), form)


@app.command(name="show", cls=Command)
@with_quiet
def show_run(
    run: str = typer.Argument(..., help="Run id."),
    catalog: Path = _CATALOG,
    as_json: bool = JSON,
    form: str = FORMAT,
    report: Path = REPORT,
) -> None:
    """Show one run: configuration, ranks, steps, problems."""
    from vtrain_sim.api import catalog as api

    check_files(None, None, report)
    form = check_format(form, as_json)
    result = api.Catalog(catalog).show(run)
    write_report(report, result, catalog=catalog)
    show(result, form)


@app.command(cls=Command)
@with_quiet
def timeline(
    run: str = typer.Argument(..., help="Run id."),
    out: Path = OUT,
    step: int = typer.Option(None, "--step", help="Captured step (default: the one of middle duration)."),
    ranks: str = typer.Option("", "--ranks", help="Ranks, for example 0,8-11 (default: the lowest of each stage)."),
    microbatches: str = MICROBATCHES,
    detail: str = DETAIL,
    catalog: Path = _CATALOG,
    as_json: bool = JSON,
) -> None:
    """Write a captured step as a trace: open it in Perfetto (ui.perfetto.dev)."""
    from vtrain_sim.api import catalog as api
    from vtrain_sim.api.lists import ranges
    from vtrain_sim.api.trace import write_trace
    from vtrain_sim.report.progress import counting
    from vtrain_sim.report.tables import counted, duration
    from vtrain_sim.report.trace import captured_trace

    chosen = ranges("--ranks", ranks), ranges("--microbatches", microbatches)
    result = api.Catalog(catalog).timeline(run, step, *chosen)
    trace = captured_trace(result, detail or "operators")
    with counting("slices written", "in all", is_quiet()) as progress:
        write_trace(out, trace, progress)
    if as_json:
        print(json.dumps({"schema": SCHEMA, "file": str(out), "slices": trace.slices, **result.summary()}))
        return
    longest = duration(max(rank.duration_ns for rank in result.ranks) / 1e9)
    print(
        f"{out}: {trace.slices:,} slices of {counted(len(result.ranks), 'ranks')} of run {run}, step {result.step} of "
        f"{longest}; open it in ui.perfetto.dev"
    )


@app.command(name="critical-path", cls=Command)
@with_quiet
def critical_path(
    run: str = typer.Argument(..., help="Run id."),
    step: int = typer.Option(None, "--step", help="Captured step (default: the one of middle duration)."),
    catalog: Path = _CATALOG,
    as_json: bool = JSON,
    form: str = FORMAT,
) -> None:
    """Show what made a captured step as long as it was: its critical path over the ranks."""
    from vtrain_sim.api import catalog as api

    form = check_format(form, as_json)
    show(api.Catalog(catalog).critical_path(run, step), form)


@app.command(cls=Command)
@with_quiet
def check(catalog: Path = _CATALOG, as_json: bool = JSON) -> None:
    """Look for missing ranks, clock or step mismatches, and files gone, changed or damaged; exit code 1 if any."""
    from vtrain_sim.api import catalog as api

    problems = api.Catalog(catalog).check()
    show(problems, "json" if as_json else "table")
    if problems:
        raise typer.Exit(1)


@app.command(cls=Command)
@with_quiet
def remove(
    run: str = typer.Argument(..., help="Run id."),
    catalog: Path = _CATALOG,
    as_json: bool = JSON,
) -> None:
    """Take a run off the index. Its files stay where they are."""
    from vtrain_sim.api import catalog as api

    show(api.Catalog(catalog).remove(run), "json" if as_json else "table")


@app.command(cls=Command)
@with_quiet
def repair(catalog: Path = _CATALOG, as_json: bool = JSON) -> None:
    """Take files that are gone off the index, and judge anew those that have changed."""
    from vtrain_sim.api import catalog as api

    show(api.Catalog(catalog).repair(), "json" if as_json else "table")


@app.command(cls=Command)
@with_quiet
def compact(
    runs: list[str] = typer.Argument(None, help="Run ids (default: all on a local disk)."),
    catalog: Path = _CATALOG,
    as_json: bool = JSON,
) -> None:
    """Merge the many files of a run into one for each table, in their place: a query opens each file that it reads."""
    from vtrain_sim.api import catalog as api

    with ended_by_sigterm():
        result = api.Catalog(catalog).compact(runs or [])
    show(result, "json" if as_json else "table")


@app.command(cls=Command)
@with_quiet
def sql(
    query: str = typer.Argument(..., help="SQL; see vtrain-catalog schema for tables and views."),
    catalog: Path = _CATALOG,
    as_json: bool = JSON,
    form: str = typer.Option("table", "--format", help="table, csv, json, parquet, markdown or html."),
    output: str = typer.Option("", "--output", "-o", help="File to write (needed for parquet)."),
    timeout: float = typer.Option(300.0, "--timeout", help="Seconds after which the query is stopped (0: never)."),
    memory: str = typer.Option("50%", "--memory", help="Memory that the query may take: 4GB, or a share of it all."),
) -> None:
    """Query with SQL. Read-only, and without access to anything but the indexed files."""
    from vtrain_sim.api import catalog as api
    from vtrain_sim.catalog.read_only import run_read_only
    from vtrain_sim.report import registry

    if form not in registry.names():
        raise UserError(f"--format is {form!r}: it takes one of {', '.join(_FORMATS)}")
    form = check_format(form, as_json)
    if form == "parquet" and not output:
        raise UserError("--format parquet needs --output FILE")
    index = api.Catalog(catalog)
    result = run_read_only(lambda: index.sql(query, timeout, memory), index.interrupt)
    if not output:
        show(result, form)
        return
    # In a file, the table is Markdown.
    data = registry.get("markdown" if form == "table" else form).render(result)
    write_file(output, lambda stream: stream.write(data if isinstance(data, bytes) else data.encode()))


@app.command(cls=Command)
@with_quiet
def schema(
    name: str = typer.Argument("", help="One table or view (default: all)."),
    catalog: Path = _CATALOG,
    as_json: bool = JSON,
) -> None:
    """Describe the tables and views: every column, its type and meaning."""
    from vtrain_sim.api import catalog as api

    show(api.Catalog(catalog).schema(name), "json" if as_json else "table")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``vtrain-catalog``."""
    errors.run(app, "vtrain-catalog", arguments)


if __name__ == "__main__":
    main()
