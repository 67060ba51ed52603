"""How fast foreign traces are read, and in how much memory; nothing is asserted about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulator.ingest.build import Kineto, training_step
from vtrain_sim.ingest import ingest

# Peak memory is a process's: each measurement has one of its own.
_READ = """
import resource, sys, time
from pathlib import Path
from vtrain_sim.ingest import ingest
begin = time.perf_counter()
ingest([sys.argv[1]], Path(sys.argv[2]))
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def big(path: Path, megabytes: int, rank: int = 0) -> Path:
    """Steps of a layer, a collective and an optimizer, one after another, until the file is that large."""
    trace = Kineto(rank, 2)
    training_step(trace)
    # One step's events, shifted in time; ids and numbers go on.
    head = json.dumps(trace.metadata)[:-1] + ', "traceEvents": [\n'
    with path.open("w") as out:
        out.write(head)
        step = 0
        while out.tell() < megabytes << 20:
            events = []
            for event in trace.events:
                args = {
                    k: v + 100 * step if k in ("correlation", "Sequence number", "External id") else v
                    for k, v in event["args"].items()
                }
                name = f"ProfilerStep#{step}" if event["name"].startswith("ProfilerStep") else event["name"]
                events.append(
                    json.dumps({**event, "name": name, "ts": event["ts"] + 2000 * step, "args": args}, indent=2)
                )
            out.write((",\n" if step else "") + ",\n".join(events))
            step += 1
        out.write("]}")
    return path


def test_reading_a_trace(benchmark, tmp_path: Path) -> None:
    """Whole ingestion (read, link, write Parquet) against json.load alone, which only parses."""
    path = big(tmp_path / "t.json", 64)
    size = path.stat().st_size / 1e6
    begin = time.perf_counter()
    json.loads(path.read_bytes())
    parsed = time.perf_counter() - begin
    benchmark.pedantic(lambda: ingest([str(path)], tmp_path / "out"), setup=lambda: path.touch(), rounds=3)
    seconds = benchmark.stats.stats.median
    print(
        f"\n{size:.0f} MB: {size / seconds:.0f} MB/s; {parsed / seconds:.2f} times the speed of json.load, which only parses"
    )


@pytest.mark.parametrize("megabytes", [64, 256])
def test_memory(benchmark, tmp_path: Path, megabytes: int) -> None:
    path = big(tmp_path / "t.json", megabytes)
    done = benchmark.pedantic(
        lambda: subprocess.run(
            [sys.executable, "-c", _READ, str(path), str(tmp_path / "out")], capture_output=True, text=True, check=True
        ),
        rounds=1,
    )
    seconds, peak = (float(v) for v in done.stdout.split())
    print(f"\n{megabytes} MiB: {path.stat().st_size / 1e6 / seconds:.0f} MB/s, peak {peak:.0f} MiB")


def test_ranks_in_parallel(benchmark, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    for rank in range(2):
        big(tmp_path / "job" / f"rank{rank}.json", 64, rank)
    size = 2 * (tmp_path / "job" / "rank0.json").stat().st_size / 1e6
    cores = min(2, os.cpu_count() or 1)
    benchmark.pedantic(lambda: ingest([str(tmp_path / "job")], tmp_path / "out", processes=cores), rounds=1)
    seconds = benchmark.stats.stats.median
    print(
        f"\n2 ranks of 64 MiB on {cores} processes: {size / seconds:.0f} MB/s, {size / seconds / cores:.0f} MB/s a core"
    )
