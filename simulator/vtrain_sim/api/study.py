"""``study``: the best plans of many models on many clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vtrain_sim.api.workloads import Noted, unnoted, workloads_of
from vtrain_sim.decide.executors import Workers
from vtrain_sim.decide.study import StudyResult, Unit, others_in, read_study, run_study
from vtrain_sim.inputs.notes import approximations, without_effect
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
    processes: int = 0,
) -> StudyResult:
    """Plan every model on every cluster with every global batch; interrupted, it goes on where it stopped.

    file: TOML or YAML with lists of models, clusters and global_batch_sizes (default: each job's own), and any option
    of `plan` by its name. out: directory of the results, one file per unit; what did not change, content of files
    included, is not computed again. executor: local, or ray (address: of a running Ray cluster). processes: units at a
    time; 0: one for each core. A model is a preset, a ``config.json``, or a job whose training step is kept: a launch
    script (run_script: bash may run it), a spec, or ``run:ID`` of a captured run of the catalog. noted: called with
    what there is to say about files. Raises `UserError`.

    >>> import vtrain as vt
    >>> vt.study("study.toml", out="results")
    StudyResult(units=1, planned=1)
    """
    workers = Workers(executor, processes, address)
    units = read_study(Path(file), lambda names: workloads_of(names, catalog, run_script, noted))
    for sentence in _notes(units, Path(out)):
        noted(sentence)
    return StudyResult(tuple(run_study(units, Path(out), workers, progress)))


def _notes(units: Sequence[Unit], out: Path) -> Iterator[str]:
    """What is said of flags that are left out, and of results that lie there and are not used."""
    models: dict[str, list[str]] = {}
    for unit in {unit.model: unit for unit in units}.values():
        for sentence in (*approximations(unit.flags), *without_effect(unit.flags, unit.request.model)):
            models.setdefault(sentence, []).append(unit.model)
    yield from (f"{', '.join(names)}: {sentence}" for sentence, names in models.items())
    if others := others_in(out, units):
        results, lie, are = ("result", "lies", "is") if others == 1 else ("results", "lie", "are")
        yield (
            f"{others} {results} of other units, or of inputs as they were before they changed, {lie} in {out} and "
            f"{are} not used"
        )
