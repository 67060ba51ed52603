"""Under torch.compile a capture changes nothing: no module is compiled again, and no graph breaks at a hook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugin.test_adapter import framework, toy_framework  # noqa: F401
from vtrain_plugin import profile
from vtrain_sim.catalog import Catalog

torch = pytest.importorskip("torch")


class Sequential(torch.nn.Module):
    """What the adapter knows by this name; torch compiles none of its own containers in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)

    def forward(self, x: Any) -> Any:
        return self.norm(self.linear(x))


class _Net(torch.nn.Module):
    """Four blocks; all but the first are compiled, each in another way."""

    def __init__(self, compiler: Any) -> None:
        super().__init__()
        self.plain, self.whole, self.in_place, self.within = (Sequential() for _ in range(4))
        self.whole = torch.compile(self.whole, backend=compiler, fullgraph=True)
        self.in_place.compile(backend=compiler, fullgraph=True)
        self.step = torch.compile(lambda x: self.within(x) + 1, backend=compiler, fullgraph=True)

    def forward(self, x: Any) -> Any:
        return self.step(self.in_place(self.whole(self.plain(x))))


def test_compiled_modules_are_not_compiled_again(
    framework: Any,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch._dynamo import reset
    from torch._dynamo.testing import CompileCounter

    reset()
    counter = CompileCounter()
    model = _Net(counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            framework.backward(framework.forward(model, torch.randn(6, 8)))
            framework.update(optimizer)

    train(2)
    compiled = counter.frame_count
    assert compiled > 1
    with profile(out=str(tmp_path), warmup=1, steps=2, nvtx=False, run_id="compiled") as session:
        train(4)
    assert session is not None
    assert not session.guard.failed
    # The function that calls a hooked module is compiled once more, since the module has hooks now; never the others.
    assert counter.frame_count <= compiled + 1
    assert "2 modules are compiled by torch.compile: nothing inside them is recorded" in capsys.readouterr().err
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path)])
    names = {row["name"] for row in catalog.sql("SELECT DISTINCT name FROM spans WHERE kind <> 'step'").to_pylist()}
    assert names == {"plain", "plain.linear", "plain.norm", "whole"}
