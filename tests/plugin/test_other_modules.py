"""Layers and parts of layers that vtrain has no operators for: they have spans, and their time is called "other"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import OLD_MEGATRON, Capture, run_python
from vtrain_sim.catalog import Catalog

pytestmark = pytest.mark.slow
PASSES = ("forward", "backward")
# Microbatches of the toy.
CALLS = 2


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    out = tmp_path_factory.mktemp("modules")
    run_python([str(Path(__file__).with_name("modules_script.py")), str(out)])
    catalog = Catalog(out / "c.duckdb")
    assert not catalog.add([str(out)]).problems
    return catalog


def test_every_part_has_spans(catalog: Catalog) -> None:
    rows = catalog.sql(
        "SELECT name, kind, layer_number, phase, count(*) AS n FROM spans WHERE name LIKE 'decoder.layers%' GROUP BY ALL"
    ).to_pylist()
    spans = {tuple(row.values()) for row in rows}
    layer, mamba = "decoder.layers.0", "decoder.layers.1"
    expected = {
        (layer, "transformer_layer", 1),
        (f"{layer}.self_attention", "mixer", 1),
        (f"{layer}.self_attention.linear_qkv", "linear", 1),
        (f"{layer}.mlp", "mlp", 1),
        (mamba, "mamba_layer", 2),
        (f"{mamba}.mixer", "mixer", 2),
    }
    assert {(*row, phase, CALLS) for row in expected for phase in PASSES} <= spans
    assert not any(name.startswith(f"{layer}.mlp.") for name, *_ in spans), "the layers inside a fused MLP do not run"


def test_what_no_operator_describes_is_other(catalog: Catalog) -> None:
    rows = catalog.sql(
        """
        SELECT s.name, o.kind, o.phase, o.m, o.n, o.flops, count(*) AS calls FROM operators o
        JOIN spans s USING (run_id, rank, step, span_id) WHERE s.kind IN ('mixer', 'mlp', 'mamba_layer') GROUP BY ALL
        """
    ).to_pylist()
    found = {tuple(row.values()) for row in rows}
    kinds = {
        "decoder.layers.0.self_attention": "other",
        "decoder.layers.0.mlp": "other",
        "decoder.layers.1.mixer": "other",
        "decoder.layers.1": "bias_dropout_add",
    }
    # 8 tokens, 16 wide.
    assert {row[:5] for row in found} == {(*item, phase, 8, 16) for item in kinds.items() for phase in PASSES}
    assert all(row[6] == CALLS and (row[5] in (None, 0.0)) == (row[1] == "other") for row in found)


def test_time_is_conserved(catalog: Catalog) -> None:
    (row,) = catalog.sql("SELECT * FROM step_breakdown").to_pylist()
    assert row["forward_ns"] > 0
    assert row["backward_ns"] > 0
    assert row["other_ns"] >= 0
    assert [problem.what for problem in catalog.check()] == ["1 of 2 ranks are missing: 1"], "the other one is a fake"


@pytest.mark.parametrize("old", [False, True], ids=["installed", "oldest"])
def test_layers_of_multi_token_prediction_come_after_all_others(capture: Callable[..., Capture], old: bool) -> None:
    if old and not OLD_MEGATRON.exists():
        pytest.skip("megatron-core 0.12 is not beside the environment: make test installs it")
    name, env = ("mtp-old", {"PYTHONPATH": str(OLD_MEGATRON)}) if old else ("mtp", None)
    run = capture(name, 1, "--mtp-num-layers", "1", env=env)
    rows = run.catalog.sql(
        "SELECT kind, layer_number, phase, count(*) AS n FROM spans WHERE step = 2 GROUP BY ALL"
    ).to_pylist()
    spans = {(row["kind"], row["layer_number"], row["phase"]): row["n"] for row in rows}
    microbatches = 4
    for phase in PASSES:
        layers = [number for kind, number, at in spans if kind == "transformer_layer" and at == phase]
        assert sorted(layers) == [1, 2, 3, 4, 5]
        assert spans["mtp_layer", 5, phase] == microbatches
        # The layer that predicts a second token embeds again, and has logits and a loss of its own.
        for kind in ("embedding", "output_layer", "loss"):
            assert spans[kind, None, phase] == 2 * microbatches, (kind, phase)
    for row in run.catalog.sql("SELECT * FROM step_breakdown").to_pylist():
        assert row["other_ns"] >= 0
    assert not run.catalog.check()
