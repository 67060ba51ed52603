"""``validate``: projections beside measured iteration times, and a captured step beside the simulated one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from vtrain_sim.api.arguments import file_of, name_of
from vtrain_sim.api.flag_files import Given
from vtrain_sim.api.job import Job, job_from_run, job_of
from vtrain_sim.api.machine import machine_of
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.validate.captured import compare
from vtrain_sim.validate.comparison import Comparison
from vtrain_sim.validate.result import ValidationResult
from vtrain_sim.validate.tables import validate as validate_files

if TYPE_CHECKING:
    from vtrain_sim.api.catalog import Catalog

Files = str | Path | Sequence[str | Path]


@overload
def validate(files: Files, *, cluster: str | Path = "", progress: Progress = unwatched) -> ValidationResult: ...


@overload
def validate(
    files: Files = (),
    *,
    run: str,
    catalog: str | Path | Catalog | None = None,
    cluster: str | Path = "",
    model: str = "",
    megatron_args: str | Path | None = None,
    spec: str | Path | None = None,
    num_gpus: int = 0,
    modelled: bool = False,
    progress: Progress = unwatched,
) -> ValidationResult | Comparison: ...


def validate(
    files: Files = (),
    *,
    run: str = "",
    catalog: str | Path | Catalog | None = None,
    cluster: str | Path = "",
    model: str = "",
    megatron_args: str | Path | None = None,
    spec: str | Path | None = None,
    num_gpus: int = 0,
    modelled: bool = False,
    progress: Progress = unwatched,
) -> ValidationResult | Comparison:
    """Project every row of CSV tables of measured configurations; or, with ``run``, simulate a captured run.

    files: one table or several; cluster: preset or file that all rows are from (default: by their GPU and network).
    With run and catalog the result is a `Comparison`, layer by layer and operator by operator. An imported trace
    does not say its configuration: cluster, and model, spec or megatron_args, say it. modelled: leave the run's own
    operator and network times out. progress: called with the rows projected, all rows, and their share. Raises
    `UserError`.

    >>> import vtrain as vt
    >>> vt.validate("measured.csv").files[0].rows[0].measured_s
    1.0
    >>> vt.validate(run="base", catalog="vtrain.duckdb").run_id
    'base'
    """
    if run:
        if files:
            raise UserError("--run compares with one captured run: leave out tables and --plot")
        described = Given((), name_of("cluster", cluster), name_of("model", model), num_gpus).over(
            file_of("--spec", spec) if spec else None,
            file_of("--megatron-args", megatron_args) if megatron_args else None,
        )
        described.check_gpus()
        named = described.cluster, described.model, described.gpus, described.flags
        return validate_run(job_from_run(catalog, [run], *named, modelled))
    for name, given in (
        ("--catalog", catalog),
        ("--model", model),
        ("--megatron-args", megatron_args),
        ("--spec", spec),
        ("--num-gpus", num_gpus),
        ("--modelled", modelled),
    ):
        if given:
            raise UserError(f"{name} goes with --run: tables say their own configurations")
    if not files:
        raise UserError("nothing to compare with: give CSV tables, or --catalog and --run")
    return _validate_tables(files, cluster, progress)


def validate_run(job: Job) -> Comparison:
    """Simulate the job of a captured run (`job.from_run`), and put it beside what was captured.

    Raises `UserError` for a job that is not from a run.

    >>> import vtrain as vt
    >>> comparison = vt.validate_run(vt.job.from_run("vtrain.duckdb", "base"))
    >>> len(comparison.parts) > 0
    True
    """
    from vtrain_sim.catalog import Catalog

    job = job_of(job)
    if job.catalog is None:
        raise UserError("there is nothing to compare with: the job is not from a captured run (vt.job.from_run)")
    return compare(Catalog(job.catalog), job.run, job.machine.projector, job.configuration)


def _validate_tables(files: Files, cluster: str | Path, progress: Progress) -> ValidationResult:
    paths = [Path(f) for f in ([files] if isinstance(files, (str, Path)) else files)]
    if not cluster:
        return ValidationResult(tuple(validate_files(paths, progress=progress)))
    machine = machine_of(cluster)
    return ValidationResult(tuple(validate_files(paths, (machine.cluster, machine.surfaces), progress)))
