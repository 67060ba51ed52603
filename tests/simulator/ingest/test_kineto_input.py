"""torch.profiler's traces as they come: other units and bases, gaps, damage, any value anywhere."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ingest.build import BASE_NS, MAIN, Kineto, training_step
from simulator.ingest.reading import Rows, ingest, notes
from vtrain_sim.catalog import Catalog
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.kineto import record_kineto
from vtrain_sim.ingest.kineto_values import scaled
from vtrain_sim.ingest.notes import DROPPED, NOTED
from vtrain_sim.ingest.tables import tables_of


@pytest.fixture(scope="module")
def step() -> dict[str, Rows]:
    trace = Kineto(rank=1, world=2)
    training_step(trace)
    return ingest(trace)[0]


@pytest.mark.parametrize(("scale", "base"), [(1, True), (1, False), (1000, False)])
def test_times_in_micro_and_nanoseconds_from_any_base(scale: int, base: bool) -> None:
    trace = Kineto()
    start = 0 if base else BASE_NS // 1000
    trace.event("kernel", "gemm", (start + 20) * scale, 2.5 * scale, stream=7)
    if not base:
        del trace.metadata["baseTimeNanoseconds"]
    tables, _ = ingest(trace)
    (kernel,) = tables["kernels"]
    assert (kernel["start_ns"], kernel["duration_ns"]) == (BASE_NS + 20_000, 2_500)


def test_a_base_that_is_already_in_the_times_is_left_out() -> None:
    trace = Kineto()
    trace.event("kernel", "gemm", BASE_NS // 1000 + 20, 2.5, stream=7)
    tables, _ = ingest(trace)
    assert tables["kernels"][0]["start_ns"] == BASE_NS + 20_000
    assert any("already" in reason for reason in notes(tables, NOTED))


def test_what_cannot_be_used_is_counted() -> None:
    trace = Kineto()
    trace.event("kernel", "gemm", 10, -4, stream=7)
    trace.event("kernel", "gemm", 20, 4, stream=7)
    trace.event("kernel", "gemm", 15, 3, stream=7)  # out of order
    del trace.event("kernel", "gemm", 30, 4)["dur"]
    trace.event("kernel", "a kernel of my own", 40, 4, stream=7)
    trace.event("something new", "x", 40, 4)
    trace.events.append({"ph": "B", "name": "begin", "ts": 1, "pid": 1, "tid": 1})
    trace.range("my range", 0, 50)
    trace.range("overlaps it", 40, 50)
    tables, _ = ingest(trace)
    dropped, noted = notes(tables, DROPPED), notes(tables, NOTED)
    assert dropped["with a negative duration"] == dropped["without a duration"] == 1
    assert dropped["category 'something new' has no place in the tables"] == 1
    assert dropped["phase 'B' is not one that torch.profiler writes"] == 1
    assert noted["stand out of the order of time in the file: sorted"] == 1
    assert sum("overlap" in reason for reason in noted) == 1
    example = {n["reason"]: n["example"] for n in tables["ingest"]}["have names that no rule knows: kind other"]
    assert example
    assert [k["start_ns"] - BASE_NS for k in tables["kernels"]] == [15_000, 20_000, 40_000]


def test_links_of_old_traces_without_launch_calls() -> None:
    """Only an external id: the operator's. One that repeats the correlation id is no link."""
    trace = Kineto()
    trace.op("aten::mm", 0, 20, **{"External id": 5})
    trace.event("kernel", "gemm", 10, 5, pid=0, stream=7, correlation=900, **{"External id": 5})
    trace.event("kernel", "gemm", 20, 5, pid=0, stream=7, correlation=5, **{"External id": 5})
    assert [k["operator"] for k in ingest(trace)[0]["kernels"]] == ["aten::mm", None]


def test_memory_samples_make_the_peak_of_a_step() -> None:
    trace = Kineto()
    trace.range("ProfilerStep#1", 0, 100)
    for at, total in ((10, 500), (20, 900), (30, 700)):
        trace.events.append(
            {
                "ph": "i",
                "cat": "cpu_instant_event",
                "name": "[memory]",
                "ts": at,
                "pid": 1,
                "tid": 1,
                "args": {"Device Type": 1, "Device Id": 0, "Total Allocated": total, "Total Reserved": 2000},
            }
        )
    (step,) = ingest(trace)[0]["steps"]
    assert (step["peak_allocated_bytes"], step["peak_reserved_bytes"]) == (900, 2000)


def sample(at: float, **arguments: object) -> dict[str, object]:
    """An event of the profiler's memory recording, on the thread of the host events."""
    event = {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": 1, "tid": MAIN, "ts": at}
    return {**event, "args": arguments}


def test_memory_samples_are_rows_with_what_ran_then() -> None:
    trace = Kineto()
    trace.range("ProfilerStep#1", 0, 100)
    trace.op("aten::empty", 5, 10)
    gpu = {"Device Type": 1, "Device Id": 2, "Total Reserved": 4096}
    trace.events += [
        sample(30, **gpu, Bytes=-512, **{"Total Allocated": 1024}),
        sample(10, **gpu, Bytes=512, **{"Total Allocated": 1536}),
        sample(40, **{"Device Type": 0, "Device Id": -1, "Total Reserved": 0, "Total Allocated": 8}, Bytes=-1),
        sample(200, **gpu),
        sample(50, Bytes=8),
        {**sample(0, **gpu), "ts": "when"},
    ]
    tables, _ = ingest(trace)
    (range_,) = tables["spans"]
    columns = ("step", "device_type", "device", "bytes", "allocated_bytes", "reserved_bytes", "operator", "span_id")
    assert [(m["time_ns"] - BASE_NS, *(m[name] for name in columns)) for m in tables["memory"]] == [
        (10_000, 1, "gpu", 2, 512, 1536, 4096, "aten::empty", range_["span_id"]),
        (30_000, 1, "gpu", 2, -512, 1024, 4096, None, range_["span_id"]),
        (40_000, 1, "cpu", None, -1, 8, None, None, range_["span_id"]),
        (200_000, -1, "gpu", 2, None, None, 4096, None, None),
    ]
    (step,) = tables["steps"]
    assert step["peak_allocated_bytes"] == 1536
    assert notes(tables, "dropped")["say no time or device"] == 2
    assert notes(tables, "kept")["allocations and releases of memory"] == 4


def test_steps_without_numbers_and_traces_without_steps() -> None:
    trace = Kineto()
    for at in (0, 200):
        trace.range("ProfilerStep", at, 100)
    trace.event("kernel", "gemm", 150, 5, stream=7)  # between the two
    tables, _ = ingest(trace)
    assert [s["step"] for s in tables["steps"]] == [0, 1]
    assert tables["kernels"][0]["step"] == -1
    bare = Kineto()
    bare.event("kernel", "gemm", 150, 5, stream=7)
    assert [s["step"] for s in ingest(bare)[0]["steps"]] == [0]


def test_an_empty_trace_is_a_trace() -> None:
    tables, _ = ingest('{"traceEvents": []}')
    assert [len(tables[name]) for name in ("kernels", "operators", "steps", "ranks")] == [0, 0, 0, 1]


def test_nothing_of_the_metadata_is_copied_but_what_is_named() -> None:
    """Profilers write environments, tokens included, into their files."""
    trace = Kineto()
    trace.metadata["metadata"] = {"env": {"HF_TOKEN": "secret-token"}}
    training_step(trace)
    tables, read = ingest(trace)
    assert "secret-token" not in json.dumps([tables, read.versions], default=str)


@settings(max_examples=150, deadline=None)
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_any_damage_is_a_report_or_a_sentence(at: float, noise: bytes, cut: bool) -> None:
    trace = Kineto()
    training_step(trace)
    data = trace.text(indent=1).encode()
    place = int(at * len(data))
    damaged = data[:place] if cut else data[:place] + noise + data[place + len(noise) :]
    try:
        read = record_kineto(io.BytesIO(damaged), "trace")
    except UserError as error:
        assert "is not a trace" in str(error)
        return
    tables = dict(tables_of(read, "run"))
    assert tables["ingest"].num_rows or not tables["kernels"].num_rows


def test_written_traces_are_read_back_from_disk(tmp_path: Path) -> None:
    trace = Kineto()
    training_step(trace)
    plain = trace.write(tmp_path / "t.json", indent=2)
    with plain.open("rb") as stream:
        assert len(record_kineto(stream, "t").head.device) == 6


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_in_any_field(data: st.DataObject) -> None:
    """JSON holds any value anywhere: a trace with one odd value is still read, or refused with a sentence."""
    trace = Kineto(rank=1, world=2)
    training_step(trace)
    whole: Any = {**trace.metadata, "traceEvents": trace.events}
    at: Any = whole
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(JSON)
        break
    try:
        ingest(json.dumps(whole).replace("Infinity", "1e999"))
    except UserError as error:
        assert "is not a trace" in str(error) or "which is no time" in str(error)


@pytest.mark.parametrize("spelling", [".123", ".1235", ".12", "", ".000"])
def test_fractions_of_microseconds_since_1970_are_exact(spelling: str) -> None:
    """A double of this size counts quarters of a microsecond."""
    trace = Kineto()
    del trace.metadata["baseTimeNanoseconds"]
    trace.event("kernel", "gemm", 1, 2.5, stream=7)
    trace.event("kernel", "gemm", 2, 0.001, stream=7)
    starts = [f"1700000000000{at:03d}{fraction}" for at, fraction in ((1, spelling), (2, ".999"))]
    text = trace.text().replace('"ts": 1,', f'"ts": {starts[0]},').replace('"ts": 2,', f'"ts": {starts[1]},')
    tables, _ = ingest(text)
    expected = [round(Decimal(start) * 1000) for start in starts]
    assert [k["start_ns"] for k in tables["kernels"]] == expected
    assert [k["duration_ns"] for k in tables["kernels"]] == [2_500, 1]


@given(st.lists(st.integers(-(1 << 43) * 1000 + 1, (1 << 43) * 1000 - 1), min_size=1, max_size=20), st.booleans())
@settings(max_examples=200, deadline=None)
def test_scaled_times_are_the_nanoseconds_that_are_written(times: list[int], as_text: bool) -> None:
    written = [f"{'-' if t < 0 else ''}{abs(t) // 1000}.{abs(t) % 1000:03d}" for t in times]
    found, good = scaled(written if as_text else [float(w) for w in written], 1000)
    assert good.all()
    assert found.tolist() == times


@pytest.mark.parametrize("value", ["1e400", "nan", "x.123", "", "9" * 20, 10**30, [1], True, "-", "1e19"])
def test_what_is_no_time_is_none(value: object) -> None:
    _, good = scaled([value, "1.5"], 1000)
    assert good.tolist() == [False, True]


def test_a_base_time_behind_the_events_counts_too() -> None:
    trace = Kineto()
    trace.event("kernel", "gemm", 20, 2.5, stream=7)
    del trace.metadata["baseTimeNanoseconds"]
    text = trace.text().removesuffix("}") + f', "displayTimeUnit": "ms", "baseTimeNanoseconds": {BASE_NS}}}'
    assert ingest(text)[0]["kernels"][0]["start_ns"] == BASE_NS + 20_000


@pytest.mark.parametrize("base", [-1, 1 << 62, 10**30, "yesterday", 1.5])
def test_a_base_time_that_is_no_time_is_refused(base: object) -> None:
    trace = Kineto()
    trace.event("kernel", "gemm", 20, 2.5, stream=7)
    trace.metadata["baseTimeNanoseconds"] = base
    with pytest.raises(UserError, match=r"trace counts its times from baseTimeNanoseconds .* which is no time"):
        ingest(trace)


def test_times_from_an_unknown_moment_make_no_date(tmp_path: Path) -> None:
    trace = Kineto()
    trace.event("kernel", "gemm", 20, 2.5, stream=7)
    del trace.metadata["baseTimeNanoseconds"]
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(trace.write(tmp_path / "job.json"))])
    assert catalog.sql("SELECT created_ns FROM runs").to_pylist() == [{"created_ns": None}]
    assert [r["run_id"] for r in catalog.runs()] == ["job"]
    notes = catalog.sql("SELECT subject FROM ingest WHERE reason LIKE 'does not say when it was recorded%'")
    assert notes.to_pylist() == [{"subject": "files"}]
