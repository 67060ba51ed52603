"""What Perfetto needs of a JSON trace; `check` fails where a trace breaks one of its rules.

The rules are those of the trace event format and of Perfetto's importer: every slice is on a named track of a named
process, durations are not negative, slices of one track follow or enclose each other, an arrow has two ends that are
each inside a slice of their track and not backwards in time, and the values of a counter are in the order of time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

Event = dict[str, Any]
_KNOWN = {"X", "M", "C", "s", "f"}


@dataclass
class Read:
    """A trace that was read. tracks: slices by (process name, track name)."""

    processes: dict[int, str] = field(default_factory=dict)
    tracks: dict[tuple[str, str], list[Event]] = field(default_factory=lambda: defaultdict(list))
    flows: dict[int, dict[str, Event]] = field(default_factory=lambda: defaultdict(dict))
    counters: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))


def check(text: str) -> Read:
    """Read a trace and check all rules."""
    events: list[Event] = json.loads(text, parse_constant=pytest.fail)["traceEvents"]
    assert {event["ph"] for event in events} <= _KNOWN
    read = Read()
    threads: dict[tuple[int, int], str] = {}
    for event in events:
        if event["name"] == "process_name":
            assert event["pid"] not in read.processes
            read.processes[event["pid"]] = event["args"]["name"]
        if event["name"] == "thread_name":
            assert (event["pid"], event["tid"]) not in threads
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    assert 0 not in read.processes, "0 is the idle process"
    assert len(set(read.processes.values())) == len(read.processes)
    assert len({tid for _, tid in threads}) == len(threads), "a thread is known by its number alone"
    assert not {tid for _, tid in threads} & read.processes.keys(), "the thread of a process's number is its main one"
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] >= 0, event
            read.tracks[read.processes[event["pid"]], threads[event["pid"], event["tid"]]].append(event)
        elif event["ph"] == "C":
            ((unit, value),) = event["args"].items()
            read.counters[read.processes[event["pid"]], f"{event['name']} {unit}"].append((event["ts"], value))
        elif event["ph"] in "sf":
            assert event["ph"] not in read.flows[event["id"]], "an arrow has one start and one end"
            read.flows[event["id"]][event["ph"]] = event
            assert (event["pid"], event["tid"]) in threads
    for slices in read.tracks.values():
        _check_nesting(slices)
    by_thread = {key: read.tracks[read.processes[key[0]], name] for key, name in threads.items()}
    for ends in read.flows.values():
        assert ends.keys() == {"s", "f"}
        assert ends["s"]["ts"] <= ends["f"]["ts"]
        assert (ends["s"]["cat"], ends["s"]["name"]) == (ends["f"]["cat"], ends["f"]["name"])
        for end in ends.values():
            slices = by_thread[end["pid"], end["tid"]]
            assert any(_ns(s["ts"]) <= _ns(end["ts"]) < _ns(s["ts"]) + _ns(s["dur"]) for s in slices), end
    for values in read.counters.values():
        assert [at for at, _ in values] == sorted(at for at, _ in values)
    return read


def _check_nesting(slices: list[Event]) -> None:
    """In the order in which they are written, each slice begins inside or after what was before it."""
    around: list[int] = []
    last = None
    for one in slices:
        begin, end = _ns(one["ts"]), _ns(one["ts"]) + _ns(one["dur"])
        assert last is None or begin >= last, "slices of a track are in the order of time"
        last = begin
        while around and around[-1] <= begin:
            around.pop()
        assert not around or end <= around[-1], f"{one['name']} ends after what encloses it"
        around.append(end)


def _ns(micro: float) -> int:
    return round(micro * 1000)
