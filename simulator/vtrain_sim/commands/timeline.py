"""``vtrain-sim timeline``: one step, operator by operator, as a trace."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import typer

from vtrain_sim.commands.job import (
    CATALOG,
    CLUSTER,
    MEGATRON_ARGS,
    MODEL,
    NUM_GPUS,
    RUN,
    RUN_SCRIPT,
    SCRIPT_ARGS,
    SPEC,
    read_job,
)
from vtrain_sim.commands.output import JSON
from vtrain_sim.errors import UserError

_SCHEMA = "vtrain.timeline-file/1"


def timeline(
    context: typer.Context,
    out: Path = typer.Option(..., "--out", "-o", help="Trace to write for Perfetto: a .json or .json.gz file."),
    stages: str = typer.Option("", "--stages", help="Stages to keep, for example 0,7,12-15 (default: all)."),
    microbatches: str = typer.Option("", "--microbatches", help="Microbatches to keep, for example 0-3."),
    passes: bool = typer.Option(False, "--passes", help="Keep whole passes, not their operators."),
    catalog: Path = CATALOG,
    run: list[str] = RUN,
    cluster: str = CLUSTER,
    model: str = MODEL,
    megatron_args: Path = MEGATRON_ARGS,
    run_script: bool = RUN_SCRIPT,
    script_args: str = SCRIPT_ARGS,
    spec: Path = SPEC,
    num_gpus: int = NUM_GPUS,
    as_json: bool = JSON,
) -> None:
    """Simulate one step operator by operator and write it as a trace: open it in Perfetto (ui.perfetto.dev)."""
    from vtrain_sim.api import timeline as api
    from vtrain_sim.api.lists import ranges
    from vtrain_sim.report.perfetto import PerfettoRenderer
    from vtrain_sim.report.tables import counted
    from vtrain_sim.whole_file import write_file

    if not out.name.endswith((".json", ".json.gz")):
        raise UserError(f"--out is {out}: it must end in .json or .json.gz")
    job = read_job(context.args, catalog, run, cluster, model, megatron_args, spec, num_gpus, run_script, script_args)
    result = api.timeline(job, ranges("--stages", stages), ranges("--microbatches", microbatches), not passes)
    data = PerfettoRenderer().render(result).encode()
    write_file(out, lambda stream: stream.write(gzip.compress(data, mtime=0) if out.suffix == ".gz" else data))
    kept = len({span.stage for span in result.spans})
    if as_json:
        figures = {"spans": len(result.spans), "stages": kept, "iteration_time_s": result.iteration_time_s}
        print(json.dumps({"schema": _SCHEMA, "file": str(out), **figures}))
        return
    print(f"{out}: {len(result.spans):,} spans of {counted(kept, 'stages')}, a step of {result.iteration_time_s:.3f} s")
