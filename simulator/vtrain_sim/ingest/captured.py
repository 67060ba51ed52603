"""Traces that a capture with ``--kernels`` left beside its tables: their rows are added to the run that they are of.

The profiler wrote them inside training, one file per rank and step; reading them is left to whoever adds the run to a
catalog.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa

from vtrain_schemas.layout import RUN_PREFIX, TRACES, file_path, parse_trace_name
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.kineto import record_kineto
from vtrain_sim.ingest.merged_tables import replaced_in
from vtrain_sim.ingest.table_file import write_tables
from vtrain_sim.ingest.tables import tables_of
from vtrain_sim.whole_file import write_file

# Parts of a rank's tables from here on are read from traces: one per step.
_FIRST_PART = 1000
# In the order in which they are written: a trace is read again unless the last is there.
_TABLES = ("kernels", "collectives", "operators")
# `_merged`, which looks into a directory once.
_Merged = Callable[[Path], frozenset[str]]


def ingest_captured(location: str) -> list[str]:
    """Read the traces below a local directory of profiles that have not been read; what could not be read.

    Raises `UserError` where the rows cannot be written beside them.
    """
    merged = cache(_merged)
    problems = [_problem(path, merged) for path in _traces_below(location)]
    return [problem for problem in problems if problem]


def _problem(path: Path, merged: _Merged) -> str:
    """Why a trace cannot be read; "" once it is."""
    try:
        _ingest(path, merged)
    except UserError as error:
        return str(error)
    except OSError as error:
        raise UserError(f"cannot write the kernels of {path} beside it: {error.strerror or error}") from None
    return ""


def _traces_below(location: str) -> Iterator[Path]:
    if "://" in location:
        return
    place = Path(os.path.abspath(os.path.expanduser(location)))
    runs = [place] if place.name.startswith(RUN_PREFIX) else place.rglob(f"{RUN_PREFIX}*")
    for run in sorted(runs):
        yield from sorted(path for path in (run / TRACES).glob("*.json") if parse_trace_name(path.name))


def _ingest(path: Path, merged: _Merged) -> None:
    """Write the rows of one trace, unless they are there."""
    numbers = parse_trace_name(path.name)
    assert numbers is not None
    rank, step = numbers
    run = path.parent.parent
    run_id = run.name[len(RUN_PREFIX) :]
    places = {name: run.parent / file_path(run_id, name, rank, _FIRST_PART + step) for name in _TABLES}
    if _is_done(path, places, merged):
        return
    with open(path, "rb") as stream:
        trace = record_kineto(stream, str(path), rank, folder=path.parent)
    hidden = {name: place.with_name(f".{place.name}.{os.getpid()}.tmp") for name, place in places.items()}
    # On the host a call's time is that of its hook, which is there.
    wanted = [name for name in _TABLES if name != "collectives" or trace.head.on_device]
    pieces = ((name, _of_step(piece, step)) for name, piece in tables_of(trace, run_id) if name in wanted)
    try:
        rows = write_tables(pieces, hidden)
        for name in _TABLES:
            if rows[name]:
                os.replace(hidden[name], places[name])
        write_file(_note(path), lambda stream: stream.write(" ".join(name for name in _TABLES if rows[name]).encode()))
    finally:
        for file in hidden.values():
            file.unlink(missing_ok=True)


def _note(path: Path) -> Path:
    """Where it is noted which tables a trace gave."""
    return path.with_suffix(".tables")


def _is_done(path: Path, places: dict[str, Path], merged: _Merged) -> bool:
    """Whether a trace was read since it was written, and what it gave is there."""
    if any(place.name in merged(place.parent) for place in places.values()):
        # Rows cannot be taken out of a merged file, and would be there twice.
        return True
    written = path.stat().st_mtime_ns
    note, last = _note(path), places[_TABLES[-1]]
    if note.exists() and note.stat().st_mtime_ns >= written:
        return all(places[name].exists() for name in note.read_text().split() if name in places)
    # Read by a version that noted nothing.
    return last.exists() and last.stat().st_mtime_ns >= written


def _merged(folder: Path) -> frozenset[str]:
    """Names of the files of a directory whose rows merged ones hold."""
    return frozenset(file.name for file in replaced_in(folder))


def _of_step(piece: pa.Table, step: int) -> pa.Table:
    """Rows of the step that the trace is of, however late they ran; spans are those of the hooks, not the trace's."""
    columns = {name: piece.column(name) for name in piece.column_names}
    columns["step"] = pa.repeat(pa.scalar(step, piece.schema.field("step").type), piece.num_rows)
    columns["span_id"] = pa.nulls(piece.num_rows, piece.schema.field("span_id").type)
    return pa.table(columns, schema=piece.schema)
