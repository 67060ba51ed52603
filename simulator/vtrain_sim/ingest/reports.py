"""What became of the traces that were to be read."""

from __future__ import annotations

from dataclasses import dataclass, field

from vtrain_sim.ingest.notes import Note


@dataclass(frozen=True)
class RunReport:
    """What became of one run's traces. notes: over all ranks. unchanged: it had been read before.

    not_read: traces of the run that could not be.
    """

    run_id: str
    ranks: int
    notes: tuple[Note, ...]
    unchanged: bool = False
    not_read: tuple[str, ...] = ()


@dataclass
class Ingested:
    """What `ingest` did. directories: the runs' directories. notices: what was passed over."""

    directories: list[str] = field(default_factory=list)
    runs: list[RunReport] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
