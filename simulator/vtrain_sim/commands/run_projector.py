"""What to project with, and from where: shared by the commands that take a captured run."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs.config import Configuration


def read_flag_files(
    flags: list[str], spec: Path | None, megatron_args: Path | None, cluster: str, model: str, num_gpus: int
) -> tuple[list[str], str, str, int]:
    """Flags with those of a spec file and of a launch script before them, cluster, model and number of GPUs."""
    if spec is not None:
        from vtrain_sim.inputs.spec_file import read_flags

        more, own = read_flags(spec)
        flags = more + flags
        cluster, model = cluster or own.get("cluster", ""), model or own.get("preset", "")
        num_gpus = num_gpus or _whole(spec, "num_gpus", own.get("num-gpus", "0"))
    if megatron_args is not None:
        from vtrain_sim.inputs.launch_script import read_arguments

        more, processes = read_arguments(megatron_args)
        flags, num_gpus = more + flags, num_gpus or processes
    return flags, cluster, model, num_gpus


def _whole(spec: Path, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{spec}: {name} is {text!r}: it takes a whole number") from None


def from_run(
    catalog: Path | None,
    run: list[str],
    cluster: str,
    model: str,
    num_gpus: int,
    flags: list[str],
    own_measurements: bool = True,
) -> tuple[Projector, Configuration]:
    """A projector and the configuration asked for, from captured runs or foreign traces.

    A trace says nothing of the model nor of the cluster: these are then needed. own_measurements: False
    leaves the run's operator and network times out. Raises `UserError`.
    """
    from vtrain_sim.catalog import Catalog
    from vtrain_sim.costs import CollectiveCosts, OperatorCosts, load_profile
    from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
    from vtrain_sim.inputs.lookup import find_cluster, find_model
    from vtrain_sim.inputs.megatron_flags import configuration_from_flags

    if catalog is None:
        raise UserError("--run needs --catalog: the file that vtrain-catalog add made")
    profile = load_profile(Catalog(catalog), run)
    if profile.configuration is None:
        if not cluster:
            raise UserError(f"run {run[0]!r} is a trace, which does not say on what cluster it ran: give --cluster")
        base = find_model(model) if model else None
    elif model:
        raise UserError("--run brings its own model: leave out --model, and say with flags what changes")
    else:
        base = None
    machine, surfaces = profile.cluster, Surfaces()
    if cluster:
        measured_on = str(profile.run["device_name"] or "")
        machine, held = find_cluster(cluster)
        surfaces = Surfaces.from_dict(held)
        if not measured_on:
            raise UserError(
                f"run {run[0]!r} does not say its GPU: its times cannot sharpen those of {machine.device.name}"
            )
        if not machine.device.is_called(measured_on):
            raise UserError(
                f"the run is from {measured_on}, {machine.name} has {machine.device.name}: measurements of one "
                "device do not sharpen another's"
            )
    elif not own_measurements:
        raise UserError("--modelled needs --cluster: without the run's own times, nothing says how fast the machine is")
    configuration = configuration_from_flags(flags, profile.configuration, num_gpus, base)
    if not own_measurements:
        return Projector.modelled(machine, surfaces), configuration
    operators = OperatorCosts(DeviceSurface(machine.device, surfaces), profile.operators)
    collectives = CollectiveCosts(machine, profile.collectives)
    return Projector(machine, operators, collectives, profile.step_spread), configuration
