"""Where a profile's files lie: ``run_id=<id>/table=<name>/rank=<00000>.parquet``.

A capture that is written while it goes on adds parts, ``rank=<00000>.part000.parquet`` and so on, and merges them into
that file at its end. A file of many ranks is ``ranks=<00000>-<01023>.parquet``. Every file is whole: it is written
under a hidden name and renamed. One that holds the rows of others names them (`vtrain_schemas.merged`). An empty file
``.capture-<name>`` in a run's directory says which capture writes there, so that a second one under the same run id
does not add to it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

RUN_PREFIX = "run_id="
TABLE_PREFIX = "table="
CAPTURE_PREFIX = ".capture-"
# Folder of a run's directory that holds traces of torch.profiler, ``rank=<00000>.step=<n>.json``: not read yet.
TRACES = "kineto"
_FILE = re.compile(r"rank(?:=(\d+)|s=(\d+)-(\d+))(?:\.part(\d+))?\.parquet", re.ASCII)
# What the tables and the catalog keep a rank and a part in.
_LARGEST = 2**31 - 1
_TRACE = re.compile(r"rank=(\d+)\.step=(\d+)\.json")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class FileName(NamedTuple):
    """What the name of a table's file says.

    first_rank, last_rank: of the ranks that it has rows of, both included. part: ordinal of a part; None for a file
    without one, which may have parts beside it all the same.
    """

    first_rank: int
    last_rank: int
    part: int | None


def file_path(run_id: str, table: str, rank: int, part: int | None = None) -> str:
    """Path of the file of one rank, relative to the output directory."""
    return _path(run_id, table, f"rank={rank:05d}", part)


def ranks_path(run_id: str, table: str, first_rank: int, last_rank: int, part: int | None = None) -> str:
    """Path of a file of many ranks, relative to the output directory. last_rank: the last one that it has rows of."""
    return _path(run_id, table, f"ranks={first_rank:05d}-{last_rank:05d}", part)


def _path(run_id: str, table: str, stem: str, part: int | None) -> str:
    suffix = "" if part is None else f".part{part:03d}"
    return f"{RUN_PREFIX}{run_id}/{TABLE_PREFIX}{table}/{stem}{suffix}.parquet"


def trace_path(run_id: str, rank: int, step: int) -> str:
    """Path of the trace of one step, relative to the output directory."""
    return f"{RUN_PREFIX}{run_id}/{TRACES}/rank={rank:05d}.step={step}.json"


def parse_trace_name(name: str) -> tuple[int, int] | None:
    """``rank=00003.step=12.json`` -> ``(3, 12)``; None for a name that is not ours."""
    match = _TRACE.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def parse_file_name(name: str) -> FileName | None:
    """``rank=00003.part001.parquet`` -> ``(3, 3, 1)``, ``ranks=00000-01023.parquet`` -> ``(0, 1023, None)``.

    None for a name that is not ours.
    """
    match = _FILE.fullmatch(name)
    if not match:
        return None
    # Longer ones are not made numbers of: that takes time, and fails beyond some length.
    if any(len(digits) > len(str(_LARGEST)) for digits in match.groups("")):
        return None
    one, first, last, part = (None if digits is None else int(digits) for digits in match.groups())
    lowest, highest = (one, one) if one is not None else (first or 0, last or 0)
    if lowest > highest or max(highest, part or 0) > _LARGEST:
        return None
    return FileName(lowest, highest, part)


def check_run_id(run_id: str) -> str:
    """The run id itself, if it can be a directory name; raises ValueError otherwise."""
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(
            f"run id {run_id!r} is not usable: it takes up to 100 letters, digits, '.', '_' and '-', "
            "and begins with a letter or digit"
        )
    return run_id
