"""How commands print a result: one renderer, and files where they are asked for."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vtrain_sim.commands.notices import notice

if TYPE_CHECKING:
    from vtrain_sim.api.job import Job
    from vtrain_sim.api.machine import Machine
    from vtrain_sim.report.registry import Renderer
    from vtrain_sim.results import Result
    from vtrain_sim.specs import Configuration, ModelSpec

# File descriptors: C++ code and other processes know no others.
_STDOUT, _STDERR = 1, 2
JSON = typer.Option(False, "--json", help="Print JSON.")
FORMAT = typer.Option("table", "--format", help="table, json, csv, markdown, html, or another package's renderer.")
REPORT: Path = typer.Option(None, "--report", help="Write a page with charts and tables: one .html file.")


def check_files(table_file: Path | None, plot: Path | None = None, report: Path | None = None) -> None:
    """Refuse names of files that cannot be written, before hours of work."""
    from vtrain_sim.report import files, html

    files.check_name(table_file)
    html.check_name(report)
    if plot is not None:
        from vtrain_sim.report import plots

        plots.check_name(plot)


def write_files(result: Result, table_file: Path | None, plot: Path | None = None) -> None:
    """Write the rows and the picture of a result, where they were asked for."""
    from vtrain_sim.report import files

    files.write_rows(table_file, result)
    if plot is not None:
        from vtrain_sim.report import plots

        plots.save(result.plot(), plot)


def write_report(
    path: Path | None,
    result: Result,
    job: Job | None = None,
    cluster: str | Machine = "",
    catalog: Path | None = None,
) -> None:
    """Write the page of a result, where it was asked for. See `vtrain_sim.api.report` for the other arguments."""
    if path is None:
        return
    from vtrain_sim.api.report import report
    from vtrain_sim.report.html import HtmlRenderer
    from vtrain_sim.whole_file import write_file

    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    page = HtmlRenderer().render(report(result, job, cluster=cluster, catalog=catalog, command=command))
    write_file(path, lambda stream: stream.write(page.encode()))


def check_format(form: str, as_json: bool) -> str:
    """The format to print in. Raises `UserError` for an unknown one, or for two."""
    from vtrain_sim.errors import UserError
    from vtrain_sim.report import registry

    if as_json and form not in ("table", "json"):
        raise UserError(f"--json and --format {form} are two formats: give one")
    form = "json" if as_json else form
    registry.get(form)
    return form


def name_notes(notes: Sequence[str]) -> None:
    """Say on stderr how files were read."""
    for sentence in notes:
        notice(f"note: {sentence}")


def name_what_was_understood(configuration: Configuration) -> None:
    """Say on stderr what files were understood to describe."""
    from vtrain_sim.api.understood import understood

    notice(f"read as: {understood(configuration)}")


def name_approximations(flags: Sequence[str]) -> None:
    """Say on stderr which of Megatron's flags change a step in a way that is not simulated."""
    from vtrain_sim.inputs.notes import approximations

    name_notes(approximations(flags))


def name_defaults(flags: Sequence[str], model: str) -> None:
    """Say on stderr which of Megatron's defaults a job without them takes, and the vocabulary that is assumed."""
    from vtrain_sim.inputs.notes import defaults_taken, vocabulary_assumed

    name_notes((*defaults_taken(flags), *vocabulary_assumed(flags, model)))


def name_what_is_left_out(flags: Sequence[str], name: str, model: ModelSpec, job: Configuration | None = None) -> None:
    """Say on stderr which flags the model has no use for, and what of its file is left out. name: preset or file."""
    from vtrain_sim.inputs.notes import left_out, without_effect

    name_notes((*without_effect(flags, model, job), *left_out(name, model)))


def name_what_is_not_printed(configuration: Configuration, flags: Sequence[str]) -> None:
    """Say on stderr what the flags that are printed for a configuration do not ask for. flags: those given."""
    from vtrain_sim.inputs.notes import not_megatrons, not_printed

    name_notes((*not_megatrons(configuration), *not_printed(flags)))


@contextlib.contextmanager
def results_alone_on_stdout() -> Iterator[None]:
    """What libraries and processes print in the block goes to stderr: stdout is the result's, printed after it."""
    if sys.stdout is None or sys.stderr is None:  # closed by who started this
        yield
        return
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, _STDOUT)
        os.close(kept)


def show(result: Result, form: str, rows: bool = True) -> None:
    """Print a result. rows: False prints only the figures, where the format is the terminal's."""
    data = _renderer(form, rows).render(result)
    if isinstance(data, bytes):
        sys.stdout.buffer.write(data)
    else:
        print(data, end="")


def _renderer(form: str, rows: bool) -> Renderer:
    if form == "table" and not rows:
        from vtrain_sim.report.terminal import TerminalRenderer

        return TerminalRenderer(rows=False)
    from vtrain_sim.report import registry

    return registry.get(form)
