"""What the verbs that change a catalog did, and what is known of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from vtrain_sim.catalog.problems import Problem
from vtrain_sim.ingest import RunReport
from vtrain_sim.results import Row


@dataclass(frozen=True)
class AddReport:
    """What `Catalog.add` did. many_files: runs on a local disk that are of so many files that merging them pays."""

    runs: tuple[str, ...]
    files_added: int
    files_unchanged: int
    rows_added: int
    problems: tuple[Problem, ...]
    # Imported traces: what became of each run, and the files that were passed over.
    ingested: tuple[RunReport, ...] = ()
    notices: tuple[str, ...] = ()
    many_files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RepairReport:
    """What `Catalog.repair` did. runs_removed: those of which no file was left."""

    runs_removed: tuple[str, ...]
    files_removed: int
    files_updated: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class CompactReport:
    """What `Catalog.compact` did to a run: its files and their bytes, before and after."""

    run_id: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


class Detail(TypedDict):
    """Everything about one run. run: its row, None where rank 0 wrote nothing. gpu: breakdown per rank."""

    run: Row | None
    tables: list[Row]
    ranks: list[Row]
    steps: list[Row]
    gpu: list[Row]
    notes: list[Row]
    problems: list[Problem]
