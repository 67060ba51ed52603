"""Traces of clusters that others have published, and what of them is a job here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from vtrain_sim.errors import UserError
from vtrain_sim.text_file import check_kind

# Why a job of a trace is not one here.
WITHOUT_GPUS, FRACTION, FAILED = "no GPU", "a part of a GPU", "failed"
UNSTARTED, RUNNING, EMPTY = "never started", "still running at the end of the trace", "no duration"
# Rows that are held at once: a trace may have millions.
_AT_ONCE = 10_000


@dataclass(frozen=True)
class Recorded:
    """A job as a cluster recorded it. submitted_s: seconds, from any beginning. duration_s: that it had its GPUs."""

    job_id: str
    submitted_s: float
    gpus: int
    duration_s: float
    tenant: str = ""


@dataclass
class Recording:
    """The jobs of a trace, and how many were left out, by why. title: whose trace it is."""

    title: str
    jobs: list[Recorded] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, job: Recorded) -> None:
        """A job, unless it had no GPUs, or no time."""
        if job.gpus < 1:
            self.dropped[WITHOUT_GPUS] += 1
        elif job.duration_s <= 0:
            self.dropped[EMPTY] += 1
        else:
            self.jobs.append(job)


class TraceFormat(ABC):
    """A format of traces. name: as `--trace-format` says it. title: whose traces. source: where they are described.

    columns: those of its table by which it is recognised; none: it is not, or not a table.
    """

    name: str
    title: str
    source: str
    columns: frozenset[str] = frozenset()

    @abstractmethod
    def read(self, path: Path) -> Recording:
        """The jobs of a file. Raises `UserError` for one that is not of this format."""

    def recognises(self, head: str) -> bool:
        """Whether a file that begins so is of this format."""
        header = {name.strip().strip('"') for name in head.partition("\n")[0].split(",")}
        return bool(self.columns) and self.columns <= header


def rows_of(path: Path, columns: list[str], header: list[str] | None = None) -> Iterator[dict[str, str | None]]:
    """Rows of a CSV file as text, those columns only. header: the columns of a file that has no line of them.

    Raises `UserError` for what is no such table.
    """
    check_kind(path)
    options = ", header=false" if header else ", header=true"
    try:
        relation = duckdb.connect().execute(f"SELECT * FROM read_csv(?, all_varchar=true{options})", [str(path)])
        names = [d[0] for d in relation.description or []]
        if header:
            if len(names) != len(header):
                raise UserError(f"{path} has {len(names)} columns: it takes {len(header)} ({', '.join(header)})")
            names = header
        if missing := [column for column in columns if column not in names]:
            raise UserError(f"{path} has no column {', '.join(missing)}")
        places = [names.index(column) for column in columns]
        while rows := relation.fetchmany(_AT_ONCE):
            for row in rows:
                yield dict(zip(columns, (row[p] for p in places), strict=True))
    except duckdb.Error as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None


def number(where: str, name: str, cell: Any) -> float:
    """A cell as a finite number. Raises `UserError` for one that is none."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {name} is {str(cell)!r}: it takes a number")
    return value


def seconds(where: str, name: str, cell: Any) -> float | None:
    """A time of day as seconds since 1970 (of its own zone, where it names none); None: it is empty. Raises
    `UserError` for one that is none."""
    if cell is None or str(cell).strip() in ("", "None", "nan", "NaN", "NaT"):
        return None
    try:
        time = datetime.fromisoformat(str(cell).strip())
    except ValueError:
        raise UserError(f"{where}: {name} is {str(cell)!r}: it takes a time such as 2020-06-09 18:41:01") from None
    return time.timestamp() if time.tzinfo else (time - datetime(1970, 1, 1)).total_seconds()
