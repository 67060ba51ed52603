"""Runs the units of a study that have no result yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

from vtrain_sim.decide.executors import IN_THIS_PROCESS, RETRIES, GivenUp, Workers
from vtrain_sim.decide.study.result import FIGURES, LAYOUT
from vtrain_sim.decide.study.unit import Unit, run_unit
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.results import Document
from vtrain_sim.whole_file import write_file

# Of the layout, what is no number.
_WORDS = ("schedule", "recompute")
# What ends the name of a result (`Unit.name`).
_RESULTS = f"*-{'[0-9a-f]' * 10}.json"


def run_study(
    units: Sequence[Unit], out: Path, workers: Workers = IN_THIS_PROCESS, progress: Progress = unwatched
) -> list[Document]:
    """Results of all units, in their order; those whose file is there already are not run again.

    out: directory of the results, one file per unit. progress: called with the units that are done, all units, and
    the share of the work that is done. Raises `UserError`.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror}") from None
    results = {u.name: _read(out / u.name, u) for u in units if (out / u.name).exists()}
    # Small ones last: whoever is done early finds more work.
    missing = sorted({u.name: u for u in units if u.name not in results}.values(), key=lambda u: -u.size)
    sizes = {u.name: u.size for u in units}
    whole = sum(sizes.values())

    def say() -> None:
        done = sum(u.name in results for u in units)
        progress(done, len(units), sum(sizes[name] for name in results) / whole)

    say()
    try:
        for index, result in workers.map(run_unit, missing):
            text = json.dumps(result, indent=1)
            write_file(out / missing[index].name, partial(_write, text))
            results[missing[index].name] = json.loads(text)
            say()
    except GivenUp as error:
        unit = missing[error.index]
        raise UserError(
            f"{unit.model} on {unit.cluster} was given up after {RETRIES + 1} attempts ({error.reason}): start the "
            "study again, what is done stays"
        ) from None
    return [results[u.name] for u in units]


def others_in(out: Path, units: Sequence[Unit]) -> int:
    """Results in the directory of a study that are of none of its units, or of other content of what they read."""
    return len({path.name for path in out.glob(_RESULTS)} - {u.name for u in units})


def _write(text: str, stream: IO[bytes]) -> None:
    stream.write(text.encode())


def _read(path: Path, unit: Unit) -> Document:
    """The result of a unit. Raises `UserError` for a file that holds something else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        result = None
    if not isinstance(result, dict) or result.get("unit") != json.loads(json.dumps(unit.to_dict())):
        raise UserError(f"{path} is not the result of its unit: delete it, and the study runs the unit again")
    plans = result.get("plans")
    complete = isinstance(plans, list) and plans and all(map(_is_plan, plans))
    if not complete and not isinstance(result.get("reason"), str):
        raise UserError(f"{path} has neither plans nor a reason: delete it, and the study runs the unit again")
    return result


def _is_plan(plan: object) -> bool:
    if not isinstance(plan, dict):
        return False
    figures = [plan.get(name) for name in (*LAYOUT, *FIGURES) if name not in _WORDS]
    return all(isinstance(value, (int, float)) for value in figures) and all(
        isinstance(plan.get(name), str) for name in _WORDS
    )
