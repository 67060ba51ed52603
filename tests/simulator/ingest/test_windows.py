"""A trace read in windows of time gives what it gives in one piece, in memory that does not grow with it."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ingest.build import AUTOGRAD, MAIN, Kineto, training_step
from vtrain_sim.errors import UserError
from vtrain_sim.ingest import ingest, recording, spool
from vtrain_sim.ingest.kineto import record_kineto
from vtrain_sim.ingest.spool import Spool
from vtrain_sim.ingest.tables import tables_of
from vtrain_sim.ingest.trace import MEMORY, Events

Tables = dict[str, pa.Table]


def read(trace: Kineto, most: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tables, int]:
    """Tables of a trace, sorted, and in how many windows it was read."""
    monkeypatch.setattr(recording, "WINDOW", most)
    windows = 0
    pieces: defaultdict[str, list[pa.Table]] = defaultdict(list)
    recorded = record_kineto(io.BytesIO(trace.text().encode()), "trace")
    make = recorded.windows

    def counted():  # type: ignore[no-untyped-def]
        nonlocal windows
        for window in make():
            windows += 1
            yield window

    object.__setattr__(recorded, "windows", counted)
    for name, piece in tables_of(recorded, "run"):
        pieces[name].append(piece)
    return {name: in_order(pa.concat_tables(parts)) for name, parts in pieces.items()}, windows


def in_order(table: pa.Table) -> pa.Table:
    """Rows in an order of their own: lists, which Arrow does not sort, as text."""
    rows = sorted(table.to_pylist(), key=lambda row: json.dumps(row, default=str))
    return pa.Table.from_pylist(rows, schema=table.schema)


def equal(trace: Kineto, most: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Check that windows change nothing; how many there were."""
    whole, one = read(trace, 1 << 19, monkeypatch)
    cut, windows = read(trace, most, monkeypatch)
    assert one == 1
    assert set(whole) == set(cut)
    for name, table in whole.items():
        assert table.to_pylist() == cut[name].to_pylist(), name
    return windows


def steps(count: int) -> Kineto:
    """Steps inside a range around them all, with kernels that run while the next step is launched."""
    trace = Kineto(0, 2)
    trace.range("the whole training", 0, 1100 * count + 100)
    for number in range(count):
        training_step(trace, 1100.0 * number + 50, step=number)
        late = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>()"
        trace.kernel(late, 1100 * number + 870, 1100 * number + 1230, 300)
        trace.event("gpu_user_annotation", "nowhere on the host", 1100 * number + 60, 20, pid=0, tid=7)
        memory = {"Device Type": 1, "Device Id": 0, "Total Allocated": 100 + number, "Total Reserved": 1000 - number}
        event = trace.event("", "[memory]", 1100 * number + 500, 0, **memory)
        event["ph"] = "i"
    return trace


def test_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert equal(steps(12), 40, monkeypatch) >= 6


def test_windows_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long step is cut inside: its range, and the modules around, get what all windows launched."""
    trace = Kineto(0, 2)
    trace.range("ProfilerStep#3", 0, 20_000)
    trace.module("GPTModel_0", 10, 19_000)
    for number in range(20):
        trace.op("aten::mm", 100 + 900 * number, 50, [[32, 64], [64, 128]], seq=number)
        trace.kernel("ampere_bf16_s16816gemm_bf16_128x256", 110 + 900 * number, 400 + 950 * number, 300)
    for number in range(20):
        node = "autograd::engine::evaluate_function: MmBackward0"
        trace.op(node, 19_100 + 40 * number, 20, seq=19 - number, tid=AUTOGRAD)
        trace.op("aten::mm", 19_102 + 40 * number, 15, [[64, 32], [32, 128]], tid=AUTOGRAD)
        trace.kernel(
            "ampere_bf16_s16816gemm_bf16_128x256", 19_110 + 40 * number, 20_000 + 40 * number, 30, tid=AUTOGRAD
        )
    assert equal(trace, 8, monkeypatch) >= 6
    spans = {row["name"]: row for row in read(trace, 8, monkeypatch)[0]["spans"].to_pylist()}
    assert spans["nn.Module: GPTModel_0"]["busy_ns"] == 20 * 300_000
    products = read(trace, 8, monkeypatch)[0]["operators"].to_pylist()
    assert sum(row["phase"] == "wgrad" for row in products) == 20, "each finds its forward product in another window"


def test_kernels_count_where_they_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call launches a graph of kernels, which run long after: the host has few events, and they fill windows."""
    trace = Kineto(0, 1)
    for number in range(12):
        trace.range(f"ProfilerStep#{number}", 1000 * number, 900)
        trace.op("a graph", 1000 * number + 100, 50)
        trace.event("cuda_runtime", "cudaGraphLaunch", 1000 * number + 110, 20, correlation=number + 1)
        for kernel in range(30):
            at = 20_000 + 3000 * number + 100 * kernel
            trace.event("kernel", "gemm", at, 90, pid=0, tid=7, stream=7, correlation=number + 1)
    assert equal(trace, 100, monkeypatch) >= 4
    kernels = read(trace, 100, monkeypatch)[0]["kernels"].to_pylist()
    assert sorted(row["step"] for row in kernels) == sorted(list(range(12)) * 30)


def test_an_unknown_sequence_number_links_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of the backward pass without one are data gradients, whatever came before them anywhere in the trace;
    a forward product that begins later is not theirs either."""
    trace = Kineto(0, 1)
    for number in range(6):
        node = "autograd::engine::evaluate_function: MmBackward0"
        trace.op(node, 200 * number, 80, tid=AUTOGRAD)
        trace.op("aten::mm", 200 * number + 10, 40, [[64, 64], [64, 64]], tid=AUTOGRAD)
        trace.kernel("ampere_bf16_s16816gemm", 200 * number + 15, 200 * number + 30, 20, tid=AUTOGRAD)
    node = "autograd::engine::evaluate_function: MmBackward0"
    trace.op(node, 1400, 80, seq=3, tid=AUTOGRAD)
    trace.op("aten::mm", 1410, 40, [[32, 16], [16, 64]], tid=AUTOGRAD)
    trace.kernel("ampere_bf16_s16816gemm", 1415, 1430, 20, tid=AUTOGRAD)
    trace.op("aten::mm", 1600, 40, [[32, 64], [64, 16]], seq=3)
    trace.kernel("ampere_bf16_s16816gemm", 1615, 1630, 20)
    assert equal(trace, 4, monkeypatch) >= 4
    rows = read(trace, 4, monkeypatch)[0]
    phases = [r["phase"] for r in rows["operators"].to_pylist() if r["name"] == "aten::mm"]
    assert sorted(phases) == ["dgrad"] * 7 + ["forward"]
    loose = [n["count"] for n in rows["ingest"].to_pylist() if "without their forward operator" in n["reason"]]
    assert loose == [7]


NAMES = ["aten::mm", "record_param_comms", "aten::add", "nccl:all_reduce", "## forward ##", "layer", "c10d::allreduce_"]
KERNELS = ["gemm_bf16", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL()", "reduce_kernel", "an odd one"]


@st.composite
def traces(draw: st.DrawFn) -> Kineto:
    """Nested events of three threads, with launches and kernels anywhere, some without a launch or without a range."""
    trace = Kineto(0, 2)
    numbers = st.integers(0, 40)

    def block(tid: int, at: float, depth: int) -> float:
        for _ in range(draw(st.integers(0, 4 if depth < 3 else 0))):
            at += draw(st.integers(1, 60))
            place = len(trace.events)
            kind = draw(st.sampled_from(["op", "op", "range", "module"]))
            name = draw(st.sampled_from(NAMES))
            if kind == "op":
                trace.op(name, at, 0, draw(st.sampled_from([None, [[4, 8], [8, 4]]])), seq=draw(numbers), tid=tid)
            elif kind == "range":
                trace.range(f"ProfilerStep#{place}" if depth == 0 and draw(st.booleans()) else name, at, 0, tid)
            else:
                trace.module(f"TransformerLayer_{depth}", at, 0, tid)
            event = trace.events[place]
            if draw(st.booleans()):
                ran = at + draw(st.integers(1, 300))
                external = draw(st.sampled_from([{}, {"External id": draw(numbers)}]))
                trace.kernel(
                    draw(st.sampled_from(KERNELS)), at + 1, ran, draw(numbers), draw(st.sampled_from([7, 8])), tid
                )
                trace.events[-1]["args"] |= external
                if draw(st.integers(0, 3)) == 0:  # its launch is not in the trace
                    del trace.events[-2]
            at = block(tid, at + 2, depth + 1) + draw(st.integers(1, 60))
            event["dur"] = at - event["ts"]
        return at

    for tid in (MAIN, AUTOGRAD, 102):
        block(tid, draw(numbers), 0)
    return trace


@settings(max_examples=40, deadline=None)
@given(trace=traces(), most=st.integers(1, 12))
def test_windows_of_any_trace(trace: Kineto, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_IN_MEMORY", 100)
        patch.setattr("vtrain_sim.ingest.placing._PART", 3)
        assert equal(trace, most, patch) >= 1


def test_odd_times_do_not_keep_a_trace_from_being_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = steps(120)
    for ts in (-1e12, 1e12):
        trace.op("aten::add", ts, 1, tid=103)
    assert equal(trace, 400, monkeypatch) >= 6


def test_a_trace_that_is_never_free_is_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = steps(3)
    trace.op("an operator around it all", 0, 10_000, tid=103)
    assert equal(trace, 10, monkeypatch) == 1


def test_a_spool_gives_what_it_took_from_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_IN_MEMORY", 64)
    kept = Spool(MEMORY, tmp_path)
    table = np.arange(20 * len(MEMORY), dtype=np.int64).reshape(len(MEMORY), 20)
    kept.add(**dict(zip(MEMORY, table, strict=True)))
    kept.scatter(Events(dict(zip(MEMORY, table + 100, strict=True))), np.arange(20) % 3)
    assert not list(tmp_path.iterdir())
    assert kept.rows == 40
    assert kept.events(1).time.tolist() == [101, 104, 107, 110, 113, 116, 119]
    allocated, reserved = (20 * MEMORY.index(name) for name in ("allocated", "reserved"))
    both = [*range(allocated, allocated + 20), *range(allocated + 100, allocated + 120, 3)]
    assert kept.events(0).allocated.tolist() == both
    rows = [*range(reserved, reserved + 20), *range(reserved + 100, reserved + 120)]
    assert sorted(kept.events().reserved.tolist()) == rows
    assert [len(block) for block in kept.blocks(7)] == []
    kept.close()


@pytest.mark.parametrize("when", [1, 3, 20])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """When the events come in, when they are put into windows, and when these are worked on."""
    monkeypatch.setattr(recording, "WINDOW", 40)
    monkeypatch.setattr(spool, "_IN_MEMORY", 64)
    writes, write = 0, Spool._write

    def written(self: Spool, part: int, columns: list[np.ndarray]) -> None:
        nonlocal writes
        writes += 1
        if writes == when:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, part, columns)

    monkeypatch.setattr(Spool, "_write", written)
    path = steps(12).write(tmp_path / "t.json")
    with pytest.raises(UserError, match=r"cannot write .*run_id=t: No space left on device"):
        ingest([str(path)], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


_PEAK = r"""
import re, sys
from pathlib import Path
from vtrain_sim.ingest import ingest, json_events, recording, spool
recording.WINDOW, spool._IN_MEMORY, json_events.BLOCK = 5000, 1 << 19, 1 << 19
ingest([sys.argv[1]], Path(sys.argv[2]))
# Of this program alone: getrusage counts the process that it was forked from, too.
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    events = ",".join(json.dumps(event) for event in steps(1).events)
    # Time, ids and the number of the step go on.
    parts = re.split(r'(?<="ts": )([\d.]+)|(?<="correlation": )(\d+)|(?<=ProfilerStep#)0', events)
    sizes, peaks = [], []
    for count in (800, 4800):
        path = tmp_path / f"{count}.json"
        with path.open("w") as out:
            out.write(json.dumps(Kineto(0, 2).metadata)[:-1] + ', "traceEvents": [')
            for number in range(count):
                out.write("," if number else "")
                for text, ts, correlation in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
                    out.write(text)
                    out.write(
                        str(float(ts) + 1200 * number)
                        if ts
                        else str(int(correlation) + 100 * number)
                        if correlation
                        else str(number)
                    )
            out.write("]}")
        command = [sys.executable, "-c", _PEAK, str(path), str(tmp_path / f"out{count}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        sizes.append(path.stat().st_size)
        peaks.append(int(done.stdout) * 1024)
    grown, more = peaks[1] - peaks[0], sizes[1] - sizes[0]
    assert more > 20e6
    assert grown < 0.25 * more, f"{more / 1e6:.0f} MB more of trace take {grown / 1e6:.0f} MB more of memory"
