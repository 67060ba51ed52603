"""``save_trace``: timelines as a file that Perfetto opens."""

from __future__ import annotations

import gzip
from functools import reduce
from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.report.perfetto import trace_of
from vtrain_sim.report.trace import Trace, chrome_json
from vtrain_sim.results import Result
from vtrain_sim.whole_file import check_place, write_file

ENDINGS = (".json", ".json.gz")
# A larger file is more than a viewer in a browser opens at ease, bytes.
MOST_BYTES = 50_000_000


def check_trace_name(path: str | Path) -> Path:
    """Raises `UserError` for a file whose ending says no trace, or whose directory does not exist."""
    if not str(path).endswith(ENDINGS):
        raise UserError(f"{path} is no trace that can be written: it must end in {' or '.join(ENDINGS)}")
    check_place(path)
    return Path(path)


def save_trace(path: str | Path, *timelines: Result) -> None:
    """Write timelines, simulated (`vtrain.timeline`) and captured (`Catalog.timeline`), under each other.

    path: ends in .json, or .json.gz to be compressed. Raises `UserError` for another ending, for a result that is no
    timeline, and where the file would be larger than 50 MB.

    >>> import vtrain as vt
    >>> job = vt.job.from_run("vtrain.duckdb", "base")
    >>> vt.save_trace("both.json.gz", vt.timeline(job), vt.Catalog("vtrain.duckdb").timeline("base"))
    """
    if not timelines:
        raise UserError("there is no timeline to write: give one or several")
    write_trace(path, reduce(Trace.beside, map(trace_of, timelines)))


def write_trace(path: str | Path, trace: Trace, progress: Progress = unwatched) -> None:
    """Write a trace whole or not at all; see `save_trace`, and `chrome_json` for progress."""
    target = check_trace_name(path)
    data = chrome_json(trace, progress).encode()
    data = gzip.compress(data, compresslevel=6, mtime=0) if target.suffix == ".gz" else data
    if len(data) > MOST_BYTES:
        smaller = "" if target.suffix == ".gz" else f"end it in {ENDINGS[1]}, or "
        raise UserError(
            f"{path} would have {len(data) / 1e6:,.0f} MB for {trace.slices:,} slices, more than "
            f"{MOST_BYTES / 1e6:.0f}: {smaller}choose fewer stages or ranks, --microbatches, or less --detail"
        )
    write_file(target, lambda stream: stream.write(data))
