"""A job: one configuration on one machine, from keyword arguments, flags, files or a captured run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vtrain_sim.api.arguments import file_of, name_of
from vtrain_sim.api.flag_files import Given, flags_of
from vtrain_sim.api.machine import Machine, machine_of
from vtrain_sim.api.options import Option, Options, read_options
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.lookup import find_model
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model.dispatchers import check_dispatcher
from vtrain_sim.specs import ClusterSpec, Configuration

if TYPE_CHECKING:
    from vtrain_sim.api.catalog import Catalog
    from vtrain_sim.costs.profile import Profile


@dataclass(frozen=True, repr=False)
class Job:
    """One training job: model, parallel layout and training step (configuration) on a machine.

    fixed_gpus: the world size that `with_` keeps, or 0 where it follows from the layout. run: id of the captured
    run that the job is from, in catalog. train_tokens: that a spec file says; 0: not said.

    >>> import vtrain as vt
    >>> vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    Job(gpt3-1.3b on 8 GPUs of dgx-a100-80gb: tp 2, pp 1, dp 4, mbs 1, gbs 16)
    """

    configuration: Configuration
    machine: Machine
    fixed_gpus: int = 0
    run: str = ""
    catalog: Path | None = None
    train_tokens: float = 0.0

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster: device, links and price.

        >>> import vtrain as vt
        >>> vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16).cluster.gpus_per_node
        8
        """
        return self.machine.cluster

    def with_(self, **changes: Option) -> Job:
        """The same job with some arguments changed; names as for `vtrain.job`. Raises `UserError`.

        The number of GPUs stays, where it was given, and the data parallel size follows; ``dp=`` or ``gpus=``
        change it.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
        >>> job.with_(tp=4, sequence_parallel=True)
        Job(gpt3-1.3b on 8 GPUs of dgx-a100-80gb: tp 4, pp 1, dp 2, mbs 1, gbs 16)
        """
        options = read_options(changes)
        gpus = options.gpus or (0 if options.fixes_dp else self.fixed_gpus)
        configuration = configuration_from_flags(options.flags, self.configuration, gpus)
        configuration = options.switch_off(configuration)
        check_dispatcher(configuration.parallel.moe_token_dispatcher, configuration.model.num_experts)
        return replace(self, configuration=configuration, fixed_gpus=gpus)

    def flags(self) -> list[str]:
        """Megatron's command-line arguments for the job, without what Megatron has no argument for.

        >>> import vtrain as vt
        >>> flags = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16).flags()
        >>> flags[flags.index("--tensor-model-parallel-size") + 1]
        '2'
        """
        return emit_flags(self.configuration)

    def called(self, name: str) -> Job:
        """The same with a name for its model, for example that of the file that describes it.

        >>> import vtrain as vt
        >>> vt.job(cluster="dgx-a100-80gb", gpus=8, num_layers=4, hidden_size=512, num_attention_heads=8,
        ...     seq_length=512, mbs=1, gbs=8).called("train.sh")
        Job(train.sh on 8 GPUs of dgx-a100-80gb: tp 1, pp 1, dp 8, mbs 1, gbs 8)
        """
        c = self.configuration
        return replace(self, configuration=replace(c, model=replace(c.model, name=name)))

    def __repr__(self) -> str:
        parallel, train = self.configuration.parallel, self.configuration.train
        what = self.configuration.model.name or (f"run {self.run}" if self.run else "model")
        return (
            f"Job({what} on {parallel.world_size} GPUs of {self.cluster.name}: {parallel.in_words}, "
            f"mbs {train.micro_batch_size}, gbs {train.global_batch_size})"
        )


def job_from_flags(
    flags: Sequence[str],
    cluster: str | Path,
    model: str | Path = "",
    gpus: int = 0,
    price_per_gpu_hour: float | None = None,
    options: Options | None = None,
) -> Job:
    """A job on bundled or described hardware. options: keyword arguments, which go before the flags."""
    machine = machine_of(cluster, price_per_gpu_hour)
    options = options or read_options({})
    world = options.gpus or (0 if options.fixes_dp else gpus)
    name = name_of("model", model)
    base = find_model(name) if name else None
    configuration = options.switch_off(configuration_from_flags([*flags, *options.flags], None, world, base))
    check_dispatcher(configuration.parallel.moe_token_dispatcher, configuration.model.num_experts)
    return Job(configuration, machine, world)


def job_from_run(
    catalog: str | Path | Catalog | None,
    runs: Sequence[str],
    cluster: str | Path = "",
    model: str | Path = "",
    gpus: int = 0,
    flags: Sequence[str] = (),
    modelled: bool = False,
    options: Options | None = None,
) -> Job:
    """A job from captured runs or imported traces, whose operators are pooled.

    A trace does not say its model nor its cluster: these are then needed. modelled: leave the runs' operator
    and network times out. Raises `UserError`.
    """
    machine, profile, path = machine_of_runs(catalog, runs, cluster, modelled)
    if profile.configuration is not None and model:
        raise UserError("--run brings its own model: leave out --model, and say with flags what changes")
    options = options or read_options({})
    world = options.gpus or (0 if options.fixes_dp else gpus)
    name = name_of("model", model)
    base = find_model(name) if name else None
    configuration = configuration_from_flags([*flags, *options.flags], profile.configuration, world, base)
    return Job(options.switch_off(configuration), machine, world, runs[0], path)


def machine_of_runs(
    catalog: str | Path | Catalog | None, runs: Sequence[str], cluster: str | Path = "", modelled: bool = False
) -> tuple[Machine, Profile, Path]:
    """The machine that runs were captured on, or a cluster with their measurements; the runs; and their catalog.

    modelled: leave the runs' operator and network times out. Raises `UserError`.
    """
    from vtrain_sim import catalog as indexed
    from vtrain_sim.costs.profile import load_profile

    if catalog is None:
        raise UserError("--run needs --catalog: the file that vtrain-catalog add made")
    path = Path(catalog) if isinstance(catalog, (str, Path)) else catalog.path
    profile = load_profile(indexed.Catalog(path), runs)
    if profile.configuration is None and not cluster:
        raise UserError(f"run {runs[0]!r} is a trace, which does not say on what cluster it ran: give --cluster")
    if cluster:
        machine = machine_of(cluster)
        _check_device(runs[0], str(profile.run["device_name"] or ""), machine.cluster)
        surfaces = machine.surfaces
    elif modelled:
        raise UserError("--modelled needs --cluster: without the run's own times, nothing says how fast the machine is")
    else:
        from vtrain_sim.costs.surfaces import Surfaces

        machine, surfaces = Machine(profile.cluster, Surfaces()), Surfaces()
    if not modelled:
        machine = Machine(machine.cluster, surfaces, profile)
    return machine, profile, path


def _given(cluster: str | Path, model: str | Path, gpus: int, price_per_gpu_hour: float | None) -> Given:
    names = name_of("cluster", cluster), name_of("model", model)
    return Given((), *names, gpus, price_per_gpu_hour=price_per_gpu_hour)


def job_of(value: object) -> Job:
    """A job as it was passed to a verb; raises `UserError` for anything else."""
    if not isinstance(value, Job):
        raise UserError(f"{value!r} is no job: vt.job(...) makes one")
    return value


def _check_device(run: str, measured_on: str, cluster: ClusterSpec) -> None:
    """Refuse to sharpen one device's estimates with another's measurements."""
    if not measured_on:
        raise UserError(f"run {run!r} does not say its GPU: its times cannot sharpen those of {cluster.device.name}")
    if not cluster.device.is_called(measured_on):
        raise UserError(
            f"the run is from {measured_on}, {cluster.name} has {cluster.device.name}: measurements of one "
            "device do not sharpen another's"
        )


def job_from_given(
    given: Given, catalog: str | Path | None = None, runs: Sequence[str] = (), options: Options | None = None
) -> Job:
    """A job as files and flags describe it, from captured runs where there are any."""
    if options is None or not (options.gpus or options.fixes_dp):
        given.check_gpus()
    if runs:
        job = job_from_run(catalog, runs, given.cluster, given.model, given.gpus, given.flags, options=options)
    else:
        job = job_from_flags(given.flags, given.cluster, given.model, given.gpus, None, options)
    machine = job.machine if given.price_per_gpu_hour is None else job.machine.priced(given.price_per_gpu_hour)
    return replace(job, machine=machine, train_tokens=given.train_tokens)


class JobFactory:
    """Describes one training job with keyword arguments, or reads it from what you have (``job.from_...``).

    ``job(model, cluster=..., gpus=..., **options)``: model is a preset or a Hugging Face ``config.json`` ("" where
    the options give all sizes); cluster a preset or a TOML or YAML file; gpus the world size (default: as many
    as the layout needs); price_per_gpu_hour US dollars. Options are short names (tp, sp, pp, vpp, cp, ep, etp, dp,
    mbs, gbs, recompute, schedule, precision, distributed_optimizer, fsdp) and Megatron's arguments with
    underscores. Batches are in sequences. Raises `UserError` for an unknown name, and for a configuration that
    Megatron-Core refuses.

    >>> import vtrain as vt
    >>> vt.job("gpt3-175b", cluster="dgx-a100-80gb", gpus=1024, tp=8, pp=16, mbs=1, gbs=1536, sequence_parallel=True)
    Job(gpt3-175b on 1024 GPUs of dgx-a100-80gb: tp 8, pp 16, dp 8, mbs 1, gbs 1536)
    """

    def __call__(
        self,
        model: str | Path = "",
        *,
        cluster: str | Path = "",
        price_per_gpu_hour: float | None = None,
        **options: Option,
    ) -> Job:
        """A job from keyword arguments."""
        return job_from_flags((), cluster, model, 0, price_per_gpu_hour, read_options(options))

    def from_flags(
        self,
        flags: Sequence[str],
        *,
        cluster: str | Path = "",
        model: str | Path = "",
        gpus: int = 0,
        price_per_gpu_hour: float | None = None,
        **options: Option,
    ) -> Job:
        """A job from Megatron's command-line arguments; keyword arguments go before them.

        >>> import vtrain as vt
        >>> flags = ["--micro-batch-size", "1", "--global-batch-size", "16"]
        >>> vt.job.from_flags(flags, model="gpt3-1.3b", cluster="dgx-a100-80gb", tp=2)
        Job(gpt3-1.3b on 2 GPUs of dgx-a100-80gb: tp 2, pp 1, dp 1, mbs 1, gbs 16)
        """
        return job_from_flags(flags_of(flags), cluster, model, gpus, price_per_gpu_hour, read_options(options))

    def from_script(
        self,
        path: str | Path,
        *,
        cluster: str | Path = "",
        model: str | Path = "",
        gpus: int = 0,
        price_per_gpu_hour: float | None = None,
        run_script: bool = True,
        script_args: Sequence[str] = (),
        **options: Option,
    ) -> Job:
        """A job from a launch script, or another file that says Megatron's arguments.

        Bash runs the script in a sandbox; with run_script=False it is read without that. script_args: its own
        arguments.

        >>> import vtrain as vt
        >>> vt.job.from_script("train.sh", cluster="dgx-a100-80gb", gbs=32)
        Job(model on 16 GPUs of dgx-a100-80gb: tp 2, pp 1, dp 8, mbs 1, gbs 32)
        """
        given = _given(cluster, model, gpus, price_per_gpu_hour).over(
            None, file_of("launch script", path), run_script, script_args
        )
        return job_from_given(given, options=read_options(options))

    def from_spec(
        self,
        path: str | Path,
        *,
        cluster: str | Path = "",
        model: str | Path = "",
        gpus: int = 0,
        price_per_gpu_hour: float | None = None,
        **options: Option,
    ) -> Job:
        """A job from a YAML or TOML file with the names of the flags; it may name the cluster and a preset too.

        >>> import vtrain as vt
        >>> vt.job.from_spec("job.yaml")
        Job(gpt3-1.3b on 8 GPUs of dgx-a100-80gb: tp 2, pp 1, dp 4, mbs 1, gbs 16)
        """
        given = _given(cluster, model, gpus, price_per_gpu_hour).over(file_of("spec file", path), None)
        return job_from_given(given, options=read_options(options))

    def from_run(
        self,
        catalog: str | Path | Catalog,
        run: str | Sequence[str],
        *,
        cluster: str | Path = "",
        model: str | Path = "",
        gpus: int = 0,
        flags: Sequence[str] = (),
        modelled: bool = False,
        **options: Option,
    ) -> Job:
        """The job of a captured run, with the run's own operator and network times; options say what changes.

        run: id, or several to pool their operators. With a cluster too, the measurements sharpen its device's
        coefficients. An imported trace needs a cluster, and a model or flags. modelled: leave the run's own times
        out (needs a cluster).

        >>> import vtrain as vt
        >>> job = vt.job.from_run("vtrain.duckdb", "base", num_layers=8)
        >>> vt.project(job).provenance["measured"] > 0.5
        True
        """
        runs = [run] if isinstance(run, str) else list(run)
        return job_from_run(catalog, runs, cluster, model, gpus, flags_of(flags), modelled, read_options(options))


job = JobFactory()
