"""``study``: the best plans of many models on many clusters."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.api.workloads import Noted, unnoted, workloads_of
from vtrain_sim.decide.study import StudyResult, read_study, run_study
from vtrain_sim.progress import Progress, unwatched


def study(
    file: str | Path,
    out: str | Path,
    executor: str = "local",
    address: str = "",
    progress: Progress = unwatched,
    catalog: str | Path | None = None,
    run_script: bool = True,
    noted: Noted = unnoted,
) -> StudyResult:
    """Plan every model on every cluster with every global batch; interrupted, it goes on where it stopped.

    file: TOML or YAML with lists of models, clusters and global_batch_sizes (default: each job's own). out: directory
    of the results, one file per unit. executor: local, or ray (address: of a running Ray cluster). A model is a preset,
    a ``config.json``, or a job whose training step is kept: a launch script (run_script: bash may run it), a spec, or
    ``run:ID`` of a captured run of the catalog. noted: called with what there is to say about files. Raises
    `UserError`.

    >>> import vtrain as vt
    >>> vt.study("study.toml", out="results")
    StudyResult(units=1, planned=1)
    """
    units = read_study(Path(file), lambda names: workloads_of(names, catalog, run_script, noted))
    return StudyResult(tuple(run_study(units, Path(out), executor, address, progress)))
