"""``vtrain-sim schedule``: many training jobs on one cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import typer

from vtrain_sim.commands.plan import numbers
from vtrain_sim.errors import UserError
from vtrain_sim.whole_file import write_file

_MODELS = "gpt3-1.3b,gpt3-2.7b,gpt3-6.7b,gpt3-13b,megatron-22b"


def schedule(
    cluster: str = typer.Option(..., "--cluster", help="Cluster preset, or a TOML or YAML file."),
    num_gpus: int = typer.Option(..., "--num-gpus", min=1, help="GPUs of the cluster."),
    trace: Path = typer.Option(None, "--trace", help="Jobs: a .csv or .parquet file."),
    jobs: int = typer.Option(0, "--jobs", min=0, max=1_000_000, help="Make a random trace of so many jobs instead."),
    seeds: str = typer.Option("1", "--seeds", help="Seeds of random traces, several: 1,2,3 (figures are means)."),
    models: str = typer.Option(_MODELS, "--models", help="Models of a random trace."),
    global_batch_size: str = typer.Option("512", "--global-batch-size", help="Global batches of a random trace."),
    load: float = typer.Option(1.0, "--load", help="GPU-seconds asked for over those there are, of a random trace."),
    mean_hours: float = typer.Option(12.0, "--mean-hours", help="Mean duration of a job in a random trace."),
    no_deadlines: bool = typer.Option(False, "--no-deadlines", help="Jobs of a random trace have no deadline."),
    policies: str = typer.Option("fifo,srtf,edf,elasticflow,elastic-plans", "--policies", help="Policies to compare."),
    restart_seconds: float = typer.Option(
        60.0, "--restart-seconds", help="Checkpoint and restart, on a change of GPUs."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.schedule/1 as JSON."),
    table_file: Path = typer.Option(
        None, "--table", help="Write every stretch of every job to a .csv or .parquet file."
    ),
    save_trace: Path = typer.Option(None, "--save-trace", help="Write the (last) trace to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw who runs when (last trace): a .png, .svg or .pdf."),
) -> None:
    """Simulate a trace of jobs under several policies; speeds come from the best plan at each GPU count."""
    from vtrain_sim.costs.surfaces import Surfaces
    from vtrain_sim.decide.fleet import POLICIES, generate, read_trace, simulate, speed_tables
    from vtrain_sim.decide.fleet.jobs import offered_gap_s, write_trace
    from vtrain_sim.inputs.lookup import find_cluster
    from vtrain_sim.report.progress import counting
    from vtrain_sim.report.rows import check_name, write_rows
    from vtrain_sim.report.schedule import draw_schedule, print_schedule, summary
    from vtrain_sim.simulate.projection import Projector
    from vtrain_sim.specs.validation import finite, one_of

    chosen = policies.split(",")
    for name in chosen:
        one_of("--policies", name, tuple(POLICIES))
    for path in (table_file, save_trace):
        if path is not None:
            check_name(path)
    if (trace is None) == (not jobs):
        raise UserError("give either --trace FILE or --jobs N: the jobs to schedule")
    finite("--load", load, 1e-3)
    finite("--mean-hours", mean_hours, 1e-3)
    machine, surfaces = find_cluster(cluster)
    projector = Projector.modelled(machine, Surfaces.from_dict(surfaces))
    given = read_trace(trace) if trace is not None else []
    kinds = {(j.model, j.global_batch_size) for j in given} or {
        (m, b) for m in models.split(",") for b in numbers("--global-batch-size", global_batch_size)
    }
    with counting("kinds of jobs planned", "done", quiet=as_json) as progress:
        best, scaled = speed_tables(kinds, num_gpus, projector, progress)
    traces = [given]
    if not given:
        speeds = {kind: dict(zip(t.gpus, t.seconds, strict=True)) for kind, t in scaled.items()}
        gap = offered_gap_s(speeds, num_gpus, load, mean_hours)
        traces = [generate(jobs, s, speeds, gap, mean_hours) for s in numbers("--seeds", seeds)]
        if no_deadlines:
            traces = [[replace(j, deadline_s=float("inf")) for j in t] for t in traces]
    outcomes = {
        name: [
            simulate(t, best if POLICIES[name].plans else scaled, num_gpus, POLICIES[name], restart_seconds)
            for t in traces
        ]
        for name in chosen
    }
    if save_trace is not None:
        write_file(save_trace, lambda stream: write_rows(stream, save_trace.suffix, write_trace(traces[-1])))
    if table_file is not None:
        rows = [{"policy": name, **vars(s)} for name, found in outcomes.items() for s in found[-1].stretches]
        write_file(table_file, lambda stream: write_rows(stream, table_file.suffix, rows))
    if plot is not None:
        draw_schedule(plot, {name: found[-1] for name, found in outcomes.items()})
    result = summary(outcomes, machine.name, num_gpus, machine.price_per_gpu_hour, restart_seconds)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from vtrain_sim.report.tables import console

    print_schedule(result, console())
