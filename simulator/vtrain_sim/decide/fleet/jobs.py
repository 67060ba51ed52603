"""Jobs and traces of them.

A trace is a CSV or Parquet table, one row per job: job_id, arrival_s, model (preset), global_batch_size
(sequences), iterations, gpus (requested, for policies that do not choose), deadline_s (seconds after the
start of the trace; empty: none), min_gpus, max_gpus, tenant, priority (a larger one goes first).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from vtrain_sim.errors import UserError
from vtrain_sim.results import Row
from vtrain_sim.specs.checks import LARGEST, Range
from vtrain_sim.text_file import check_kind

COLUMNS = (
    "job_id",
    "arrival_s",
    "model",
    "global_batch_size",
    "iterations",
    "gpus",
    "deadline_s",
    "min_gpus",
    "max_gpus",
    "tenant",
    "priority",
)
_TEXTS, _SECONDS = ("job_id", "model", "tenant"), ("arrival_s", "deadline_s")
_NEEDED = ("job_id", "arrival_s", "model", "global_batch_size", "iterations", "gpus")
_COUNTS = ("global_batch_size", "iterations", "gpus", "min_gpus", "max_gpus")
# A name as close as this to that of a column that is not there is that one, written wrong.
_ALIKE = 0.88
# Three thousand years: of more, the clock of a simulation could not tell steps apart.
LONGEST_S = 1e11
_ARRIVAL = Range(0.0, LONGEST_S)


@dataclass(frozen=True)
class Job:
    """One training job. arrival_s, deadline_s: seconds from the start of the trace (deadline_s may be infinite).
    tenant: whose it is. priority: a larger one goes first, under the policy that heeds it."""

    job_id: str
    arrival_s: float
    model: str
    global_batch_size: int
    iterations: int
    gpus: int
    deadline_s: float = math.inf
    min_gpus: int = 1
    max_gpus: int = 1 << 30
    tenant: str = ""
    priority: int = 0

    def __post_init__(self) -> None:
        what = f"job {self.job_id!r}"
        _ARRIVAL.check(f"{what}: arrival_s", self.arrival_s)
        for name, least in (*((count, 1) for count in _COUNTS), ("priority", -LARGEST)):
            value = getattr(self, name)
            if not least <= value <= LARGEST:
                raise UserError(f"{what}: {name} is {value:.15g}: it takes a whole number from {least} to {LARGEST}")
        if math.isnan(self.deadline_s) or self.deadline_s <= self.arrival_s:
            raise UserError(f"{what}: its deadline ({self.deadline_s} s) is not after its arrival ({self.arrival_s} s)")
        if self.min_gpus > self.max_gpus:
            raise UserError(f"{what}: min_gpus is {self.min_gpus}, more than max_gpus ({self.max_gpus})")

    @property
    def kind(self) -> tuple[str, int]:
        """What its speed depends on: model and global batch size."""
        return self.model, self.global_batch_size

    def to_row(self) -> Row:
        """The job as a row of a trace."""
        row = asdict(self)
        row["deadline_s"] = None if math.isinf(self.deadline_s) else self.deadline_s
        return row


def read_trace(path: Path) -> list[Job]:
    """Jobs of a trace, by arrival. Raises `UserError` for a file that is not one, or a job that cannot be."""
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path} ends in neither .csv nor .parquet")
    if not path.exists():
        raise UserError(f"there is no file {path}")
    check_kind(path)
    # As text: what looks like a day or a truth value is none, and an id keeps its zeros.
    reader = "read_csv(?, all_varchar=true, header=true)" if path.suffix == ".csv" else "read_parquet(?)"
    try:
        result = duckdb.connect().execute(f"SELECT * FROM {reader}", [str(path)])
        names = [d[0] for d in result.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    except duckdb.Error as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UserError(f"{path} is not a job trace: it has no column {', '.join(missing)}")
    _check_names(path, names)
    if not rows:
        raise UserError(f"{path} has no jobs")
    jobs = [_job(path, number, row) for number, row in enumerate(rows, 1)]
    if len({j.job_id for j in jobs}) < len(jobs):
        raise UserError(f"{path} has two jobs with the same job_id")
    return sorted(jobs, key=lambda j: (j.arrival_s, j.job_id))


def _check_names(path: Path, names: list[str]) -> None:
    """Raise `UserError` for a column that stands for one of the others, which is not there."""
    absent = [name for name in COLUMNS if name not in names]
    for name in names:
        if name not in COLUMNS and (meant := difflib.get_close_matches(name, absent, 1, _ALIKE)):
            raise UserError(f"{path} has a column {name}: did you mean {meant[0]}? Rename it, or leave it out")


def _job(path: Path, number: int, row: Row) -> Job:
    given = {k: row[k] for k in COLUMNS if row.get(k) is not None}
    try:
        return Job(**{name: _cell(name, value) for name, value in given.items()})
    except TypeError:
        lacking = next(name for name in _NEEDED if name not in given)
        raise UserError(f"{path}, row {number}: {lacking} is empty") from None
    except UserError as error:
        raise UserError(f"{path}, row {number}: {error}") from None


def _cell(name: str, value: Any) -> Any:
    """A cell as its column has it. Raises `UserError` for one that is no number where the column takes one."""
    if name in _TEXTS:
        return str(value)
    try:
        number = float(value)
        if name in _SECONDS:
            return number
        if number == int(number):
            # Not by way of a float, which has no odd numbers from 2**53 on.
            return int(value) if str(value).isdecimal() else int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    takes = "number" if name in _SECONDS else "whole number"
    raise UserError(f"{name} is {str(value)!r}: it takes a {takes}")


def generate(
    count: int,
    seed: int,
    seconds_per_iteration: dict[tuple[str, int], dict[int, float]],
    mean_gap_s: float,
    mean_hours: float = 12.0,
    tightness: tuple[float, float] = (0.5, 1.5),
) -> list[Job]:
    """A random trace, the same for a seed.

    Arrivals are a Poisson process (mean gap `mean_gap_s`); durations on the GPUs requested are log-normal
    with a standard deviation of 1.0 in the logarithm (heavy-tailed, as in Microsoft's Philly trace, Jeon et
    al. 2019); the GPUs requested are one of the counts at which the job runs; the deadline comes `tightness`
    times the duration after the arrival, uniform, as ElasticFlow draws it (Gu et al., ASPLOS
    2023). seconds_per_iteration: by (model, global batch), by GPUs.
    """
    random = np.random.default_rng(seed)
    kinds = sorted(seconds_per_iteration)
    jobs = []
    now = 0.0
    for number in range(count):
        now += float(random.exponential(mean_gap_s))
        model, batch = kinds[int(random.integers(len(kinds)))]
        counts = sorted(seconds_per_iteration[model, batch])
        gpus = counts[int(random.integers(max(1, len(counts) - 1)))]
        hours = float(random.lognormal(math.log(mean_hours) - 0.5, 1.0))
        iterations = max(1, round(hours * 3600 / seconds_per_iteration[model, batch][gpus]))
        duration = iterations * seconds_per_iteration[model, batch][gpus]
        deadline = now + duration * float(random.uniform(*tightness))
        jobs.append(Job(f"job-{number:05d}", now, model, batch, iterations, gpus, deadline, counts[0], counts[-1]))
    return jobs


def offered_gap_s(
    seconds_per_iteration: dict[tuple[str, int], dict[int, float]], capacity: int, load: float, mean_hours: float
) -> float:
    """Mean gap between arrivals at which jobs request `load` times the GPU-seconds that there are."""
    requested = [
        sum(counts[: max(1, len(counts) - 1)]) / max(1, len(counts) - 1)
        for counts in (sorted(t) for t in seconds_per_iteration.values())
    ]
    return mean_hours * 3600 * (sum(requested) / len(requested)) / (capacity * load)
