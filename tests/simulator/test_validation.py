"""``vtrain-sim validate``: figures by hand, rows never lost, published tables where they are at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from vtrain_sim.calibration import tuning
from vtrain_sim.errors import UserError
from vtrain_sim.report.terminal.validation import print_validation
from vtrain_sim.validate.figures import summarise
from vtrain_sim.validate.result import ValidationResult
from vtrain_sim.validate.rows import Row
from vtrain_sim.validate.tables import samples_of, validate

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


def test_figures_by_gpu_and_family(tmp_path: Path) -> None:
    rows = [row("a", 1.0, 1.1), row("b", 2.0, 1.8), row("c", 1.0, 1.3)]
    kinds = (("A", "dense"), ("B", "dense"), ("B", "dense"))
    result = summarise("f", [replace(r, gpu=gpu, family=family) for r, (gpu, family) in zip(rows, kinds, strict=True)])
    first, second = result.families
    assert (first.gpu, first.rows, first.mape) == ("A", 1, pytest.approx(0.1))
    assert (second.gpu, second.simulated) == ("B", 2)
    assert second.mape == pytest.approx(0.2)
    assert second.median_ape == pytest.approx(0.2)
    assert second.bias == pytest.approx(0.1)
    assert second.coverage == 0.0
    assert summarise("f", rows).families == []
    dense, mixture = GOOD, GOOD.replace("a,A100", "b,A100")
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER},num_experts,moe_router_topk\n{dense},,\n{mixture},8,2\n")
    (file,) = validate([path])
    assert [family.family for family in file.families] == ["dense", "mixture of experts"]


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


def test_columns_that_nothing_reads_are_named(tmp_path: Path) -> None:
    """A setting that a table has and the projection lacks is no silent error; an empty column is none."""
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER},rope_rank,comment,moon\n{GOOD},128,,1\n")
    (result,) = validate([path])
    assert result.unread == ("rope_rank", "moon")
    assert result.to_dict()["unread_columns"] == ["rope_rank", "moon"]
    assert validate([table(tmp_path / "u.csv", GOOD)])[0].unread == ()
    done = subprocess.run(
        [sys.executable, "-m", "vtrain_sim.commands.sim", "validate", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "t.csv: columns that are not read, as if they were not there: rope_rank, moon" in done.stdout


def test_command_prints_the_documented_json(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "vtrain_sim.commands.sim", "validate", str(path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["schema"] == "vtrain.validation/1"
    assert answer["files"][0]["rows"] == 1
    assert set(answer["rows"][0]) >= {"id", "measured_s", "predicted_s", "low_s", "high_s"}


def test_figures_alone_come_with_the_rows_that_are_furthest_off() -> None:
    rows = [row(f"row-{i:02}", 1.0, 1 + (-1) ** i * i / 100) for i in range(12)]

    def printed(rows: list[Row], shown: bool) -> str:
        out = Console(width=80)
        with out.capture() as captured:
            print_validation(ValidationResult((summarise("t.csv", rows),)), out, shown)
        return captured.get()

    lines = printed(rows, False).partition("10 rows that are furthest off")[2].splitlines()
    named = [line.split()[0] for line in lines if line.startswith("row-")]
    assert named == [f"row-{i:02}" for i in range(11, 1, -1)]
    assert "-11.0%" in lines[3]
    assert "furthest" not in printed(rows, True)
    assert "furthest" not in printed(rows[:10], False)


@pytest.mark.parametrize(("text", "word"), [("x,y\n1,2", "no column"), (HEADER, "no rows"), ("\x00\xff", "no column")])
def test_files_that_are_no_such_table_are_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"{word}|not a CSV table|it is not text"):
        validate([path])
    with pytest.raises(UserError, match="cannot read"):
        validate([tmp_path / "none.csv"])


# Largest mean absolute error, of times and of memory: a little above what the bundled coefficients reach.
LIMITS = {
    "a100_vtrain_multi.csv": (0.085, None),
    "a100_megatron_papers.csv": (0.06, None),
    "a100_zero_bubble.csv": (0.045, 0.03),
    "a100_bloom.csv": (0.055, 0.055),
    "h100_nemo.csv": (0.055, None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_published_measurements(name: str) -> None:
    """Every row is simulated, as closely as when the coefficients were made."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not at hand")
    (result,) = validate([path])
    assert all(r.predicted_s is not None for r in result.rows)
    assert all(r.fits for r in result.rows), "a published run ran"
    most, most_memory = LIMITS[name]
    assert result.mape is not None
    assert result.mape < most
    assert result.pairwise_order is not None
    assert result.pairwise_order > 0.85
    if most_memory is not None:
        assert result.memory_mape is not None
        assert result.memory_mape < most_memory


# A row with more expert parallel ranks than there are.
CONTRADICTORY = {"bridge-25.09-GB200-deepseek_v3-FP8-MX-g256-gbs2048"}


def test_published_measurements_of_the_recipes() -> None:
    """Every row is simulated as what its columns say, and fits: it ran."""
    path = SHARED / "bridge.csv"
    if not path.exists():
        pytest.skip(f"{path} is not at hand")
    (result,) = validate([path])
    rows = {row.id: row for row in result.rows}
    assert {name for name, row in rows.items() if not row.fits} <= CONTRADICTORY
    assert result.unread == ()
    assert result.pairwise_order is not None
    assert result.pairwise_order > 0.85
    for family in result.families:
        assert family.mape is not None
        assert family.mape < (0.07 if family.family == "dense" else 0.2)


def test_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = table(tmp_path / "t.csv", GOOD)
    command = [sys.executable, "-m", "vtrain_sim.commands.sim", "validate", str(path), "--plot"]
    subprocess.run([*command, str(tmp_path / "p.png")], check=True, capture_output=True)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*command, str(tmp_path / "p.gif")], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert ".png" in done.stderr


def test_rows_whose_recomputation_is_unknown_have_a_range(tmp_path: Path) -> None:
    (result,) = validate([table(tmp_path / "t.csv", GOOD, GOOD.replace("bf16,none", "bf16,unknown"))])
    known, unknown = result.rows
    assert known.full_recompute_s is None
    assert unknown.predicted_s == known.predicted_s
    assert unknown.full_recompute_s is not None
    assert unknown.predicted_s is not None
    assert unknown.full_recompute_s > 1.2 * unknown.predicted_s


def test_tuning_finds_the_machine_that_made_the_rows() -> None:
    """Coefficients moved away from the priors come back from steps that they made."""
    path = SHARED / "a100_zero_bubble.csv"
    if not path.exists():
        pytest.skip(f"{path} is not at hand")
    found = [c for c in tuning.coefficients("a100") if c.path[-1] in ("gemm", "unfused attention", "norm/backward")]
    true = [c.value * 1.1 for c in found]
    samples = samples_of(path, "a100")[::4]
    made = [replace(s, measured_s=float(t)) for s, t in zip(samples, tuning.predict(samples, found, true), strict=True)]
    tuned = tuning.tune(made, found)
    errors = [
        tuning.predict(made, found, values) / [s.measured_s for s in made] - 1
        for values in ([c.value for c in found], tuned)
    ]
    assert abs(errors[1]).mean() < 0.2 * abs(errors[0]).mean()


def test_rows_that_tuning_leaves_out_are_named_with_the_reason(tmp_path: Path) -> None:
    good = dict(zip(HEADER.split(","), GOOD.split(","), strict=True))
    wide = good | {"id": "wide", "num_gpus": "16", "tensor_model_parallel_size": "16", "data_parallel_size": "1"}
    odd = good | {"id": "odd", "precision": "int4"}
    other = good | {"id": "other", "gpu": "H100-SXM5-80GB", "inter_node_gbps_per_node": "3200"}
    path = table(tmp_path / "t.csv", *(",".join(row.values()) for row in (good, wide, odd, other)))
    lines: list[str] = []
    samples = samples_of(path, "a100", lines.append)
    assert len(samples) == 1
    assert len(lines) == 3
    assert lines[2].startswith(
        "t.csv: row other is left out: its GPU is H100-SXM5-80GB, the priors a100 are about A100-"
    )
    assert "row wide is left out: --tensor-model-parallel-size is 16, more than the 8 GPUs of a node" in lines[0]
    assert lines[1].startswith("t.csv: row odd is left out: precision is 'int4': it takes one of ")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_measured_time_is_a_positive_finite_number(tmp_path: Path, text: str) -> None:
    path = table(tmp_path / "t.csv", GOOD, GOOD.replace("a,A100", "b,A100").replace(",2.0,40", f",{text},40"))
    (result,) = validate([path])
    good, bad = result.rows
    assert good.reason == ""
    assert good.error is not None
    assert bad.reason.startswith(f"iteration_time_s is '{text}', it takes a positive number")
    assert (bad.measured_s, bad.predicted_s, bad.error) == (None, None, None)
    assert result.mape == abs(good.error)
    said: list[str] = []
    assert len(samples_of(path, "a100", said.append)) == 1
    assert "row b is left out: iteration_time_s is" in said[0]


def test_measured_memory_is_empty_or_a_positive_finite_number(tmp_path: Path) -> None:
    assert validate([table(tmp_path / "t.csv", GOOD.replace(",2.0,40", ",2.0,"))])[0].memory_mape is None
    (row,) = validate([table(tmp_path / "u.csv", GOOD.replace(",2.0,40", ",2.0,-1"))])[0].rows
    assert row.reason.startswith("peak_memory_gb is '-1', it takes a positive number")


def test_part_of_a_gpus_name_leads_to_the_whole(tmp_path: Path) -> None:
    names = [("A100", "'A100-SXM4-80GB'"), ("h100", "'H100-SXM5-80GB'"), ("b", "'A100-SXM4-80GB' or 'H100-SXM5-80GB'")]
    for part, whole in names:
        (row,) = validate([table(tmp_path / "t.csv", GOOD.replace("a,A100-SXM4-80GB", f"a,{part}"))])[0].rows
        assert f"did you mean {whole}" in row.reason


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t\.csv has no rows"):
        validate([table(tmp_path / "t.csv")])
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(UserError, match="is not a validation table: it has no column id"):
        validate([empty])


def test_rows_without_a_cluster_say_the_known_ones_once(tmp_path: Path) -> None:
    """A row that is not simulated is no reason to call documented columns unread."""
    path = tmp_path / "t.csv"
    rows = [GOOD.replace("a,A100-SXM4-80GB", f"{name},TPU-v4") for name in "ab"]
    path.write_text(f"{HEADER},num_experts,moe_router_topk,moon\n" + "\n".join(f"{one},8,2,1" for one in rows))
    (result,) = validate([path])
    assert result.unread == ("moon",)
    assert {row.reason for row in result.rows} == {"no calibrated cluster has TPU-v4 with 1600 Gb/s per node"}
    assert "B300-SXM-270GB with 6400 Gb/s per node" in result.to_dict()["known_clusters"]
    done = subprocess.run(
        [sys.executable, "-m", "vtrain_sim.commands.sim", "validate", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("B300-SXM-270GB with 6400 Gb/s per node") == 1
    assert validate([table(tmp_path / "u.csv", GOOD)])[0].known_clusters == ()
