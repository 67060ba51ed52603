"""The incremental reader: the same events as json.load, whatever the layout, the block size or the damage."""

from __future__ import annotations

import io
import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrain_sim.errors import UserError
from vtrain_sim.ingest import json_events
from vtrain_sim.ingest.json_events import EventReader, peek_metadata

TEXT = st.text(alphabet=st.sampled_from('ab"\\{}[],: \n\té€'), max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 40), 1 << 40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "ph": st.sampled_from(["X", "i", "M", "f"]),
            "name": TEXT,
            "cat": st.sampled_from(["cpu_op", "kernel", ""]),
            "ts": st.integers(0, 1 << 50),
        },
        optional={
            "args": st.dictionaries(TEXT.filter(lambda k: k not in ("bytes", "dtype")), VALUES, max_size=3),
            "dur": st.floats(0, 1e9),
        },
    ),
    max_size=12,
)


def read(data: bytes, block: int = 1 << 20) -> tuple[list[Any], EventReader]:
    reader = EventReader(io.BytesIO(data), "trace")
    with mock.patch.object(json_events, "BLOCK", block), mock.patch.object(json_events, "_CAREFUL", 512):
        events = [event for events in reader for event in events]
    return events, reader


@settings(max_examples=200, deadline=None)
@given(
    events=EVENTS,
    block=st.integers(8, 400),
    indent=st.sampled_from([None, 1]),
    metadata=st.dictionaries(st.sampled_from(["a", "b"]), VALUES),
    after=st.booleans(),
)
def test_reads_what_json_reads(
    events: list[dict[str, Any]], block: int, indent: int | None, metadata: dict[str, Any], after: bool
) -> None:
    whole = {"traceEvents": events, **metadata} if after else {**metadata, "traceEvents": events}
    found, reader = read(json.dumps(whole, indent=indent).encode(), block)
    assert [(e.ph, e.name, e.cat, e.ts) for e in found] == [(e["ph"], e["name"], e["cat"], e["ts"]) for e in events]
    assert reader.metadata == metadata
    assert not reader.damaged
    assert not reader.truncated


@settings(max_examples=200, deadline=None)
@given(events=EVENTS.filter(len), block=st.integers(8, 400), cut=st.floats(0, 1), noise=st.binary(max_size=8))
def test_damage_costs_only_what_it_touches(events: list[dict[str, Any]], block: int, cut: float, noise: bytes) -> None:
    """Bytes overwritten anywhere in the list: everything before is read, and nothing is raised."""
    data = json.dumps({"traceEvents": events}, indent=1).encode()
    first = data.index(b"[") + 1
    at = first + int(cut * (len(data) - first))
    found, _ = read(data[:at] + noise + data[at + len(noise) :], block)
    intact = sum(
        1 for i in range(len(events)) if len(json.dumps({"traceEvents": events[: i + 1]}, indent=1).encode()) - 3 <= at
    )
    assert [e.name for e in found[:intact]] == [e["name"] for e in events[:intact]]


def test_a_cut_file_is_read_to_the_last_whole_event() -> None:
    data = json.dumps({"traceEvents": [{"ph": "X", "name": f"e{i}", "args": {"x": "}, {"}} for i in range(9)]}).encode()
    found, reader = read(data[:-40], 64)
    assert [e.name for e in found] == [f"e{i}" for i in range(8)]
    assert reader.truncated


def test_one_broken_event_is_stepped_over() -> None:
    good = '{"ph": "X", "name": "%s", "ts": 1}'
    text = (
        '{"traceEvents": ['
        + ",".join([good % "a", '{"ph": "X", "name": "bro"ken", "ts": 1}', good % "b", good % "c"])
        + "]}"
    )
    found, reader = read(text.encode(), 32)
    assert [e.name for e in found] == ["a", "b", "c"]
    assert reader.damaged == 1


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "inf", "-nan"])
def test_values_that_json_does_not_have_do_not_lose_the_event(value: str) -> None:
    text = '{"traceEvents": [{"ph": "X", "name": "a", "args": {"memory bandwidth (GB/s)": ' + value + ', "bytes": 4}}]}'
    found, reader = read(text.encode())
    assert [(e.name, e.args.bytes) for e in found] == [("a", 4)]
    assert not reader.damaged


def test_odd_types_do_not_lose_the_event() -> None:
    text = '{"traceEvents": [{"ph": "X", "name": 7, "args": [1], "cat": null}, {"ph": "X", "name": "b", "ts": "5", "pid": {}}]}'
    found, _ = read(text.encode())
    assert [e.name for e in found] == ["7", "b"]


def test_a_bare_list_of_events_is_a_trace_too() -> None:
    found, _ = read(b' [ {"ph": "X", "name": "a"} ] ')
    assert [e.name for e in found] == ["a"]


@pytest.mark.parametrize("data", [b"", b"hello", b'{"a": 1}', b"\x00" * 100, b'{"traceEvents": 5}'])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(UserError, match="is not a trace"):
        read(data)
    with pytest.raises(UserError, match="is not a trace"):
        peek_metadata(io.BytesIO(data), "trace")
