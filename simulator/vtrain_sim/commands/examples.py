"""Examples of every command, as its help shows them. A test runs each."""

from __future__ import annotations

# By command; lines fit 78 columns, and may be copied whole.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "project": (
        """\
vtrain-sim project --cluster dgx-a100-80gb --model gpt3-1.3b \\
  --num-gpus 8 --tensor-model-parallel-size 2 --sequence-parallel \\
  --micro-batch-size 2 --global-batch-size 64 --bf16""",
        "vtrain-sim project --catalog vtrain.duckdb --run base \\\n  --tensor-model-parallel-size 2",
        "vtrain-sim project --megatron-args train.sh --cluster dgx-h100 --json",
        "vtrain-sim project --spec job.yaml --emit-megatron",
    ),
    "sweep": (
        """\
vtrain-sim sweep --cluster dgx-a100-80gb --model gpt3-1.3b --num-gpus 8 \\
  --micro-batch-size 1 --global-batch-size 64 \\
  --vary tp=1,2,4 --vary recompute=none,full""",
    ),
    "timeline": (
        """\
vtrain-sim timeline --cluster dgx-a100-80gb --model gpt3-1.3b --num-gpus 8 \\
  --pipeline-model-parallel-size 4 --micro-batch-size 1 \\
  --global-batch-size 16 --stages 0,3 --out step.json.gz""",
    ),
    "compare": (
        """\
vtrain-sim compare base "tp=4 pp=2" --cluster dgx-a100-80gb \\
  --model gpt3-1.3b --num-gpus 8 --tensor-model-parallel-size 2 \\
  --micro-batch-size 1 --global-batch-size 64""",
        "vtrain-sim compare run:base sim:base --catalog vtrain.duckdb",
    ),
    "explain": (
        """\
vtrain-sim explain --cluster dgx-a100-80gb --model gpt3-1.3b --num-gpus 8 \\
  --tensor-model-parallel-size 2 --micro-batch-size 1 \\
  --global-batch-size 64""",
    ),
    "serve": ("vtrain-sim serve --port 8765 --browser",),
    "plan": (
        """\
vtrain-sim plan --cluster dgx-a100-80gb --model gpt3-1.3b --num-gpus 8 \\
  --global-batch-size 64 --train-tokens 26e9""",
        """\
vtrain-sim plan --cluster dgx-a100-80gb --model gpt3-1.3b --max-gpus 8 \\
  --global-batch-size 32,64 --train-tokens 26e9 --deadline-days 30 \\
  --rank-by dollars --table plans.csv""",
        "vtrain-sim plan --catalog vtrain.duckdb --run base",
    ),
    "flags": ("vtrain-sim flags recompute", "vtrain-sim flags --treatment refused --json"),
    "presets": ("vtrain-sim presets --kind clusters", "vtrain-sim presets llama3 --json"),
    "schedule": (
        """\
vtrain-sim schedule --cluster dgx-a100-80gb --num-gpus 8 --jobs 3 \\
  --models gpt3-1.3b --global-batch-size 64 --seeds 1,2""",
        """\
vtrain-sim schedule --cluster dgx-a100-80gb --num-gpus 8 --jobs 3 \\
  --models train.sh,run:base --catalog vtrain.duckdb""",
    ),
    "size": (
        "vtrain-sim size --cluster dgx-a100-80gb --num-gpus 8 --days 3",
        "vtrain-sim size --cluster dgx-a100-80gb --megatron-args train.sh --days 3",
    ),
    "study": ("vtrain-sim study study.toml --out results --table best.csv",),
    "calibrate": ("vtrain-sim calibrate --device a100-sxm-80gb --compute-units 108 \\\n  --gemm gemm.csv",),
    "validate": (
        "vtrain-sim validate measured.csv --no-rows",
        "vtrain-sim validate --catalog vtrain.duckdb --run base",
    ),
    "tune": ("vtrain-sim tune measured.csv --priors a100 --rounds 1",),
    "add": (
        "vtrain-catalog add profiles",
        "vtrain-catalog add trace.json.gz --run-id mine --device A100-SXM4-80GB",
    ),
    "ls": ("vtrain-catalog ls",),
    "critical-path": ("vtrain-catalog critical-path base", "vtrain-catalog critical-path base --step 1 --json"),
    "show": ("vtrain-catalog show base",),
    "remove": ("vtrain-catalog remove base",),
    "repair": ("vtrain-catalog repair",),
    "compact": ("vtrain-catalog compact", "vtrain-catalog compact base"),
    "check": ("vtrain-catalog check",),
    "vtrain-catalog timeline": ("vtrain-catalog timeline base --out captured.json.gz",),
    "sql": (
        """\
vtrain-catalog sql "SELECT kind, phase, calls, median_ns
  FROM layer_summary ORDER BY median_ns DESC LIMIT 5\"""",
        'vtrain-catalog sql "SELECT * FROM step_breakdown" --format csv -o steps.csv',
        'vtrain-catalog sql "SELECT count(*) FROM kernels" --timeout 60 --memory 4GB',
    ),
    "schema": ("vtrain-catalog schema step_breakdown",),
}
