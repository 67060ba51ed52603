"""``study``: the best plans of many models on many clusters."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.decide.study import StudyResult, read_study, run_study
from vtrain_sim.progress import Progress, unwatched


def study(
    file: str | Path,
    out: str | Path,
    executor: str = "local",
    address: str = "",
    progress: Progress = unwatched,
) -> StudyResult:
    """Plan every model on every cluster with every global batch; interrupted, it goes on where it stopped.

    file: TOML or YAML with lists of models, clusters and global_batch_sizes. out: directory of the results, one
    file per unit. executor: local, or ray (address: of a running Ray cluster). Raises `UserError`.

    >>> import vtrain as vt
    >>> vt.study("study.toml", out="results")
    StudyResult(units=1, planned=1)
    """
    return StudyResult(tuple(run_study(read_study(Path(file)), Path(out), executor, address, progress)))
