"""Where a profile's files lie: ``run_id=<id>/table=<name>/rank=<00000>.parquet``.

A long capture adds parts, ``rank=<00000>.part001.parquet``. Every file is whole: it is written
under a hidden name and renamed. An empty file ``.capture-<name>`` in a run's directory says which capture writes there,
so that a second one under the same run id does not add to it.
"""

from __future__ import annotations

import re

RUN_PREFIX = "run_id="
TABLE_PREFIX = "table="
CAPTURE_PREFIX = ".capture-"
# Folder of a run's directory that holds traces of torch.profiler, ``rank=<00000>.step=<n>.json``: not read yet.
TRACES = "kineto"
_FILE = re.compile(r"rank=(\d+)(?:\.part(\d+))?\.parquet$")
_TRACE = re.compile(r"rank=(\d+)\.step=(\d+)\.json$")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


def file_path(run_id: str, table: str, rank: int, part: int = 0) -> str:
    """Path of one file, relative to the output directory."""
    suffix = f".part{part:03d}" if part else ""
    return f"{RUN_PREFIX}{run_id}/{TABLE_PREFIX}{table}/rank={rank:05d}{suffix}.parquet"


def trace_path(run_id: str, rank: int, step: int) -> str:
    """Path of the trace of one step, relative to the output directory."""
    return f"{RUN_PREFIX}{run_id}/{TRACES}/rank={rank:05d}.step={step}.json"


def parse_trace_name(name: str) -> tuple[int, int] | None:
    """``rank=00003.step=12.json`` -> ``(3, 12)``; None for a name that is not ours."""
    match = _TRACE.match(name)
    return (int(match[1]), int(match[2])) if match else None


def parse_file_name(name: str) -> tuple[int, int] | None:
    """``rank=00003.part001.parquet`` -> ``(3, 1)``; None for a name that is not ours."""
    match = _FILE.match(name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def check_run_id(run_id: str) -> str:
    """The run id itself, if it can be a directory name; raises ValueError otherwise."""
    if not _RUN_ID.match(run_id):
        raise ValueError(
            f"run id {run_id!r} is not usable: it takes up to 100 letters, digits, '.', '_' and '-', "
            "and begins with a letter or digit"
        )
    return run_id
