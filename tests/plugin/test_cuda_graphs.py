"""Where CUDA graphs are configured no module gets a hook, and nothing is recorded into a graph."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import run_python
from vtrain_plugin.adapters.megatron.cuda_graphs import configured_graphs
from vtrain_plugin.capture import device, session
from vtrain_plugin.capture.clock import HostClock
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Recorder
from vtrain_plugin.capture.settings import Settings
from vtrain_sim.catalog import Catalog

torch = pytest.importorskip("torch")


class _Scope(Enum):
    full_iteration = 1
    attn = 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"enable_cuda_graph": False, "external_cuda_graph": False, "cuda_graph_scope": "full"}, ""),
        ({"enable_cuda_graph": True, "cuda_graph_scope": "full"}, "enable_cuda_graph = True"),
        ({"external_cuda_graph": True}, "external_cuda_graph = True"),
        ({"cuda_graph_impl": "none", "cuda_graph_scope": []}, ""),
        ({"cuda_graph_impl": "local", "cuda_graph_scope": []}, "cuda_graph_impl = local"),
        (
            {"cuda_graph_impl": "local", "cuda_graph_scope": [_Scope.full_iteration]},
            "cuda_graph_impl = local, cuda_graph_scope = full_iteration",
        ),
        (
            {"cuda_graph_impl": "transformer_engine", "cuda_graph_scope": "attn,mlp"},
            "cuda_graph_impl = transformer_engine, cuda_graph_scope = attn,mlp",
        ),
    ],
)
def test_every_way_to_ask_for_graphs(fields: dict[str, object], said: str) -> None:
    assert configured_graphs(SimpleNamespace(**fields)) == said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["layers", "iteration"])
def test_phases_are_recorded_without_a_hook(tmp_path: Path, how: str) -> None:
    done = run_python([str(Path(__file__).with_name("graphs_script.py")), str(tmp_path), how])
    assert "hooks: [] same losses: True" in done.stdout
    reports = [line for line in done.stderr.splitlines() if line.startswith("vtrain: CUDA graphs")]
    assert reports == [
        "vtrain: CUDA graphs are configured (cuda_graph_impl = local): modules get no hooks, only phases are recorded"
    ]
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path)])
    kinds = {row["kind"] for row in catalog.sql("SELECT DISTINCT kind FROM spans").to_pylist()}
    microbatches = {"forward_step", "backward_step"}
    assert {"step", "zero_grad", "optimizer"} <= kinds
    assert kinds & microbatches == (microbatches if how == "layers" else set())
    assert not kinds & {"transformer_layer", "linear", "loss"}
    (step,) = catalog.sql("SELECT num_microbatches FROM steps").to_pylist()
    assert step["num_microbatches"] == 2


def test_nothing_is_recorded_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_in_use", lambda: True)
    capturing = session.Session(Settings(out="unused"))
    capturing.recorder = Recorder(HostClock(), NoRanges(), 1000)
    capturing.recorder.start_step(0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert capturing.recording() is capturing.recorder
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert capturing.recording() is None
    assert capturing.open_span("p2p", "p2p") is None
    capturing.cancel()
