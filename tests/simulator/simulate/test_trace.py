"""Timelines as traces: what Perfetto needs of them, and that they say what the timeline says."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vtrain as vt
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError

JOB = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=16, tp=2, pp=4, sp=True, mbs=1, gbs=16)
FLAGS = [
    "--model",
    "gpt3-1.3b",
    "--cluster",
    "dgx-a100-80gb",
    "--num-gpus",
    "16",
    "--tensor-model-parallel-size",
    "2",
    "--sequence-parallel",
    "--pipeline-model-parallel-size",
    "4",
    "--micro-batch-size",
    "1",
    "--global-batch-size",
    "16",
]


def events(timeline: vt.Timeline) -> list[dict[str, Any]]:
    text = vt.render(timeline, "perfetto")
    assert isinstance(text, str)
    found: list[dict[str, Any]] = json.loads(text, parse_constant=pytest.fail)["traceEvents"]
    return found


def test_slices_of_a_track_do_not_overlap() -> None:
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events(vt.timeline(JOB)):
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(tracks) >= 3 * 4
    for slices in tracks.values():
        slices.sort()
        for (_, end), (start, _) in itertools.pairwise(slices):
            assert start >= end - 1e-3


def test_every_microbatch_crosses_every_boundary_once() -> None:
    found = events(vt.timeline(JOB, operators=False))
    microbatches = JOB.configuration.num_microbatches
    begins = {e["id"]: e for e in found if e["ph"] == "s"}
    ends = {e["id"]: e for e in found if e["ph"] == "f"}
    assert begins.keys() == ends.keys()
    assert Counter(e["pid"] for e in begins.values()) == dict.fromkeys(range(3), microbatches)
    for number, begin in begins.items():
        assert ends[number]["pid"] == begin["pid"] + 1
        assert ends[number]["ts"] >= begin["ts"]


def test_microbatches_in_flight_are_the_schedules() -> None:
    most: dict[int, int] = defaultdict(int)
    last: dict[int, int] = {}
    for event in events(vt.timeline(JOB, operators=False)):
        if event["ph"] == "C":
            last[event["pid"]] = event["args"]["microbatches"]
            most[event["pid"]] = max(most[event["pid"]], event["args"]["microbatches"])
    # 1F1B: a stage holds as many as there are stages from it to the last.
    assert most == {0: 4, 1: 3, 2: 2, 3: 1}
    assert set(last.values()) == {0}


def test_operators_carry_shape_work_and_provenance() -> None:
    spans = vt.timeline(JOB, stages=[3], microbatches=[5]).spans
    passes = [s for s in spans if s.track == "passes"]
    assert [s.name for s in passes] == ["forward", "backward"]
    gemms = [s.details() for s in spans if s.details().get("kind") == "gemm" and s.details()["phase"] == "forward"]
    # Four per layer and the output layer, on a quarter of 24 layers.
    assert len(gemms) == 4 * 6 + 1
    assert all(g["flops"] == 2 * g["m"] * g["n"] * g["k"] and g["provenance"] == "modelled" for g in gemms)
    inside = [s for s in spans if s.microbatch == 5 and s.track not in ("passes", "pp")]
    assert inside
    assert all(any(p.start_s - 1e-9 <= s.start_s and s.end_s <= p.end_s + 1e-9 for p in passes) for s in inside)


def test_the_command_writes_what_was_chosen(tmp_path: Path) -> None:
    out = tmp_path / "step.json.gz"
    result = CliRunner().invoke(
        app, ["timeline", *FLAGS, "--out", str(out), "--stages", "0,2-3", "--microbatches", "1"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(gzip.decompress(out.read_bytes()))["traceEvents"]
    assert {e["pid"] for e in found} == {0, 2, 3}
    assert {e["args"]["microbatch"] for e in found if e["ph"] == "X" and "microbatch" in e["args"]} == {1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "step.txt"], ".json"),
        (["--out", "s.json", "--stages", "4"], "stages 0 to 3"),
        (["--out", "s.json", "--microbatches", "8"], "microbatches 0 to 7"),
        (["--out", "s.json", "--stages", "one"], "ranges"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(options: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, ["timeline", *FLAGS, *options], catch_exceptions=False)


def test_other_results_have_no_timeline() -> None:
    with pytest.raises(UserError, match="timeline"):
        vt.render(vt.project(JOB), "perfetto")
