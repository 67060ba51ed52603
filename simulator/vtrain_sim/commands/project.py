"""``vtrain-sim project``: what one configuration would do."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import typer

from vtrain_sim.commands.run_projector import from_run, read_flag_files
from vtrain_sim.errors import UserError
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs.config import Configuration


def project(
    context: typer.Context,
    catalog: Path = typer.Option(None, "--catalog", help="Catalog that holds the profile."),
    run: list[str] = typer.Option([], "--run", help="Captured run to project from; repeat to pool several."),
    cluster: str = typer.Option(
        "", "--cluster", help="Cluster preset, for example dgx-a100-80gb, or a TOML or YAML file."
    ),
    model: str = typer.Option(
        "", "--model", help="Model preset, for example gpt3-175b, or a Hugging Face config.json."
    ),
    megatron_args: Path = typer.Option(
        None, "--megatron-args", help="Launch script, or file with Megatron's arguments."
    ),
    spec: Path = typer.Option(None, "--spec", help="YAML or TOML file with the same names as the flags."),
    num_gpus: int = typer.Option(0, "--num-gpus", help="World size (default: as the layout needs)."),
    train_tokens: float = typer.Option(0.0, "--train-tokens", help="Tokens to train on: days and dollars."),
    price_per_gpu_hour: float = typer.Option(-1.0, "--price-per-gpu-hour", help="US dollars."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.projection/1 as JSON."),
    emit_megatron: bool = typer.Option(False, "--emit-megatron", help="Print Megatron's flags and stop."),
) -> None:
    """Project a configuration, given with Megatron's own flags.

    From a captured run (--catalog, --run), where the flags say what changes; or from bundled data
    (--cluster, with --model or the model's flags). With both a run and a cluster, the run's measurements
    sharpen the cluster's device: so do those of a torch.profiler or Nsight Systems trace. Flags on the
    command line go before those of files.
    """
    from vtrain_sim.inputs.megatron_flags import emit_flags

    if num_gpus < 0:
        raise UserError(f"--num-gpus is {num_gpus}: it must be 1 or more")
    if not math.isfinite(train_tokens) or train_tokens < 0:
        raise UserError(f"--train-tokens is {train_tokens}: it takes a positive number")
    if not math.isfinite(price_per_gpu_hour):
        raise UserError(f"--price-per-gpu-hour is {price_per_gpu_hour}: it takes a number of dollars")
    flags, cluster, model, num_gpus = read_flag_files(list(context.args), spec, megatron_args, cluster, model, num_gpus)
    if run:
        projector, configuration = from_run(catalog, run, cluster, model, num_gpus, flags)
    elif catalog is not None:
        raise UserError("--catalog needs --run: the run to project from (vtrain-catalog ls lists them)")
    else:
        projector, configuration = _from_presets(cluster, model, num_gpus, flags)
    if emit_megatron:
        print(shlex.join(emit_flags(configuration)))
        return
    projection = projector.project(configuration)
    if price_per_gpu_hour >= 0:
        projection = replace(projection, cluster=replace(projection.cluster, price_per_gpu_hour=price_per_gpu_hour))
    if as_json:
        result = projection.to_dict()
        if train_tokens:
            result["train_tokens"] = train_tokens
            result["days"] = projection.days(train_tokens)
            result["cost_usd"] = projection.cost_usd(train_tokens)
        print(json.dumps(result, indent=2))
        return
    from vtrain_sim.report.projection import print_projection
    from vtrain_sim.report.tables import console

    print_projection(projection, console(), train_tokens or None)


def _from_presets(cluster: str, model: str, num_gpus: int, flags: list[str]) -> tuple[Projector, Configuration]:
    from vtrain_sim.costs.surfaces import Surfaces
    from vtrain_sim.inputs import presets
    from vtrain_sim.inputs.lookup import find_cluster, find_model
    from vtrain_sim.inputs.megatron_flags import configuration_from_flags

    if not cluster:
        raise UserError(
            f"nothing to project on: give --catalog and --run, or --cluster ({', '.join(presets.names('clusters'))})"
        )
    machine, surfaces = find_cluster(cluster)
    base = find_model(model) if model else None
    configuration = configuration_from_flags(flags, None, num_gpus, base)
    return Projector.modelled(machine, Surfaces.from_dict(surfaces)), configuration
