"""Fills in which ranks take part in calls whose traces do not say it, where the traces of all ranks are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vtrain_schemas import arrow_schema
from vtrain_schemas.layout import file_path
from vtrain_sim.ingest.collectives import nodes_of
from vtrain_sim.ingest.matching import Channel, matched
from vtrain_sim.ingest.notes import NOTED, Note, Notes
from vtrain_sim.ingest.steps import OUTSIDE
from vtrain_sim.ingest.table_file import write_tables
from vtrain_sim.ingest.trace import Interned, Ints

INFERRED = "inferred"
_REASON = "their ranks are inferred: all ranks make the same calls in the same order, and wait for each other"
# Operations that no rank ends before all have begun; and whose payload is the same on all ranks.
_JOINT = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier")
_EVEN = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce")
_COLLECTIVE = (*_JOINT, "broadcast", "reduce", "gather", "scatter")
_COLUMNS = ("step", "op", "dtype", "bytes", "start_ns", "duration_ns", "device", "stream", "group_name", "group_ranks")
# Step, operation, element type and payload of a call.
_Words: TypeAlias = tuple[int, str, str | None, int | None]


@dataclass(frozen=True)
class _Part:
    """The calls of a channel: `rows` of its rank's table, in order of time."""

    rank: int
    rows: Ints
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
        write_tables([("ingest", pq.read_table(report, schema=schema)), ("ingest", more)], {"ingest": report})
    return said


def _fill_tables(files: Mapping[int, Path], devices: int) -> dict[int, int]:
    """Infer groups from the tables of collectives of all ranks, and write them there; how many calls of each rank."""
    steps = (pq.read_table(path, columns=["step"]).column("step").unique().to_pylist() for path in files.values())
    shared = set.intersection(*map(set, steps)) - {OUTSIDE}
    words: Interned[_Words] = Interned()
    parts = [part for rank, path in files.items() for part in _parts(rank, path, shared, words)]
    groups: dict[int, list[tuple[Ints, list[int]]]] = {}
    for members in matched([part.channel for part in parts]):
        ranks = sorted(parts[member].rank for member in members)
        for part in (parts[member] for member in members):
            groups.setdefault(part.rank, []).append((part.rows, ranks))
    for rank, of_rank in groups.items():
        _fill(files[rank], of_rank, devices)
    return {rank: sum(len(rows) for rows, _ in of_rank) for rank, of_rank in groups.items()}


def _parts(rank: int, path: Path, shared: set[int], words: Interned[_Words]) -> list[_Part]:
    """The channels of a rank whose groups are not known. shared: steps that all ranks have. words: numbers of what
    calls are."""
    table = pq.read_table(path, columns=list(_COLUMNS))
    unknown = pc.and_(pc.is_null(table["group_ranks"]), pc.is_valid(table["duration_ns"]))
    places = np.flatnonzero(pc.and_(unknown, pc.is_in(table["op"], pa.array(_COLLECTIVE))).to_numpy())
    rows = table.take(pa.array(places)).to_pylist()
    by_key: dict[object, list[int]] = {}
    for number in sorted(range(len(rows)), key=lambda number: int(rows[number]["start_ns"])):
        row = rows[number]
        by_key.setdefault(row["group_name"] or (row["device"], row["stream"]), []).append(number)
    parts = []
    for key, numbers in by_key.items():
        compared = [rows[number] for number in numbers if rows[number]["step"] in shared]
        if compared:
            channel = _channel(rank, key if isinstance(key, str) else "", compared, words)
            parts.append(_Part(rank, places[numbers], channel))
    return parts


def _channel(rank: int, name: str, rows: Sequence[Mapping[str, Any]], words: Interned[_Words]) -> Channel:
    start, duration = (np.array([row[c] for row in rows], dtype=np.int64) for c in ("start_ns", "duration_ns"))
    calls = [
        words.number((row["step"], row["op"], row["dtype"], row["bytes"] if row["op"] in _EVEN else None))
        for row in rows
    ]
    joint = np.array([row["op"] in _JOINT for row in rows], dtype=bool)
    return Channel(rank, name, np.array(calls, dtype=np.int64), start, start + duration, joint)


def _fill(path: Path, groups: Sequence[tuple[Ints, list[int]]], devices: int) -> None:
    """Give rows of a rank's table, in order of time, their group and their ordinal in it."""
    schema = arrow_schema("collectives")
    rows = pq.read_table(path, schema=schema).to_pylist()
    known = (row for row in rows if row["group_ranks"] is not None)
    counts = Counter((row["step"], row["op"], tuple(row["group_ranks"])) for row in known)
    for places, ranks in groups:
        nodes = nodes_of(ranks, devices)
        for row in (rows[place] for place in places.tolist()):
            key = (row["step"], row["op"], tuple(ranks))
            row |= {"group_ranks": ranks, "group_source": INFERRED, "nodes": nodes, "sequence": counts[key]}
            counts[key] += 1
    write_tables([("collectives", pa.Table.from_pylist(rows, schema=schema))], {"collectives": path})
