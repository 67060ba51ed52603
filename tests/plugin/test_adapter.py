"""A second framework is one subclass of `Adapter` and one registration: a plain PyTorch loop as the example."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import run_python
from vtrain_plugin import adapters, profile
from vtrain_plugin.adapters import Adapter, UnknownAdapterError, registry
from vtrain_plugin.adapters.megatron.adapter import MegatronAdapter
from vtrain_plugin.adapters.megatron.groups import ROLE_OF_GLOBAL
from vtrain_plugin.capture.hooked import ModuleCall
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.tensors import dtype_name, rows_and_width
from vtrain_schemas.communication_names import _BY_DESCRIPTION, _BY_MESH
from vtrain_schemas.operators import Operator
from vtrain_schemas.words import ROLES
from vtrain_sim.catalog import Catalog

torch = pytest.importorskip("torch")


def toy_framework() -> ModuleType:
    """A framework of three functions."""
    module: Any = ModuleType("toy_framework")
    module.forward = lambda model, batch: model(batch).square().mean()
    module.backward = lambda loss: loss.backward()
    module.update = lambda optimizer: optimizer.step()
    return module


class ToyAdapter(Adapter):
    """All that a framework has to say."""

    name = "toy"
    trigger = "toy_framework"
    packages = ("toy_framework",)

    def install(self, session: Session) -> None:
        framework = sys.modules[self.trigger]
        session.patches.wrap_function(framework, "forward", lambda f: self._pass(session, f, "forward"))
        session.patches.wrap_function(framework, "backward", lambda f: self._pass(session, f, "backward"))
        session.patches.wrap_function(framework, "update", lambda f: self._update(session, f))

    def _pass(self, session: Session, original: Callable[..., Any], direction: str) -> Callable[..., Any]:
        def begin(first: Any) -> None:
            if direction == "forward":
                session.on_model(first)
                session.on_training_work()
            session.position.enter(direction, 0, 0)

        def end() -> None:
            if direction == "backward" and session.modules is not None:
                session.modules.finish_backward()
            session.position.leave()

        def run(*args: Any) -> Any:
            session.guard.run(begin, args[0])
            result = original(*args)
            session.guard.run(end)
            return result

        return run

    def _update(self, session: Session, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(optimizer: Any) -> None:
            original(optimizer)
            session.on_optimizer_end()

        return update

    def span_kind(self, path: str, module: Any, operators: bool) -> str | None:
        return {"Linear": "linear", "LayerNorm": "norm", "Sequential": "mlp"}.get(type(module).__name__)

    def operator_of(self, call: ModuleCall, output: Any) -> Operator | None:
        if call.kind != "linear" or call.tensor_in is None:
            return None
        (m, k), (_, n) = rows_and_width(call.tensor_in), rows_and_width(output)
        return Operator("gemm", "forward", m, n, k, dtype=dtype_name(output.dtype))

    def describe_run(self) -> dict[str, Any]:
        return {"hidden_size": 8}


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = toy_framework()
    monkeypatch.setitem(sys.modules, "toy_framework", module)
    adapters.register(ToyAdapter)
    yield module
    adapters.unregister("toy")


def test_a_plain_loop_is_captured(framework: Any, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    functions = dict(vars(framework))
    with profile(out=str(tmp_path), warmup=1, steps=2, nvtx=False, run_id="toy") as session:
        for _ in range(5):
            optimizer.zero_grad()
            framework.backward(framework.forward(model, torch.randn(6, 8)))
            framework.update(optimizer)
    assert session is not None
    assert not session.guard.failed
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path)]).problems
    assert catalog.show("toy")["run"]["hidden_size"] == 8
    assert len(catalog.show("toy")["steps"]) == 2
    spans = catalog.sql(
        "SELECT name, kind, phase, count(*) AS n FROM spans WHERE kind <> 'step' GROUP BY ALL"
    ).to_pylist()
    modules = {"0": "linear", "1": "norm", "2": "linear", "": "mlp"}
    expected = {(name, kind, phase, 2) for name, kind in modules.items() for phase in ("forward", "backward")}
    # The batch needs no gradient: nothing says when the backward pass of the first module ends but the pass itself.
    assert {tuple(row.values()) for row in spans} == expected
    gemms = catalog.sql("SELECT DISTINCT m, n, k, phase FROM operators WHERE kind = 'gemm'").to_pylist()
    shapes = {(6, 16, 8), (6, 4, 16)}
    assert {tuple(row.values()) for row in gemms} == {(*s, phase) for s in shapes for phase in ("forward", "backward")}
    assert vars(framework) == functions
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_registered_adapter_comes_first(framework: Any) -> None:
    assert list(adapters.known()) == ["toy", "megatron"]
    assert adapters.get("toy") is ToyAdapter
    assert adapters.get("megatron") is MegatronAdapter


def test_an_unknown_adapter_names_the_known_ones() -> None:
    with pytest.raises(UnknownAdapterError, match="known are megatron"):
        adapters.get("megatrn")


def test_entry_points_are_loaded_and_a_broken_one_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [
        importlib.metadata.EntryPoint("broken", "no_such_package:Adapter", registry.GROUP),
        importlib.metadata.EntryPoint("toy", f"{__name__}:ToyAdapter", registry.GROUP),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    registry._packaged.cache_clear()
    try:
        assert list(adapters.known()) == ["toy", "megatron"]
    finally:
        registry._packaged.cache_clear()
    assert "'broken' (no_such_package:Adapter) cannot be used" in capsys.readouterr().err


def test_arming_imports_neither_torch_nor_a_framework(tmp_path: Path) -> None:
    check = "import sys; assert not {'torch', 'megatron', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    run_python(["-c", f"import vtrain_plugin; vtrain_plugin.enable(out={str(tmp_path)!r}); {check}"])


def test_recorded_roles_are_words_of_the_vocabulary() -> None:
    recorded = {*ROLE_OF_GLOBAL.values(), *_BY_MESH.values(), *(role for _, role in _BY_DESCRIPTION)}
    assert recorded <= set(ROLES)
