"""Captured steps as traces: the rules of the format, that the times are those captured, and both under each other."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vtrain as vt
from conftest import Capture
from simulator.simulate.trace_rules import check
from vtrain_sim.catalog.timeline import CapturedRank, CapturedTimeline
from vtrain_sim.commands import catalog, sim
from vtrain_sim.errors import UserError
from vtrain_sim.report.trace import captured_trace, chrome_json

SHARED = Path(__file__).resolve().parents[3] / "shared" / "traces"
PP2 = ("pp2", 2, "--pipeline-model-parallel-size", "2")


def span(number: int, parent: int | None, name: str, kind: str, begin: int, end: int, **others: Any) -> dict[str, Any]:
    return {
        "span_id": number,
        "parent_id": parent,
        "name": name,
        "kind": kind,
        "phase": "forward",
        "layer_number": None,
        "microbatch": None,
        "chunk": None,
        "start_ns": begin,
        "duration_ns": end - begin,
        "self_ns": 0,
        "host_start_ns": None,
        "host_duration_ns": None,
        "stream": None,
        **others,
    }


def call(op: str, begin: int, duration: int | None, ranks: list[int], **others: Any) -> dict[str, Any]:
    return {
        "op": op,
        "role": "pp",
        "bytes": 8,
        "dtype": "bfloat16",
        "group_ranks": ranks,
        "sequence": 0,
        "is_async": duration is None,
        "start_ns": begin,
        "duration_ns": duration,
        "exposed_ns": 10,
        "stream": None,
        "span_id": 1,
        **others,
    }


def rank(number: int, spans: list[dict[str, Any]], calls: list[dict[str, Any]]) -> CapturedRank:
    return CapturedRank(number, number, "host", 1000, 1000, 2**30, tuple(spans), (), tuple(calls), ())


def test_marks_of_one_moment_that_are_apart_do_not_break_the_nesting() -> None:
    spans = [
        span(1, None, "step", "step", 1000, 2000),
        span(2, 1, "decoder.layers.1", "transformer_layer", 1101, 1500),
        # The child begins before, and ends after, what encloses it; the next layer begins before it ends.
        span(3, 2, "decoder.layers.1.mlp", "mlp", 1100, 1502),
        span(4, 1, "decoder.layers.0", "transformer_layer", 1498, 1900),
        # A weight gradient that runs beside the others is on a lane of its own.
        span(5, 1, "decoder.layers.9", "transformer_layer", 1600, 1950),
    ]
    found = check(chrome_json(captured_trace(CapturedTimeline("r", "plugin", 3, (rank(0, spans, []),)))))
    process = "stage 0, captured r, rank 0"
    passes = {one["name"]: (one["ts"], one["ts"] + one["dur"]) for one in found.tracks[process, "passes"]}
    assert passes["decoder.layers.1"] == pytest.approx((0.101, 0.5), abs=0.003)
    assert passes["decoder.layers.0"] == pytest.approx((0.498, 0.9), abs=0.003)
    assert [one["name"] for one in found.tracks[process, "passes 2"]] == ["decoder.layers.9"]
    (mlp,) = found.tracks[process, "compute"]
    assert (mlp["name"], mlp["ts"]) == ("mlp", 0.101)


def test_sends_lead_to_the_receipts_of_the_same_message() -> None:
    step = [span(1, None, "step", "step", 1000, 2000)]
    # The receipt was posted before the message was sent; its number says which one it is.
    sender = rank(0, step, [call("send", 1300, 100, [0, 1]), call("send", 1500, 100, [0, 1], sequence=1)])
    receiver = rank(1, step, [call("recv", 1100, 350, [0, 1]), call("all_reduce", 1500, 50, [1], role="tp")])
    found = check(chrome_json(captured_trace(CapturedTimeline("r", "plugin", 3, (sender, receiver)))))
    (ends,) = found.flows.values()
    assert (ends["s"]["ts"], ends["f"]["ts"], ends["s"]["name"]) == (0.3, 0.3, "activations")
    # A group of one rank communicates nothing.
    assert not any(track == "tp" for _, track in found.tracks)


@pytest.mark.slow
def test_a_captured_step_is_a_trace(capture: Callable[..., Capture], tmp_path: Path) -> None:
    run = capture(*PP2)
    out = tmp_path / "captured.json"
    result = CliRunner().invoke(
        catalog.app, ["timeline", run.run_id, "--catalog", str(run.catalog.path), "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    found = check(out.read_text())
    written = json.loads(result.stdout)
    assert (written["slices"], written["ranks"]) == (sum(map(len, found.tracks.values())), 2)
    assert list(found.processes.values()) == [f"stage {s}, captured {run.run_id}, rank {s}" for s in range(2)]
    steps = run.catalog.sql("SELECT rank, step, duration_ns FROM steps ORDER BY duration_ns").to_pylist()
    for stage in range(2):
        process = f"stage {stage}, captured {run.run_id}, rank {stage}"
        passes = Counter(one["name"] for one in found.tracks[process, "passes"])
        assert {name: passes[name] for name in ("step", "forward_step 0", "backward_step 3")} == dict.fromkeys(
            ("step", "forward_step 0", "backward_step 3"), 1
        )
        assert passes[f"decoder.layers.{2 * stage}"] == 8
        (step,) = (one for one in found.tracks[process, "passes"] if one["name"] == "step")
        assert round(step["dur"] * 1000) in [row["duration_ns"] for row in steps if row["rank"] == stage]
        fc1 = next(one for one in found.tracks[process, "compute"] if one["name"] == "linear_fc1")
        assert (fc1["args"]["operator"], fc1["args"]["m"], fc1["args"]["n"], fc1["args"]["k"]) == ("gemm", 32, 256, 64)
        assert fc1["args"]["flops"] == 2 * 32 * 256 * 64
        assert max(value for _, value in found.counters[process, "in flight microbatches"]) == 2 - stage
    # Four microbatches cross the boundary in each direction.
    assert Counter(ends["s"]["name"] for ends in found.flows.values()) == {"activations": 4, "gradients": 4}


@pytest.mark.slow
def test_simulated_and_captured_lie_under_each_other(capture: Callable[..., Capture], tmp_path: Path) -> None:
    run = capture(*PP2)
    out = tmp_path / "both.json.gz"
    options = ["--catalog", str(run.catalog.path), "--beside", run.run_id, "--out", str(out), "--microbatches", "0-1"]
    flags = ["--cluster", "dgx-a100-80gb", "--num-layers", "4", "--hidden-size", "64", "--num-attention-heads", "4"]
    flags += ["--seq-length", "32", "--vocab-size", "128", "--micro-batch-size", "1", "--global-batch-size", "4"]
    flags += ["--pipeline-model-parallel-size", "2"]
    result = CliRunner().invoke(sim.app, ["timeline", *options, *flags])
    assert result.exit_code == 0, result.output
    found = check(gzip.decompress(out.read_bytes()).decode())
    captured = [f"stage {stage}, captured {run.run_id}, rank {stage}" for stage in range(2)]
    assert list(found.processes.values()) == ["stage 0, simulated", captured[0], "stage 1, simulated", captured[1]]
    for stage, other in enumerate(captured):
        one = f"stage {stage}, simulated"
        for track, least in (("passes", 7), ("compute", 7), ("pp", 1), ("pp send", 1)):
            names = [{slice_["name"] for slice_ in found.tracks[process, track]} for process in (one, other)]
            assert len(names[0] & names[1]) >= least, (track, names)


@pytest.mark.slow
def test_what_was_not_captured_is_a_sentence(capture: Callable[..., Capture]) -> None:
    run = capture(*PP2)
    runs = vt.Catalog(run.catalog.path)
    with pytest.raises(UserError, match="rank 7 of run 'pp2' was not captured: the catalog has 0, 1"):
        runs.timeline(run.run_id, ranks=[7])
    with pytest.raises(UserError, match="step 99"):
        runs.timeline(run.run_id, step=99)
    with pytest.raises(UserError, match="no run 'pp3'"):
        runs.timeline("pp3")
    with pytest.raises(UserError, match="no captured rank"):
        runs.timeline(run.run_id).of_stages([5])


@pytest.mark.parametrize(
    "name",
    [
        "rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz",
        "with_gpu_user_annotation_step_based_trace_2543932.json.gz",
        "nsys-tui_mock.sqlite",
    ],
)
def test_imported_traces_are_traces_again(name: str, tmp_path: Path) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not there")
    runs = vt.Catalog(tmp_path / "c.duckdb")
    runs.add(SHARED / name, run_id="imported")
    found = check(chrome_json(captured_trace(runs.timeline("imported"))))
    kernels = [one for (_, track), slices in found.tracks.items() if track.startswith("kernels") for one in slices]
    assert kernels
    assert all(one["ts"] > -1e6 for one in kernels)
