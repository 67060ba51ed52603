"""Timelines as traces: what Perfetto needs of them, and that they say what the projection says."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.simulate.trace_rules import Read, check
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.report.trace import chrome_json, simulated_trace
from vtrain_sim.simulate.projection import WAITING

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
# A name that says what differs, and the changes: overlapped exchanges, interleaving, a split backward pass, both ways.
JOBS = {
    "1f1b": JOB,
    "interleaved, overlapped": JOB.with_(
        vpp=3, distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True
    ),
    "zero bubble": JOB.with_(schedule="zb-h1"),
    "v": JOB.with_(schedule="zb-v", vpp=2),
    "both ways": JOB.with_(schedule="dualpipe"),
    "recomputed": JOB.with_(recompute="full", recompute_method="uniform", recompute_num_layers=1),
}


def read(timeline: vt.Timeline) -> Read:
    text = vt.render(timeline, "perfetto")
    assert isinstance(text, str)
    return check(text)


@pytest.mark.parametrize("name", JOBS)
def test_a_trace_keeps_the_rules(name: str) -> None:
    found = read(vt.timeline(JOBS[name], detail="operators"))
    assert list(found.processes.values()) == [f"stage {stage}, simulated" for stage in range(4)]
    assert {track for _, track in found.tracks} >= {"passes", "compute", "tp", "pp", "pp send", "host"}
    assert found.flows


@pytest.mark.parametrize("name", JOBS)
def test_slices_of_the_bottleneck_stage_add_up_to_the_breakdown(name: str) -> None:
    job = JOBS[name]
    projection = vt.project(job)
    parts: dict[str, float] = defaultdict(float)
    for span in vt.timeline(job, stages=[projection.critical_stage], detail="operators").spans:
        seconds, phase = span.end_s - span.start_s, span.details().get("phase")
        if span.track == "compute" and phase is not None:
            parts[{"dgrad": "backward", "wgrad": "backward"}.get(phase, phase)] += seconds
        if span.track == "passes":
            parts["passes"] += seconds
        elif span.microbatch is None:
            parts["once per step"] += seconds
    breakdown = defaultdict(float, projection.breakdown_s)
    # What a kernel waits for its host is part of its slice.
    compute_s = breakdown["forward"] + breakdown["backward"] + breakdown["recompute"]
    shown_s = parts["forward"] + parts["backward"] + parts["recompute"]
    assert compute_s * (1 - 1e-9) <= shown_s <= (compute_s + breakdown["host launches"]) * (1 + 1e-9)
    assert parts["update"] == pytest.approx(breakdown["optimizer"] + breakdown["step overhead"])
    work_s = projection.iteration_time_s - breakdown[WAITING]
    if job.configuration.replicas.overlap_grad_reduce:
        # Exchanges run beside passes: only what shows of them is in the breakdown.
        assert parts["passes"] <= work_s <= parts["passes"] + parts["once per step"]
    else:
        assert parts["passes"] + parts["once per step"] == pytest.approx(work_s)


def test_every_microbatch_crosses_every_boundary_in_both_directions() -> None:
    found = read(vt.timeline(JOB, detail="passes"))
    microbatches = JOB.configuration.num_microbatches
    crossings = Counter((ends["s"]["name"], ends["s"]["pid"], ends["f"]["pid"]) for ends in found.flows.values())
    down = {("activations", pid, pid + 1): microbatches for pid in range(1, 4)}
    up = {("gradients", pid + 1, pid): microbatches for pid in range(1, 4)}
    assert crossings == {**down, **up}


def test_memory_and_microbatches_in_flight_are_the_projections() -> None:
    projection = vt.project(JOB)
    # Whatever is kept of the slices, the counters are of the whole step.
    found = read(vt.timeline(JOB, microbatches=[0], detail="passes"))
    for stage in projection.memory.stages:
        process = f"stage {stage.stage}, simulated"
        in_flight = [value for _, value in found.counters[process, "in flight microbatches"]]
        # 1F1B: a stage holds as many as there are stages from it to the last.
        assert (max(in_flight), in_flight[-1]) == (4 - stage.stage, 0)
        memory = [value for _, value in found.counters[process, "memory GiB"]]
        assert max(memory) * 2**30 == pytest.approx(stage.peak_bytes, rel=1e-6)
        assert min(memory) * 2**30 == pytest.approx(stage.peak_bytes - stage.activations_bytes, rel=1e-6)


def test_layers_are_numbered_as_the_models_modules() -> None:
    found = read(vt.timeline(JOB, detail="layers"))
    for stage in range(4):
        names = Counter(slice_["name"] for slice_ in found.tracks[f"stage {stage}, simulated", "passes"])
        layers = {name: count for name, count in names.items() if name.startswith("decoder.layers.")}
        # Forward and backward of each microbatch.
        assert layers == {f"decoder.layers.{number}": 16 for number in range(6 * stage, 6 * stage + 6)}
        assert names["forward_step 3"] == names["backward_step 3"] == names["step"] == 1
    assert not any(track == "host" for _, track in found.tracks)


def test_operators_carry_shape_work_and_provenance() -> None:
    spans = vt.timeline(JOB, stages=[3], microbatches=[5]).spans
    passes = [s for s in spans if s.track == "passes"]
    assert [s.name for s in passes] == ["forward", "backward"]
    computed = [s.details() for s in spans if s.track == "compute"]
    gemms = [one for one in computed if one.get("kind") == "gemm" and one["phase"] == "forward"]
    # Four per layer and the output layer, on a quarter of 24 layers.
    assert len(gemms) == 4 * 6 + 1
    assert all(g["flops"] == 2 * g["m"] * g["n"] * g["k"] and g["provenance"] == "modelled" for g in gemms)
    inside = [s for s in spans if s.microbatch == 5 and not s.track.startswith(("passes", "pp"))]
    assert inside
    assert all(any(p.start_s - 1e-9 <= s.start_s and s.end_s <= p.end_s + 1e-9 for p in passes) for s in inside)
    # Hidden states of a sequence, a half on each tensor parallel rank.
    transfers = [s.details() for s in spans if s.transfer is not None]
    assert {(t["op"], t["role"], t["bytes"]) for t in transfers} == {("p2p", "pp", 2048 * 2048 * 2 // 2)}


def test_the_finest_detail_that_a_viewer_opens_is_kept() -> None:
    whole = vt.timeline(JOB, stages=[0])
    assert whole.detail == "operators"
    layers = vt.timeline(JOB, stages=[0], most_spans=len(whole.spans) // 2)
    assert layers.detail == "layers"
    assert len(layers.spans) <= len(whole.spans) // 2
    with pytest.raises(UserError, match="--detail layers"):
        vt.timeline(JOB, stages=[0], detail="operators", most_spans=len(whole.spans) // 2)


def test_the_command_writes_what_was_chosen(tmp_path: Path) -> None:
    out = tmp_path / "step.json.gz"
    result = CliRunner().invoke(
        app, ["timeline", *FLAGS, "--out", str(out), "--stages", "0,2-3", "--microbatches", "1"]
    )
    assert result.exit_code == 0, result.output
    found = check(gzip.decompress(out.read_bytes()).decode())
    assert list(found.processes.values()) == [f"stage {stage}, simulated" for stage in (0, 2, 3)]
    microbatches = {e["args"].get("microbatch") for slices in found.tracks.values() for e in slices}
    assert microbatches == {1, None}
    assert "(operators)" in result.stdout
    result = CliRunner().invoke(app, ["timeline", *FLAGS, "--out", str(out), "--detail", "passes", "--json"])
    written = json.loads(result.stdout)
    assert written["slices"] == sum(map(len, check(gzip.decompress(out.read_bytes()).decode()).tracks.values()))
    assert (written["detail"], written["stages"], written["file"]) == ("passes", 4, str(out))


def test_progress_of_a_trace_is_told_from_its_beginning_to_its_end() -> None:
    job = vt.job("gpt3-6.7b", cluster="dgx-a100-80gb", gpus=8, pp=4, mbs=1, gbs=64)
    result = vt.timeline(job)
    told: list[tuple[int, int, float]] = []
    trace = simulated_trace(result, lambda *values: told.append(values))
    assert trace == simulated_trace(result)
    spans = len(result.spans)
    assert [done for done, _, _ in told] == list(range(0, spans, 4096))
    assert all(total == spans and share == done / spans for done, total, share in told)
    written: list[tuple[int, int, float]] = []
    assert chrome_json(trace, lambda *values: written.append(values)) == chrome_json(trace)
    assert len(written) >= len(told) > 2
    assert written == sorted(written)
    assert all(total == trace.slices and 0 <= share <= 1 for _, total, share in written)


def test_project_writes_the_timeline_too(tmp_path: Path) -> None:
    out = tmp_path / "step.json.gz"
    result = CliRunner().invoke(app, ["project", *FLAGS, "--json", "--timeline", str(out)])
    assert result.exit_code == 0, result.output
    # Standard output stays JSON.
    assert result.stdout.startswith("{")
    assert str(out) not in result.stdout
    assert len(check(gzip.decompress(out.read_bytes()).decode()).processes) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "step.txt"], ".json"),
        (["--out", "nowhere/step.json"], "no directory nowhere"),
        (["--out", "s.json", "--stages", "4"], "stages 0 to 3"),
        (["--out", "s.json", "--microbatches", "8"], "microbatches 0 to 7"),
        (["--out", "s.json", "--stages", "one"], "ranges"),
        (["--out", "s.json", "--detail", "kernels"], "passes, layers, operators"),
        (["--out", "s.json", "--beside", "base"], "--catalog"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(options: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, ["timeline", *FLAGS, *options], catch_exceptions=False)


def test_a_file_of_more_than_50_mb_is_refused_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtrain_sim.api.trace.MOST_BYTES", 10_000)
    timeline = vt.timeline(JOB, stages=[0], detail="layers")
    with pytest.raises(UserError, match=r"slices, more than 0: end it in \.json\.gz, or choose fewer"):
        vt.save_trace(tmp_path / "t.json", timeline)
    vt.save_trace(tmp_path / "t.json.gz", timeline)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json.gz"]


def test_other_results_have_no_timeline() -> None:
    with pytest.raises(UserError, match="timeline"):
        vt.render(vt.project(JOB), "perfetto")
