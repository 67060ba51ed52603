"""Fills in which ranks take part in calls whose traces do not say it, where the traces of all ranks are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vtrain_schemas import arrow_schema
from vtrain_schemas.layout import file_path
from vtrain_sim.ingest.collectives import nodes_of
from vtrain_sim.ingest.matching import Channel, matched
from vtrain_sim.ingest.notes import NOTED, Note, Notes
from vtrain_sim.ingest.table_file import write_pieces

INFERRED = "inferred"
_REASON = "their ranks are inferred: all ranks make the same calls in the same order, and wait for each other"
# Operations that no rank ends before all have begun; and whose payload is the same on all ranks.
_JOINT = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier")
_EVEN = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce")
_COLLECTIVE = (*_JOINT, "broadcast", "reduce", "gather", "scatter")


@dataclass(frozen=True)
class _Part:
    """The calls of a channel as rows of its rank's table, in order of time."""

    rank: int
    rows: list[int]
    channel: Channel


def infer_groups(
    place: Path, run_id: str, ranks: set[int], worlds: set[int], devices: int
) -> dict[int, tuple[Note, ...]]:
    """Infer the groups of a run's calls and write them into its tables; what there is to say of it, by rank.

    place: where the tables are. worlds: sizes of the world that the traces say; nothing is inferred unless they agree
    and `ranks` are all of it. devices: of a host; 0 if unknown.
    """
    files = {rank: place / file_path(run_id, "collectives", rank) for rank in sorted(ranks)}
    complete = worlds == {len(ranks)} and ranks == set(range(len(ranks))) and all(f.exists() for f in files.values())
    if len(ranks) < 2 or not complete:
        return {}
    said: dict[int, tuple[Note, ...]] = {}
    for rank, count in _fill_tables(files, devices).items():
        notes = Notes()
        notes.add("collectives", NOTED, _REASON, count)
        said[rank] = tuple(notes.lines())
        report, schema = place / file_path(run_id, "ingest", rank), arrow_schema("ingest")
        more = pa.Table.from_pylist(notes.rows(run_id, rank), schema=schema)
        write_pieces(report, "ingest", [pq.read_table(report, schema=schema), more])
    return said


def _fill_tables(files: Mapping[int, Path], devices: int) -> dict[int, int]:
    """Infer groups from the tables of collectives of all ranks, and write them there; how many calls of each rank."""
    schema = arrow_schema("collectives")
    rows = {rank: pq.read_table(path, schema=schema).to_pylist() for rank, path in files.items()}
    shared = set.intersection(*({r["step"] for r in of_rank if r["step"] >= 0} for of_rank in rows.values()))
    parts = [part for rank, of_rank in rows.items() for part in _parts(rank, of_rank, shared)]
    inferred: Counter[int] = Counter()
    counts: dict[int, Counter[tuple[object, ...]]] = {}
    for members in matched([part.channel for part in parts]):
        ranks = sorted(parts[member].rank for member in members)
        for part in (parts[member] for member in members):
            inferred[part.rank] += len(part.rows)
            known = counts.setdefault(part.rank, _counts(rows[part.rank]))
            _fill([rows[part.rank][row] for row in part.rows], ranks, devices, known)
    for rank in inferred:
        write_pieces(files[rank], "collectives", [pa.Table.from_pylist(rows[rank], schema=schema)])
    return dict(inferred)


def _parts(rank: int, rows: Sequence[Mapping[str, object]], shared: set[object]) -> list[_Part]:
    """The channels of a rank whose groups are not known. shared: steps that all ranks have."""
    by_key: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        if row["group_ranks"] is None and row["op"] in _COLLECTIVE and row["duration_ns"] is not None:
            by_key.setdefault(row["group_name"] or (row["device"], row["stream"]), []).append(number)
    parts = []
    for key, numbers in by_key.items():
        numbers.sort(key=lambda number: int(str(rows[number]["start_ns"])))
        compared = [rows[number] for number in numbers if rows[number]["step"] in shared]
        if compared:
            start = np.array([row["start_ns"] for row in compared], dtype=np.int64)
            duration = np.array([row["duration_ns"] for row in compared], dtype=np.int64)
            calls = tuple(
                (row["step"], row["op"], row["dtype"], row["bytes"] if row["op"] in _EVEN else None) for row in compared
            )
            name = key if isinstance(key, str) else ""
            joint = np.array([row["op"] in _JOINT for row in compared], dtype=bool)
            parts.append(_Part(rank, numbers, Channel(rank, name, calls, start, start + duration, joint)))
    return parts


def _counts(rows: Sequence[Mapping[str, object]]) -> Counter[tuple[object, ...]]:
    """How many calls of each operation and known group there are in each step."""
    ranks = ((row, row["group_ranks"]) for row in rows)
    return Counter((r["step"], r["op"], tuple(known)) for r, known in ranks if isinstance(known, list))


def _fill(
    rows: Sequence[dict[str, object]], ranks: list[int], devices: int, counts: Counter[tuple[object, ...]]
) -> None:
    """Give rows, in order of time, their group and their ordinal in it."""
    for row in rows:
        key = (row["step"], row["op"], tuple(ranks))
        row.update(group_ranks=ranks, group_source=INFERRED, nodes=nodes_of(ranks, devices), sequence=counts[key])
        counts[key] += 1
