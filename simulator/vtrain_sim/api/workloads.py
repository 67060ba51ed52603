"""What a name of a job means where many are planned: a preset, a file, or a captured run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from vtrain_sim.api.flag_files import Given, is_job_file
from vtrain_sim.decide import Bounds
from vtrain_sim.decide.search_space import Workload
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_emit import all_flags
from vtrain_sim.inputs.searched import to_search

RUN = "run:"
# Takes a sentence on how a file was read.
Noted = Callable[[str], None]


def unnoted(sentence: str) -> None:
    """Where nobody asks for notes."""


def workloads_of(
    names: Iterable[str], catalog: str | Path | None = None, run_script: bool = True, noted: Noted = unnoted
) -> dict[str, Workload]:
    """What each name means: a preset, a ``config.json``, a launch script, a spec, or ``run:ID`` of a catalog.

    The layout of a job is left out, as it is searched; its training step is kept, recomputation too. run_script: bash
    may run a launch script. noted: called with what there is to say about the files. Raises `UserError`.
    """
    return {name: _workload(name, catalog, run_script, noted) for name in dict.fromkeys(names)}


def _workload(name: str, catalog: str | Path | None, run_script: bool, noted: Noted) -> Workload:
    if name.startswith(RUN):
        return _of_run(name.removeprefix(RUN), catalog)
    if not is_job_file(name):
        return _checked(Workload(name))
    file = Given().over_file(Path(name), run_script)
    given, batch = file.to_search(keep_recomputation=True)
    for sentence in given.notes:
        noted(f"{name}: {sentence}")
    return _checked(Workload(given.model, given.flags, batch))


def _checked(workload: Workload) -> Workload:
    """The workload, if it is a whole model: what is misspelt is found before hours of work. Raises `UserError`."""
    workload.space(Bounds())
    return workload


def _of_run(run_id: str, catalog: str | Path | None) -> Workload:
    from vtrain_sim.catalog import Catalog
    from vtrain_sim.costs.captured_configuration import read_configuration

    if catalog is None:
        raise UserError(f"{RUN}{run_id} needs --catalog: the file that vtrain-catalog add made")
    configuration = read_configuration(Catalog(Path(catalog)), run_id)
    kept = to_search(all_flags(configuration), keep_recomputation=True)
    return Workload("", kept.flags, kept.batch)
