"""Traces in the JSON format of Chrome's trace events, which Perfetto (ui.perfetto.dev) opens.

Perfetto's importer knows a thread by its number alone, takes the thread of a process's number for its main one, and
0 for the idle process: processes are numbered from 1, threads go on from there. Slices are complete events, arrows a
start and a finish inside their slices, counters named by name and unit. Times are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count

from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.report.trace.parts import Process, Trace

Event = dict[str, object]


# Events from one report of progress to the next.
_REPORTED = 4096


def chrome_json(trace: Trace, progress: Progress = unwatched) -> str:
    """The trace as JSON, an event on each line. progress: is told the slices that are written, and all there are."""
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    events = ",\n".join(encode(event) for event in _watched(_events(trace), trace.slices, progress))
    return f'{{"displayTimeUnit":"ms","traceEvents":[\n{events}\n]}}\n'


def _watched(events: Iterator[Event], total: int, progress: Progress) -> Iterator[Event]:
    """The same events; those that are no slices are few."""
    for number, event in enumerate(events):
        if number % _REPORTED == 0 and total:
            done = min(number, total)
            progress(done, total, done / total)
        yield event


def _events(trace: Trace) -> Iterator[Event]:
    threads: dict[tuple[int, str], int] = {}
    tids = count(len(trace.processes) + 1)
    for number, process in enumerate(trace.processes):
        pid = number + 1
        threads |= {(number, track): next(tids) for track, _ in process.ordered()}
        yield from _names(process, number, threads)
        for track, slices in process.ordered():
            tid = threads[number, track]
            for name, begin_ns, end_ns, arguments in slices:
                times = {"ts": _micro(begin_ns), "dur": _micro(end_ns - begin_ns)}
                yield {"ph": "X", "name": name, "pid": pid, "tid": tid, **times, "args": arguments}
        for (name, unit), values in process.counters.items():
            for at_ns, value in values:
                yield {"ph": "C", "name": name, "pid": pid, "ts": _micro(at_ns), "args": {unit: value}}
    for number, flow in enumerate(trace.flows, 1):
        for phase, moment in (({"ph": "s"}, flow.begin), ({"ph": "f", "bp": "e"}, flow.end)):
            where = {"pid": moment.process + 1, "tid": threads[moment.process, moment.track]}
            yield {**phase, "name": flow.name, "cat": "pp", "id": number, **where, "ts": _micro(moment.at_ns)}


def _names(process: Process, number: int, threads: dict[tuple[int, str], int]) -> Iterator[Event]:
    pid = number + 1
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": process.name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": number}}
    for track, _ in process.ordered():
        tid = threads[number, track]
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": track}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}


def _micro(nanoseconds: int) -> float:
    # The quotient of whole numbers is printed with the three digits that it has.
    return nanoseconds / 1000
