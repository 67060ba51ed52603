"""``vtrain-sim project``: what one configuration would do."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import typer

from vtrain_schemas.option_groups import with_groups
from vtrain_sim.commands.job import JobOptions
from vtrain_sim.commands.output import (
    FORMAT,
    REPORT,
    check_files,
    check_format,
    show,
    write_report,
)

_FLAGS = "vtrain.flags/1"


@with_groups
def project(
    context: typer.Context,
    *,
    source: JobOptions,
    train_tokens: float = typer.Option(None, "--train-tokens", help="Tokens to train on: days and dollars."),
    price_per_gpu_hour: float = typer.Option(None, "--price-per-gpu-hour", help="US dollars."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.projection/1 as JSON."),
    form: str = FORMAT,
    timeline: Path = typer.Option(
        None, "--timeline", help="Also write the step as a trace for Perfetto: a .json or .json.gz file."
    ),
    report: Path = REPORT,
    emit_megatron: bool = typer.Option(False, "--emit-megatron", help="Print Megatron's flags and stop."),
) -> None:
    """Project a configuration, given with Megatron's own flags.

    From a captured run (--catalog, --run), where the flags say what changes; or from bundled data (--cluster, with
    --model or the model's flags). With both, the estimates for the cluster's device use the measurements of the run,
    which may be a torch.profiler or Nsight Systems trace. Flags on the command line override those of files.
    """
    from vtrain_sim.api import project as api

    check_files(None, None, report)
    form = check_format(form, as_json)
    if timeline is not None:
        from vtrain_sim.api.trace import check_trace_name

        check_trace_name(timeline)
    job = source.read(context.args, printed=emit_megatron)
    if emit_megatron:
        flags = job.flags()
        print(json.dumps({"schema": _FLAGS, "megatron_args": flags}) if form == "json" else shlex.join(flags))
        return
    result = api.project(job, train_tokens, price_per_gpu_hour)
    write_report(report, result, job)
    show(result, form)
    if timeline is not None:
        from vtrain_sim.commands.timeline import write_timeline

        print("\n".join(write_timeline(job, timeline).sentences), file=sys.stderr)
