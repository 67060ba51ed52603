"""``vtrain-sim validate``: figures by hand, rows never lost, published tables where they are at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vtrain_sim.errors import UserError
from vtrain_sim.validation import Row, summarise, validate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "validation"
HEADER = (
    "id,gpu,gpus_per_node,inter_node_gbps_per_node,num_gpus,num_layers,hidden_size,ffn_hidden_size,num_attention_heads,"
    "num_query_groups,seq_length,vocab_size,swiglu,tensor_model_parallel_size,sequence_parallel,"
    "pipeline_model_parallel_size,virtual_pipeline_chunks,data_parallel_size,micro_batch_size,global_batch_size,"
    "precision,recompute_granularity,distributed_optimizer,attention_kernel,pipeline_schedule,iteration_time_s,"
    "peak_memory_gb"
)
GOOD = "a,A100-SXM4-80GB,8,1600,8,24,2048,8192,16,16,2048,50304,0,1,0,1,1,8,4,64,bf16,none,0,flash,1f1b,2.0,40"


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]))
    return path


def row(name: str, measured: float, predicted: float, group: str = "g") -> Row:
    return Row(name, measured, None, (group,), predicted, predicted * 0.9, predicted * 1.1)


def test_figures_by_hand() -> None:
    rows = [row("a", 1.0, 1.1), row("b", 2.0, 1.8), row("c", 2.02, 1.9), row("d", 4.0, 4.0, "h")]
    result = summarise("f", rows)
    assert result.mape == pytest.approx((0.1 + 0.1 + 0.12 / 2.02 + 0.0) / 4)
    assert result.bias == pytest.approx((0.1 - 0.1 - 0.12 / 2.02) / 4)
    # b and c are a tie; a is faster than both, and projected so.
    assert result.pairwise_order == 1.0
    assert result.regret == 0.0
    assert result.coverage == pytest.approx(3 / 4)  # all but b


def test_regret_of_a_wrong_choice() -> None:
    result = summarise("f", [row("a", 1.0, 2.0), row("b", 1.5, 1.4)])
    assert result.regret == pytest.approx(0.5)
    assert result.pairwise_order == 0.0


def test_rows_that_cannot_be_simulated_are_listed_with_their_reason(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv",
        GOOD,
        GOOD.replace("a,A100-SXM4-80GB", "b,TPU-v4"),
        GOOD.replace("a,A100", "c,A100").replace(",24,2048,", ",24,2050,"),
        GOOD.replace("a,A100", "d,A100").replace(",bf16,", ",fp4,"),
    )
    (result,) = validate([path])
    assert [r.id for r in result.rows] == ["a", "b", "c", "d"]
    assert result.rows[0].predicted_s is not None
    reasons = [r.reason for r in result.rows[1:]]
    assert "TPU-v4" in reasons[0]
    assert "--hidden-size" in reasons[1]
    assert "fp4" in reasons[2]


def test_command_prints_the_documented_json(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "vtrain_sim.commands.sim", "validate", str(path), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["schema"] == "vtrain.validation/1"
    assert answer["files"][0]["rows"] == 1
    assert set(answer["rows"][0]) >= {"id", "measured_s", "predicted_s", "low_s", "high_s"}


@pytest.mark.parametrize(
    ("text", "word"), [("x,y\n1,2", "no column"), (HEADER, "no column"), ("\x00\xff", "no column")]
)
def test_files_that_are_no_such_table_are_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"{word}|not a CSV table"):
        validate([path])
    with pytest.raises(UserError, match="cannot read"):
        validate([tmp_path / "none.csv"])


@pytest.mark.parametrize("name", ["a100_vtrain_multi.csv", "a100_megatron_papers.csv"])
def test_published_measurements(name: str) -> None:
    """Every row is simulated; the figures are where the first uncalibrated-network model put them or better."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not at hand")
    (result,) = validate([path])
    assert all(r.predicted_s is not None for r in result.rows)
    assert result.mape is not None
    assert result.mape < 0.12
    assert result.pairwise_order is not None
    assert result.pairwise_order > 0.9
