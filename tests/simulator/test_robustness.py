"""What was tried once and went wrong: tracebacks, searches without end, and numbers that nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vtrain as vt
from simulator.api.workplace import furnish
from vtrain_sim.commands import sim
from vtrain_sim.decide.search.bounds import Bounds, gpu_counts
from vtrain_sim.decide.search.space import Space, configurations
from vtrain_sim.decide.study import read_study, run_study
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.specs import SpecError, TrainSpec

STEP = "--cluster dgx-a100-80gb --model gpt3-1.3b --micro-batch-size 1 --global-batch-size 8"
SEARCH = "--cluster dgx-a100-80gb --model gpt3-1.3b --global-batch-size 8"
FLEET = "--cluster dgx-a100-80gb --num-gpus 8 --jobs 2 --models gpt3-1.3b"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"project {STEP} --pipeline-model-parallel-layout Et*3|t*3L", "--pipeline-model-parallel-layout has 2 stages"),
        (f"plan {SEARCH} --num-gpus 8 --pipeline-model-parallel-size 0", "--pipeline-model-parallel-size is 0"),
        (f"plan {SEARCH} --num-gpus 8 --context-parallel-size 0", "--context-parallel-size is 0"),
        (f"plan {SEARCH} --num-gpus 8 --expert-model-parallel-size -1", "--expert-model-parallel-size is -1"),
        (f"plan {SEARCH} --num-gpus 8 --micro-batch-size 0", "--micro-batch-size is 0"),
        (f"plan {SEARCH} --num-gpus 8 --max-gpus 16", "--num-gpus and --max-gpus say two different things"),
        (f"plan {SEARCH} --max-gpus inf", "--max-gpus is 'inf': it takes a whole number"),
        (f"plan {SEARCH} --num-gpus 8 --train-tokens 1e9 --price-per-gpu-hour -1", "--price-per-gpu-hour is -1.0"),
        (f"schedule {FLEET} --seeds -1", "--seeds is -1: it must be 0 or more"),
        (f"schedule {FLEET} --mean-hours 1e6", "--mean-hours is 1000000.0"),
        (f"project {STEP} --train-tokens 1e9 --price-per-gpu-hour -1", "--price-per-gpu-hour is -1.0"),
        (f"project {STEP} --bf16 --fp16", "--bf16 and --fp16 contradict each other"),
        (f"project {STEP} --hidden-dropout nan", "--hidden-dropout is nan"),
        (f"project {STEP} --num-experts 8 --moe-router-topk 2 --moe-ffn-hidden-size -8", "--moe-ffn-hidden-size is -8"),
    ],
)
def test_what_cannot_be_is_refused(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        sim.main(line.split())
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_a_model_hub_file_with_a_negative_size_is_refused(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 4,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": -8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--moe-ffn-hidden-size is -8"):
        vt.job(str(tmp_path / "config.json"), cluster="dgx-h100", gpus=8, mbs=1, gbs=8)


def test_tokens_of_a_spec_file_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text("train_tokens: 2e9\nprice_per_gpu_hour: 3\n")
    with pytest.raises(SystemExit):
        sim.main(f"project {STEP} --spec {tmp_path / 'job.yaml'} --json".split())
    assert json.loads(capsys.readouterr().out)["train_tokens"] == 2e9


def test_a_cluster_on_which_no_job_ends_has_no_makespan() -> None:
    result = vt.schedule(cluster="dgx-a100-80gb", num_gpus=1, jobs=2, models="gpt3-2.7b", policies="elasticflow")
    (row,) = result.rows()
    assert (row["finished"], row["makespan_s"], row["gpu_utilisation"]) == (0, 0, 0)


def test_jobs_of_years_end() -> None:
    """At times that a double tells apart by microseconds only, what is left of a job may be less than that."""
    result = vt.schedule(
        cluster="dgx-a100-80gb",
        num_gpus=64,
        jobs=20,
        models="gpt3-1.3b",
        load=0.1,
        mean_hours=1e5,
        policies=("elasticflow", "elastic-plans"),
    )
    assert all(row["finished"] + row["rejected"] == 20 for row in result.rows())


@pytest.mark.parametrize("model", ["gpt3-1.3b", "mixtral-8x7b"])
def test_no_number_of_gpus_that_a_layout_fills_is_left_out(model: str) -> None:
    spec, bounds, base = presets.model(model), Bounds(max_tp=4), TrainSpec(1, 1)
    counts = [*range(1, 40), 48, 96, 128]
    fillable = {n for n in counts if next(configurations(spec, n, (12, 64), bounds, base), None) is not None}
    kept = Space(spec, counts, (12, 64), bounds, base).counts
    assert fillable <= set(kept)
    assert len(kept) < len(counts)


def test_a_search_of_a_million_gpus_looks_at_few_numbers_of_them() -> None:
    spec = presets.model("gpt3-175b")
    counts = gpu_counts((), 1_000_000, 8)
    assert len(counts) > 100_000
    assert len(Space(spec, counts, (1536,), Bounds(), TrainSpec(1, 1)).counts) < 2000


def test_a_table_with_a_short_or_a_long_row_is_refused(tmp_path: Path) -> None:
    furnish(tmp_path)
    table = tmp_path / "measured.csv"
    lines = table.read_text().splitlines()
    for odd in (lines[1].rpartition(",")[0], lines[1] + ",1"):
        table.write_text("\n".join([lines[0], odd]))
        with pytest.raises(UserError, match="row small: it has more or fewer cells than the table has columns"):
            vt.validate(table)


@pytest.mark.parametrize(
    ("cell", "what"), [("1.5", "not a whole number"), ("inf", "not a number"), ("x", "not a number")]
)
def test_a_size_that_is_none_is_said_to_be(cell: str, what: str, tmp_path: Path) -> None:
    furnish(tmp_path)
    header, row = (tmp_path / "measured.csv").read_text().splitlines()[:2]
    cells = dict(zip(header.split(","), row.split(","), strict=True)) | {"tensor_model_parallel_size": cell}
    (tmp_path / "measured.csv").write_text("\n".join([header, ",".join(cells.values())]))
    (projected,) = vt.validate(tmp_path / "measured.csv").files[0].rows
    assert projected.predicted_s is None
    assert what in projected.reason


@pytest.mark.parametrize("seconds", ["1e300", "1e-300", "-1", "nan", ""])
def test_a_measurement_that_cannot_be_is_its_rows_reason(seconds: str, tmp_path: Path) -> None:
    furnish(tmp_path)
    header, row = (tmp_path / "measured.csv").read_text().splitlines()[:2]
    lines = [header, row, f"{row.rpartition(',')[0]},{seconds}"]
    (tmp_path / "measured.csv").write_text("\n".join(lines))
    good, bad = vt.validate(tmp_path / "measured.csv").files[0].rows
    assert good.reason == ""
    assert "it takes a positive number" in bad.reason
    assert bad.measured_s is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"plans": [{}]}'])
def test_a_study_does_not_go_on_from_a_damaged_result(text: str, tmp_path: Path) -> None:
    furnish(tmp_path)
    units = read_study(tmp_path / "study.toml")
    run_study(units, tmp_path / "results")
    (path,) = (tmp_path / "results").glob("*.json")
    path.write_text(text)
    with pytest.raises(UserError, match="delete it, and the study runs the unit again"):
        run_study(units, tmp_path / "results")


def test_measurements_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    rows = [f"all_reduce,{gpus},1,{1 << bits},{50 + bits}" for gpus in ("4", "inf") for bits in range(16, 24)]
    (tmp_path / "sent.csv").write_text("\n".join(["collective,gpus,nodes,bytes,duration_us", *rows]))
    with pytest.raises(UserError, match=r"gpus is .*: it takes a whole number"):
        vt.calibrate(cluster="dgx-a100-80gb", collectives=tmp_path / "sent.csv")


def test_two_activations_are_refused() -> None:
    with pytest.raises(SpecError, match="two activations"):
        presets.model("nemotron4-15b").__class__(1, 64, 1, 64, 64, swiglu=True, squared_relu=True)
    gated = vt.job("nemotron4-15b", cluster="dgx-h100", gpus=8, mbs=1, gbs=8, swiglu=True)
    assert not gated.configuration.model.squared_relu
