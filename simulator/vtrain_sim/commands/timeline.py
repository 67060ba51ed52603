"""``vtrain-sim timeline``: one step, operator by operator, as a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from vtrain_schemas.option_groups import with_groups
from vtrain_sim.commands.job import JobOptions
from vtrain_sim.commands.notices import is_quiet
from vtrain_sim.commands.output import JSON

if TYPE_CHECKING:
    from vtrain_sim.api.job import Job

OUT: Path = typer.Option(..., "--out", "-o", help="Trace to write for Perfetto: a .json or .json.gz file.")
MICROBATCHES: str = typer.Option("", "--microbatches", help="Microbatches to keep, for example 0-3.")
DETAIL: str = typer.Option("", "--detail", help="passes, layers or operators (default: what a viewer opens).")
SCHEMA = "vtrain.timeline-file/1"


class Written(NamedTuple):
    """What a trace that was written has in it, for programs and in words."""

    figures: dict[str, object]
    sentences: list[str]


@with_groups
def timeline(
    context: typer.Context,
    out: Path = OUT,
    stages: str = typer.Option("", "--stages", help="Stages to keep, for example 0,7,12-15 (default: all)."),
    microbatches: str = MICROBATCHES,
    detail: str = DETAIL,
    beside: str = typer.Option("", "--beside", help="Captured run of --catalog whose step goes under the simulated."),
    *,
    source: JobOptions,
    as_json: bool = JSON,
) -> None:
    """Simulate one step operator by operator and write it as a trace: open it in Perfetto (ui.perfetto.dev)."""
    from vtrain_sim.api.lists import ranges
    from vtrain_sim.errors import UserError

    catalog = source.catalog
    if beside and catalog is None:
        raise UserError("--beside needs --catalog: the file that vtrain-catalog add made")
    # A run that is only laid beside is no run to project from.
    job = (source if source.run else replace(source, catalog=None)).read(context.args)
    chosen = ranges("--stages", stages), ranges("--microbatches", microbatches)
    written = write_timeline(job, out, *chosen, detail, (catalog, beside) if catalog is not None and beside else None)
    print(json.dumps(written.figures) if as_json else "\n".join(written.sentences))


def write_timeline(
    job: Job,
    out: Path,
    stages: tuple[int, ...] | None = None,
    microbatches: tuple[int, ...] | None = None,
    detail: str = "",
    beside: tuple[Path, str] | None = None,
) -> Written:
    """Write the timeline of a job, and return what is in it. beside: catalog, and the run whose
    captured step is added."""
    from vtrain_sim.api.catalog import Catalog
    from vtrain_sim.api.timeline import MOST_SPANS, MOST_UNCOMPRESSED, timeline
    from vtrain_sim.api.trace import check_trace_name, write_trace
    from vtrain_sim.report.progress import counting
    from vtrain_sim.report.tables import counted, duration
    from vtrain_sim.report.trace import captured_trace, simulated_trace

    most = MOST_SPANS if check_trace_name(out).suffix == ".gz" else MOST_UNCOMPRESSED
    result = timeline(job, stages, microbatches, detail, most)
    with counting("slices made", "in all", is_quiet()) as progress:
        trace = simulated_trace(result, progress)
    if beside is not None:
        captured = Catalog(beside[0]).timeline(beside[1], microbatches=microbatches)
        trace = trace.beside(captured_trace(captured.of_stages(stages), result.detail))
    with counting("slices written", "in all", is_quiet()) as progress:
        write_trace(out, trace, progress)
    kept = len({span.stage for span in result.spans})
    sentences = [
        f"{out}: {trace.slices:,} slices of {counted(kept, 'stages')} ({result.detail}), a step of "
        f"{duration(result.iteration_time_s)}; open it in ui.perfetto.dev"
    ]
    if not detail and result.detail != "operators":
        shorter = "" if out.suffix == ".gz" else "end the name in .json.gz, or "
        sentences.append(
            f"with all operators it would be more than a viewer opens: for them, {shorter}choose some stages and "
            "microbatches of vtrain-sim timeline (--stages 0 --microbatches 0-3)"
        )
    figures = {"stages": kept, "detail": result.detail, "iteration_time_s": result.iteration_time_s}
    return Written({"schema": SCHEMA, "file": str(out), "slices": trace.slices, **figures}, sentences)
