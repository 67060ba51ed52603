"""How fast imported traces are read, and in how much memory."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.timing import in_turn
from simulator.ingest.build import Kineto, training_step
from vtrain_sim.ingest import ingest

# Processor time of json.load, and memory of a file a quarter as large, times this at most.
SLOWER_THAN_PARSING = 4
MOST_GROWTH = 1.5
# Peak memory is a process's: each measurement has one of its own.
_READ = r"""
import re, sys, time
from pathlib import Path
from vtrain_sim.ingest import ingest
begin = time.perf_counter()
ingest([sys.argv[1]], Path(sys.argv[2]))
# Of this program alone: getrusage counts the process that it was forked from, too.
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(time.perf_counter() - begin, int(peak[1]) / 1024)
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
    benchmark.pedantic(lambda: ingest([str(path)], tmp_path / "out"), setup=lambda: path.touch(), rounds=1)

    def read() -> None:
        path.touch()
        ingest([str(path)], tmp_path / "out")

    ingested_s, parsed_s = in_turn(read, lambda: json.loads(path.read_bytes()), rounds=3)
    print(
        f"\n{size:.0f} MB: {size / ingested_s:.0f} MB/s; {parsed_s / ingested_s:.2f} times the speed of json.load, "
        "which only parses"
    )
    assert ingested_s < SLOWER_THAN_PARSING * parsed_s


def test_memory(benchmark, tmp_path: Path) -> None:
    """A file four times as large takes hardly more memory: it is read in pieces."""
    peaks = []
    for megabytes in (64, 256):
        path = big(tmp_path / f"t{megabytes}.json", megabytes)
        command = [sys.executable, "-c", _READ, str(path), str(tmp_path / f"out{megabytes}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took_s, peak = (float(v) for v in done.stdout.split())
        peaks.append(peak)
        print(f"\n{megabytes} MiB: {path.stat().st_size / 1e6 / took_s:.0f} MB/s, peak {peak:.0f} MiB")
    benchmark.pedantic(lambda: None, rounds=1)
    assert peaks[1] < MOST_GROWTH * peaks[0]


def test_ranks_in_parallel(benchmark, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    for rank in range(2):
        big(tmp_path / "job" / f"rank{rank}.json", 64, rank)
    size = 2 * (tmp_path / "job" / "rank0.json").stat().st_size / 1e6
    cores = min(2, os.cpu_count() or 1)
    # Each reading starts afresh: what was read once is not read again.
    outs = itertools.count()

    def read(processes: int) -> float:
        begin = time.perf_counter()
        ingest([str(tmp_path / "job")], tmp_path / f"out{next(outs)}", processes=processes)
        return time.perf_counter() - begin

    benchmark.pedantic(lambda: read(cores), rounds=1)
    together_s, alone_s = read(cores), read(1)
    print(
        f"\n2 ranks of 64 MiB on {cores} processes: {size / together_s:.0f} MB/s, {alone_s / together_s:.1f} times the "
        "speed of one process"
    )
    # Other work may have the second core: it is not slower for it.
    assert together_s < 1.5 * alone_s
