"""Parts of a step that run later than usual, or not where usual: their time is where it belongs."""

from __future__ import annotations

import atexit
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import run_python
from vtrain_plugin.adapters.megatron import delayed_gradients, gradients
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.adapters.megatron.microbatches import SCHEDULES, Microbatches, Place
from vtrain_plugin.capture.clock import HostClock
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Recorder
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.settings import Settings
from vtrain_sim.catalog import Catalog

torch = pytest.importorskip("torch")
MICROBATCHES, STEPS = 2, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("delayed")
    done = run_python([str(Path(__file__).with_name("delayed_script.py")), str(out)])
    catalog = Catalog(out / "c.duckdb")
    assert not catalog.add([str(out)]).problems
    return catalog, done


Run = tuple[Catalog, "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_a_delayed_weight_gradient_is_an_operator_of_the_backward_pass(run: Run) -> None:
    catalog, done = run
    assert "same losses: True left: False False" in done.stdout
    rows = catalog.sql(
        """
        SELECT s.phase AS span, s.layer_number, s.microbatch, o.name, o.phase, o.m, o.n, o.k, o.flops, count(*) AS calls
        FROM operators o JOIN spans s USING (run_id, rank, step, span_id)
        WHERE s.name LIKE '%linear_fc1' GROUP BY ALL
        """
    ).to_pylist()
    found = {tuple(row.values()) for row in rows}
    flops = 2.0 * 8 * 64 * 16
    assert found == {
        (span, 1, microbatch, "linear_fc1", phase, 8, 64, 16, flops, STEPS)
        for microbatch in range(MICROBATCHES)
        for span, phase in (("forward", "forward"), ("backward", "dgrad"), ("backward", "wgrad"))
    }


@pytest.mark.slow
def test_an_optimizer_step_that_is_a_graph_ends_the_step(run: Run) -> None:
    catalog, done = run
    rows = catalog.sql(
        "SELECT step, s.num_microbatches, count(*) AS n FROM spans x JOIN steps s USING (run_id, rank, step) "
        "WHERE kind = 'optimizer' GROUP BY ALL ORDER BY step"
    ).to_pylist()
    assert rows == [{"step": step, "num_microbatches": MICROBATCHES, "n": 1} for step in (1, 2)]
    said = [line for line in done.stderr.splitlines() if "the optimizer step is a CUDA graph" in line]
    assert len(said) == 1
    for row in catalog.sql("SELECT * FROM step_breakdown").to_pylist():
        assert row["optimizer_ns"] > 0
        assert row["other_ns"] >= 0


def recording(monkeypatch: pytest.MonkeyPatch) -> tuple[Session, Recorder, Any]:
    """A session in the middle of a step, and a module in place of Megatron-Core's schedules."""
    schedules: Any = ModuleType(SCHEDULES)
    schedules.forward_step = schedules.backward_step = lambda *args: None
    schedules.backward_step_multimodule = lambda *args: None
    schedules.finish_embedding_wgrad_compute = lambda *args: None
    monkeypatch.setitem(sys.modules, SCHEDULES, schedules)
    session = Session(Settings(out="unused"))
    atexit.unregister(session.close)
    recorder = session.recorder = Recorder(HostClock(), NoRanges(), 1000)
    recorder.start_step(0)
    return session, recorder, schedules


def test_a_backward_pass_of_several_modules_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    session, recorder, schedules = recording(monkeypatch)
    microbatches = Microbatches(session, ModelContext())
    microbatches.install()
    outputs = {"vision": [torch.ones(2)], "language": torch.ones(3)}
    microbatches.end_forward(Place(3, 1), outputs)
    schedules.backward_step_multimodule({}, outputs, None, None, "language")
    record = recorder.record
    assert record is not None
    (span,) = record.spans
    assert (span.kind, span.phase, span.microbatch, span.chunk) == ("backward_step", "backward", 3, 1)
    session.patches.remove()


@pytest.mark.parametrize("deferred", [True, False])
def test_a_deferred_weight_gradient_of_the_output_layer(monkeypatch: pytest.MonkeyPatch, deferred: bool) -> None:
    session, recorder, schedules = recording(monkeypatch)
    delayed_gradients.install(session)
    config: Any = ModuleType("config")
    config.defer_embedding_wgrad_compute = deferred
    schedules.finish_embedding_wgrad_compute(config, None, True, None)
    record = recorder.record
    assert record is not None
    assert [(span.kind, span.phase) for span in record.spans] == [("output_layer", "backward")] * deferred
    session.patches.remove()


@pytest.mark.parametrize("method", ["_start_bucket_group_param_sync", "start_param_sync"])
def test_the_gather_of_parameters_after_the_step(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Newer optimizers call the first of them, older ones the second: the first of them that there is has a span."""
    ddp = pytest.importorskip("megatron.core.distributed").DistributedDataParallel
    monkeypatch.delattr(ddp, "_start_bucket_group_param_sync", raising=False)
    monkeypatch.setattr(ddp, method, lambda *args: None, raising=False)
    session, recorder, _ = recording(monkeypatch)
    gradients.install(session)
    getattr(ddp, method)(None)
    record = recorder.record
    assert record is not None
    assert [(span.name, span.kind) for span in record.spans] == [("start_param_sync", "param_sync")]
    session.patches.remove()
