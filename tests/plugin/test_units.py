"""The plugin's parts, without Megatron."""

from __future__ import annotations

import gc
import os
import re
import sys
import types
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from plugin.row_tables import by_table
from vtrain_plugin.adapters.megatron.optimizers import optimizer_name
from vtrain_plugin.bench.collectives import default_sizes
from vtrain_plugin.bench.model_operators import ModelSizes, SizeError, operators_of
from vtrain_plugin.capture import process
from vtrain_plugin.capture.clock import CudaClock, HostClock, StepTimes
from vtrain_plugin.capture.collector import QuietCollector
from vtrain_plugin.capture.guard import Guard
from vtrain_plugin.capture.patches import Patches
from vtrain_plugin.capture.plain_steps import MOST_STEPS, StepIntervals
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Call, Recorder
from vtrain_plugin.capture.rows import rows_of_step
from vtrain_plugin.capture.settings import Settings, SettingsError
from vtrain_plugin.capture.sink import Sink
from vtrain_plugin.cli import app
from vtrain_schemas.communication_names import role_of_description
from vtrain_schemas.framework_operators import shaped_operator
from vtrain_schemas.operators import Operator


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"out": ""}, "--out"),
        ({"out": "x", "warmup": -1}, "warmup"),
        ({"out": "x", "steps": 0}, "steps"),
        ({"out": "x", "run_id": "a/b"}, "run id"),
        ({"out": "x", "max_rows": 1}, "max_rows"),
        ({"out": "x", "kernel_steps": 4}, "kernel_steps is 4: it must be 1 to 3"),
        ({"out": "x", "ranks": "0-"}, "list of ranks"),
        ({"out": "x", "ranks": "8-3"}, "list of ranks"),
        ({"out": "x", "at": "soon"}, "no moment"),
        ({"out": "x", "at": "SIGKILL"}, "no moment"),
        ({"out": "x", "at": "file:"}, "no moment"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        Settings(**options)  # type: ignore[arg-type]


def test_settings_pass_through_the_environment() -> None:
    options = {"warmup": 5, "steps": 7, "operators": False, "kernels": True, "nvtx": False, "run_id": "r"}
    settings = Settings("d", **options, ranks="0,3-5", at="SIGUSR2", kernel_steps=2)  # type: ignore[arg-type]
    assert Settings.from_environment(settings.to_environment()) == settings


@pytest.mark.parametrize("name", ["VTRAIN_STEPS", "VTRAIN_KERNELS"])
def test_malformed_environment_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({"VTRAIN_OUT": "d", name: "many"})


def test_guard_reports_once_and_switches_off(capsys: pytest.CaptureFixture[str]) -> None:
    guard, off = Guard(), []
    guard.on_error = lambda: off.append(1)

    def broken() -> None:
        raise RuntimeError("disk full")

    assert guard.run(broken) is None
    assert guard.run(lambda: 5) is None
    assert off == [1]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "disk full" in err


def test_patches_restore_functions_and_their_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, alias = types.ModuleType("megatron_owner"), types.ModuleType("megatron_alias")

    def original() -> int:
        return 1

    owner.function = alias.other_name = original  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "megatron_owner", owner)
    monkeypatch.setitem(sys.modules, "megatron_alias", alias)
    patches = Patches("megatron")
    assert patches.wrap_function(owner, "function", lambda f: lambda: f() + 1)
    assert owner.function() == 2
    assert alias.other_name() == 2
    patches.remove()
    assert owner.function is original
    assert alias.other_name is original


def test_patching_an_inherited_method_leaves_the_parent_alone() -> None:
    class Parent:
        def step(self) -> int:
            return 1

    class Child(Parent):
        pass

    patches = Patches()
    assert not patches.wrap(Child, "step", lambda f: lambda self: 2)
    assert Child().step() == 1


class _Ticks:
    """A clock that the test advances."""

    source: str = "host"

    def __init__(self) -> None:
        self.at = 0
        self.stream: int | None = None

    def now(self) -> int:
        return self.at

    def side_stream(self) -> int | None:
        return self.stream

    def start_step(self) -> None:
        pass


trees = st.recursive(st.integers(0, 50), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=20)


def _grow(recorder: Recorder, clock: _Ticks, tree: object) -> None:
    span = recorder.new_span("x", "mlp", "forward")
    recorder.open(span)
    clock.at += 3
    if isinstance(tree, list):
        for part in tree:
            _grow(recorder, clock, part)
            clock.at += 1
    else:
        assert isinstance(tree, int)
        begin = clock.now()
        clock.at += tree
        recorder.add_call(Call("all_reduce", "tp", 8, "float32", (0, 1), 0, False, span, begin, clock.now()))
    recorder.close(span)


@given(trees)
def test_self_times_and_communication_add_up_to_the_step(tree: object) -> None:
    clock = _Ticks()
    recorder = Recorder(clock, NoRanges(), 10_000)  # type: ignore[arg-type]
    recorder.start_step(0)
    _grow(recorder, clock, tree)
    rows = by_table(rows_of_step(recorder.end_step(), StepTimes(lambda mark: mark, None), "r", 0, lambda ranks: None))
    accounted = sum(s["self_ns"] for s in rows["spans"]) + sum(c["duration_ns"] for c in rows["collectives"])
    assert accounted == rows["steps"][0]["duration_ns"] == clock.at


def test_what_runs_on_a_side_stream_runs_beside_the_rest() -> None:
    """30 ns of a step of 50 ns are a span and a collective of another stream: neither is taken off the step's own."""
    clock = _Ticks()
    recorder = Recorder(clock, NoRanges(), 100)  # type: ignore[arg-type]
    recorder.start_step(0)
    clock.at += 20
    clock.stream = 7
    shared = recorder.new_span("shared_experts", "mlp", "forward")
    recorder.open(shared)
    begin = clock.now()
    clock.at += 10
    call = Call("all_gather", "tp", 8, "float32", (0, 1), 0, False, shared, begin, clock.now(), stream=7)
    recorder.add_call(call)
    clock.at += 20
    recorder.close(shared)
    clock.stream = None
    rows = by_table(rows_of_step(recorder.end_step(), StepTimes(lambda mark: mark, None), "r", 0, lambda ranks: None))
    times = {row["name"]: (row["self_ns"], row["stream"]) for row in rows["spans"]}
    assert times == {"step": (50, None), "shared_experts": (20, 7)}
    (row,) = rows["collectives"]
    assert (row["duration_ns"], row["exposed_ns"], row["stream"]) == (10, 0, 7)


def test_the_collector_is_left_as_it_was() -> None:
    before = gc.get_freeze_count()
    collector = QuietCollector()
    collector.begin()
    collector.begin()
    assert gc.get_freeze_count() > before
    collector.end()
    assert gc.get_freeze_count() == before == 0
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        collector.begin()
        collector.end()
        assert gc.get_freeze_count() == frozen, "what the process froze itself stays frozen"
    finally:
        gc.unfreeze()


def test_plain_steps_are_the_last_ones_before_a_capture() -> None:
    at = iter(range(0, 10_000, 100))
    intervals = StepIntervals(lambda: next(at))
    assert intervals.end_step(True) is None, "nothing is known of the first step"
    assert [intervals.end_step(True) for _ in range(MOST_STEPS + 2)] == [100] * (MOST_STEPS + 2)
    assert intervals.take() == [100] * MOST_STEPS
    assert intervals.end_step(False) == 100
    assert intervals.end_step(True) == 100
    assert intervals.take() == [100], "a step with hooks is not plain"


def test_rows_beyond_the_bound_are_counted() -> None:
    clock = _Ticks()
    recorder = Recorder(clock, NoRanges(), 1000)  # type: ignore[arg-type]
    recorder.start_step(0)
    for _ in range(1500):
        span = recorder.new_span("x", "mlp", "forward")
        recorder.open(span)
        recorder.close(span)
    rows = by_table(rows_of_step(recorder.end_step(), StepTimes(lambda mark: mark, None), "r", 0, lambda ranks: None))
    assert len(rows["spans"]) == 1001  # and the step itself
    assert recorder.dropped == 500


def test_sink_writes_one_file_a_table(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path), "run", 3)
    row = {"run_id": "run", "rank": 3, "step": 0, "start_ns": 1, "duration_ns": 2}
    sink.write("steps", [])
    sink.write("steps", [row, row])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["rank=00003.parquet", "run_id=run", "table=steps"]
    assert pq.read_table(tmp_path / "run_id=run/table=steps/rank=00003.parquet").num_rows == 2


def test_sink_leaves_nothing_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        Sink(str(tmp_path), "run", 0).write(
            "steps", [{"run_id": "run", "rank": 0, "step": 0, "start_ns": 1, "duration_ns": 2}]
        )
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_sink_writes_to_any_filesystem() -> None:
    import fsspec

    sink = Sink("memory://profiles", "run", 0)
    sink.write("steps", [{"run_id": "run", "rank": 0, "step": 0, "start_ns": 1, "duration_ns": 2}])
    found = fsspec.filesystem("memory").find("/profiles")
    assert found == ["/profiles/run_id=run/table=steps/rank=00000.parquet"]


def test_host_clock_gives_time_of_day() -> None:
    import time

    clock = HostClock()
    assert abs(clock.seal_step().times().at(clock.now()) - time.time_ns()) < 1e9


class _Event:
    """A CUDA event of a GPU that is at one event per millisecond. Waiting for it would hold training up."""

    made: list[_Event]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.passed = False
        self.made.append(self)

    def record(self) -> None:
        self.at_ms = float(sum(hasattr(e, "at_ms") for e in self.made))
        self.passed = False

    def query(self) -> bool:
        return self.passed

    def elapsed_time(self, end_event: _Event) -> float:
        assert self.passed
        assert end_event.passed
        return end_event.at_ms - self.at_ms


def test_cuda_clock_resolves_marks_from_the_beginning_of_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    _Event.made = []
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr("time.time_ns", lambda: 1_000)
    streams = [5]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: streams[0], raising=False)
    clock = CudaClock()
    clock.start_step()
    marks = [clock.now(), clock.now()]
    assert clock.side_stream() is None
    streams[0] = 9
    assert clock.side_stream() == 9
    sealed = clock.seal_step()
    assert not sealed.ready()
    for event in _Event.made:
        event.passed = event is not marks[0]
    assert not sealed.ready(), "a mark of another stream"
    marks[0].passed = True
    assert sealed.ready()
    resolve = sealed.times().at
    assert [resolve(mark) for mark in marks] == [1_001_000, 2_001_000]
    events = len(_Event.made)
    clock.start_step()
    assert len(_Event.made) == events, "events of a resolved step are used again"


@pytest.mark.parametrize(
    ("description", "role"),
    [
        ("TENSOR_MODEL_PARALLEL_GROUP", "tp"),
        ("DATA_PARALLEL_GROUP_WITH_CP", "dp"),
        ("EXPERT_DATA_PARALLEL_GROUP", "expert_dp"),
        ("HIERARCHICAL_EXPERT_DATA_PARALLEL_GROUP_L0", "expert_dp"),
        ("HIERARCHICAL_EXPERT_DATA_PARALLEL_GROUP_L1", "dp"),
        ("EXPERT_MODEL_PARALLEL_GROUP", "ep"),
        ("PIPELINE_MODEL_PARALLEL_GROUP", "pp"),
        ("EMBEDDING_GROUP", "embedding"),
        ("CONTEXT_PARALLEL_GROUP", "cp"),
        ("MODEL_PARALLEL_GROUP", "mp"),
        ("EXPERT_TENSOR_PARALLEL_GROUP", "expert_tp"),
        ("TENSOR_AND_CONTEXT_PARALLEL_GROUP", "tp_cp"),
        ("TENSOR_AND_DATA_PARALLEL_GROUP_WITH_CP", "tp_dp"),
        ("HYBRID_DP_CP_GROUP_4", "cp"),
        ("INTRA_PARTIAL_DATA_PARALLEL_GROUP_WITH_CP", "dp"),
        ("something else", None),
    ],
)
def test_roles_by_group_description(description: str, role: str | None) -> None:
    assert role_of_description(description) == role


@pytest.mark.parametrize(
    ("name", "dims", "shape"),
    [
        ("aten::mm", [[4, 8], [8, 6]], (4, 6, 8)),
        ("aten::addmm", [[6], [4, 8], [8, 6], [], []], (4, 6, 8)),
        ("aten::bmm", [[2, 4, 8], [2, 8, 6]], (8, 6, 8)),
        ("aten::mm", [[4, 8], [7, 6]], None),
        ("aten::add", [[4], [4]], None),
    ],
)
def test_gemms_of_framework_operators(name: str, dims: list[object], shape: tuple[int, ...] | None) -> None:
    operator = shaped_operator(name, dims, ["float"])
    assert (None if operator is None else (operator.m, operator.n, operator.k)) == shape


def test_operator_list_covers_all_sizes_once() -> None:
    model = ModelSizes(512, 8, 256, 1024)
    one = operators_of(model, [1], [1])
    several = operators_of(model, [1, 2, 4], [1, 2])
    assert len(set(several)) == len(several) > 3 * len(one)
    assert Operator("gemm", "forward", 512, 384, 512, dtype="bfloat16") in several  # QKV at tp 4, mbs 2


def test_operator_list_refuses_sizes_that_do_not_divide() -> None:
    with pytest.raises(SizeError, match="does not divide"):
        operators_of(ModelSizes(512, 8, 256, 1024), [3], [1])


def test_default_collective_sizes() -> None:
    assert default_sizes(1 << 20)[-1] == 1 << 20


def megatron_optimizer(*leaves: str, configured: str = "adam") -> types.SimpleNamespace:
    """Megatron-Core's wrappers around torch optimizers of these classes; "" for a rank that updates nothing."""
    config = types.SimpleNamespace(optimizer=configured)
    parts = [types.SimpleNamespace(config=config, optimizer=type(leaf, (), {})() if leaf else None) for leaf in leaves]
    return parts[0] if len(parts) == 1 else types.SimpleNamespace(config=config, chained_optimizers=parts)


@pytest.mark.parametrize(
    ("leaves", "configured", "name"),
    [
        (("AdamW",), "adam", "adam"),
        (("FusedAdam", "FusedAdam"), "adam", "adam"),
        (("SGD",), "sgd", "sgd"),
        # Megatron-Core's Muon says "adam" in its configuration.
        (("TensorParallelMuon", "FusedAdam"), "adam", "adam+tensorparallelmuon"),
        (("",), "sgd", "sgd"),
        (("", "FusedAdam"), "adam", "adam"),
        (("HybridDeviceOptimizer",), "sgd", "sgd"),
    ],
)
def test_optimizer_is_named_by_its_classes(leaves: tuple[str, ...], configured: str, name: str) -> None:
    assert optimizer_name(megatron_optimizer(*leaves, configured=configured)) == name


def test_version_of_the_command() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"vtrain-profile \d+\.\d+\.\S+\n", result.output)


def test_the_package_installs_no_framework() -> None:
    """A training environment's torch and Megatron-Core stay as they are."""
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in metadata.requires("vtrain") or ()}
    assert "pyarrow" in names
    assert not {name for name in names if name.startswith(("torch", "megatron", "transformer"))}


@pytest.mark.parametrize(
    ("variables", "ranks", "place"),
    [
        ({"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3", "SLURM_NTASKS_PER_NODE": "8"}, 4, 3),
        ({"SLURM_NTASKS_PER_NODE": "8", "SLURM_LOCALID": "5"}, 8, 5),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, 2, 1),
        ({}, 1, 0),
    ],
)
def test_the_place_on_the_host_is_the_launchers(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], ranks: int, place: int
) -> None:
    for name in [n for n in os.environ if n.startswith(("LOCAL_", "SLURM_", "OMPI_", "MV2_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (process.local_world_size(), process.local_rank()) == (ranks, place)
    process.nodes_of.cache_clear()
    assert process.nodes_of(tuple(range(ranks + 1))) == (2 if variables else None)
    process.nodes_of.cache_clear()
