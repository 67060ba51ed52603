"""Makers of command lines, each from a random generator, with the files that they name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import yaml

from simulator.api.workplace import SCRIPT, STUDY
from simulator.fuzz.odd import ODD, WORDS, damaged_rows, damaged_table, damaged_text, toml
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.flag_groups import flag_groups
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, known_flags

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Makes the words of a command line, and its files in the folder.
Maker: TypeAlias = Callable[[Random, Path], list[str]]

_MODEL = ["--model", "gpt3-1.3b"]
_CLUSTER = ["--cluster", "dgx-a100-80gb"]
_STEP = ["--micro-batch-size", "1", "--global-batch-size", "64"]


# What makes sense for flags that others depend on.
_SENSIBLE = {
    "--tensor-model-parallel-size": ("1", "2", "4", "8"),
    "--pipeline-model-parallel-size": ("1", "2", "3", "4"),
    "--context-parallel-size": ("1", "2"),
    "--expert-model-parallel-size": ("1", "2", "4"),
    "--expert-tensor-parallel-size": ("1", "2"),
    "--num-virtual-stages-per-pipeline-rank": ("1", "2"),
    "--micro-batch-size": ("1", "2", "4"),
    "--global-batch-size": ("64", "128", "256"),
    "--num-layers": ("12", "24", "48"),
    "--hidden-size": ("1024", "2048"),
    "--ffn-hidden-size": ("4096", "8192"),
    "--num-attention-heads": ("16", "32"),
    "--num-query-groups": ("4", "8"),
    "--seq-length": ("1024", "4096"),
    "--vocab-size": ("32000", "50257"),
    "--num-experts": ("8", "16"),
    "--moe-router-topk": ("1", "2"),
    "--moe-ffn-hidden-size": ("512", "1024"),
    "--recompute-granularity": ("full", "selective"),
    "--recompute-method": ("uniform", "block"),
    "--recompute-num-layers": ("1", "2"),
    "--fp8-format": ("hybrid", "e4m3"),
    "--fp8-recipe": ("delayed", "tensorwise", "blockwise", "mxfp8"),
    "--schedule": ("1f1b", "gpipe", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev", "interleaved"),
    "--moe-token-dispatcher-type": ("alltoall", "allgather", "flex"),
    "--moe-layer-freq": ("1", "2", "[0]*1+[1]*23"),
    "--mtp-num-layers": ("1", "2"),
    "--window-size": ("(128,0)", "128"),
    "--hidden-dropout": ("0", "0.1"),
    "--normalization": ("RMSNorm", "LayerNorm"),
    "--position-embedding-type": ("rope", "none", "learned_absolute"),
    "--cpu-offloading-num-layers": ("1", "4"),
    "--recompute-modules": ("core_attn", "mlp", "layernorm"),
    "--attention-backend": ("flash", "unfused", "auto"),
}


def _word(r: Random, flag: str) -> str:
    sensible = _SENSIBLE.get(flag)
    return r.choice(sensible) if sensible and r.random() < 0.85 else r.choice(WORDS)


@cache
def _flags() -> tuple[list[str], list[str]]:
    """Arguments that are read, and all that are accepted."""
    return [flag for group in flag_groups().values() for flag in group], list(known_flags())


def _arguments(r: Random, most: int = 6) -> list[str]:
    words: list[str] = []
    for _ in range(r.randrange(most)):
        read, known = _flags()
        flag = r.choice(list(_SENSIBLE) if r.random() < 0.6 else list(SWITCHES) if r.random() < 0.5 else read)
        flag = flag if r.random() < 0.97 else r.choice(known)
        words.append(flag)
        if flag not in SWITCHES or r.random() < 0.02:
            words += [_word(r, flag) for _ in range(r.choice((1, 2)) if flag in LISTS else 1)]
    return words


def _machine(r: Random) -> list[str]:
    return ["--cluster", r.choice([*presets.names("clusters"), "dgx-a100"])]


def _job(r: Random) -> list[str]:
    model = r.choice([*presets.names("models"), "gpt3", "x.json"])
    gpus = ["--num-gpus", r.choice((*WORDS, "8", "64", "128"))] if r.random() < 0.2 else []
    return [*_machine(r), "--model", model, *_STEP, *gpus, *_arguments(r)]


def project(r: Random, place: Path) -> list[str]:
    """Any flags."""
    options = [["--train-tokens", r.choice(WORDS)], ["--price-per-gpu-hour", r.choice(WORDS)], ["--emit-megatron"]]
    more = r.choice(options) if r.random() < 0.3 else []
    return ["vtrain-sim", "project", *_job(r), *more, "--json"]


def sweep(r: Random, place: Path) -> list[str]:
    """Any names and values to vary."""
    names = ["tp", "pp", "mbs", "recompute", "precision", "num_gpus", "bf16", "seq_length", "x", "", "fp8_format"]
    axes = [f"{r.choice(names)}={','.join(r.choices(WORDS, k=r.randrange(4)))}" for _ in range(r.choice((1, 1, 2)))]
    varied = [word for axis in axes for word in ("--vary", axis)]
    return ["vtrain-sim", "sweep", *_CLUSTER, *_MODEL, *_STEP, *_arguments(r, 3), *varied, "--json"]


def timeline(r: Random, place: Path) -> list[str]:
    """Any part of a timeline."""
    part = [r.choice(("--stages", "--microbatches")), r.choice((*WORDS, "0-1", "1-0", "-"))] if r.random() < 0.5 else []
    step = ["--micro-batch-size", "1", "--global-batch-size", "4"]
    out = ["--out", str(place / "step.json"), *part, "--detail", "passes", "--json"]
    return ["vtrain-sim", "timeline", *_CLUSTER, *_MODEL, *step, *_arguments(r, 5), *out]


_SIDES = (
    *("base", "tp=2", "tp=2 pp=2 vpp=2", "dgx-h100", "mixtral-8x7b ep=2", "recompute=full", "precision=fp8 dgx-h100"),
    *("--seq-length 0", "gpus=0", "mbs=x", "model= cluster=", "=", "a=b=c", "run:x", "sim:", "'", ".."),
)


def compare(r: Random, place: Path) -> list[str]:
    """Any two sides."""
    return ["vtrain-sim", "compare", *r.choices(_SIDES, k=2), *_CLUSTER, *_MODEL, *_STEP, *_arguments(r, 3), "--json"]


def explain(r: Random, place: Path) -> list[str]:
    """Any flags of what is explained."""
    return ["vtrain-sim", "explain", *_CLUSTER, *_MODEL, *_STEP, *_arguments(r, 4), "--json"]


def plan(r: Random, place: Path) -> list[str]:
    """Any bounds of a search."""
    options = ["--train-tokens", "--max-tp", "--max-pp", "--max-dp", "--max-cp", "--max-ep", "--deadline-days", "--top"]
    options += ["--price-per-gpu-hour", "--rank-by", "--schedules", "--gpu-mtbf-hours", "--checkpoint-interval"]
    options += ["--checkpoint-seconds", "--restart-seconds", "--processes", "--executor"]
    more = [word for _ in range(r.randrange(4)) for word in (r.choice(options), r.choice(WORDS))]
    choices = ["none", "sharding", "offload", "buckets", "cp-comm", "precision", "", "x"]
    more += r.choice(([], [], ["--search", ",".join(r.choices(choices, k=2))], ["--exhaustive", "--search", "none"]))
    gpus = [r.choice(("--num-gpus", "--max-gpus")), r.choice(("1", "2", "4", "0", "-1", "1,2", "x", "1e9", ""))]
    batch = ["--global-batch-size", r.choice(("8", "16", "7", "0", "4,8", "x"))]
    return ["vtrain-sim", "plan", *_CLUSTER, *_MODEL, *gpus, *batch, *_arguments(r, 4), *more, "--json"]


def decide(r: Random, place: Path) -> list[str]:
    """Fleets and sizes."""
    if r.random() < 0.5:
        days = r.choice(("1", "0.5", "3", r.choice(WORDS)))
        options = [r.choice(("--law", "--max-tp", "--attention-backend", "--vocab-size")), r.choice(WORDS)]
        gpus = r.choice(("1", "2", "8", "x"))
        size = ["--num-gpus", gpus, "--days", days, "--global-batch-size", r.choice(("8", "16", "x"))]
        return ["vtrain-sim", "size", *_CLUSTER, *size, *(options if r.random() < 0.3 else []), "--json"]
    options = ["--seeds", "--load", "--mean-hours", "--policies", "--restart-seconds", "--global-batch-size"]
    options += ["--placement", "--quotas", "--gpu-mtbf-hours", "--repair-hours", "--checkpoint-bandwidth"]
    options += ["--gpu-counts", "--trace-format"]
    more = [word for _ in range(r.randrange(3)) for word in (r.choice(options), r.choice(("1", "1e5", "0.1", *WORDS)))]
    placed = ["--placement", r.choice(("packed", "spread", "consolidated", "ideal")), *r.choice(([], ["--migrate"]))]
    more += placed if r.random() < 0.3 else []
    jobs = ["--jobs", r.choice(("1", "3", "20", "-1")), "--models", r.choice(("gpt3-1.3b", "gpt3-1.3b", "x"))]
    return ["vtrain-sim", "schedule", *_CLUSTER, "--num-gpus", r.choice(("1", "4", "8")), *jobs, *more, "--json"]


_SPEC: dict[str, Any] = {
    "cluster": "dgx-a100-80gb",
    "preset": "gpt3-1.3b",
    "num_gpus": 8,
    "train_tokens": 1e9,
    "price_per_gpu_hour": 2.5,
    "model": {"num_layers": 24, "hidden_size": 2048, "num_attention_heads": 16, "seq_length": 2048, "swiglu": True},
    "parallel": {"tensor_model_parallel_size": 2, "sequence_parallel": True, "pipeline_model_parallel_size": 2},
    "train": {"micro_batch_size": 1, "global_batch_size": 16, "recompute_modules": ["core_attn"], "bf16": True},
}


def _written(r: Random, place: Path, name: str, table: dict[str, Any]) -> Path:
    """A damaged table as YAML or TOML, now and then damaged once more as text."""
    table = damaged_table(r, table)
    suffix = r.choice((".yaml", ".toml"))
    text = toml(table) if suffix == ".toml" else yaml.safe_dump(table, sort_keys=False)
    path = place / f"{name}{suffix}"
    path.write_text(damaged_text(r, text) if r.random() < 0.25 else text, encoding="utf-8", errors="replace")
    return path


def spec(r: Random, place: Path) -> list[str]:
    """A damaged spec file."""
    path = _written(r, place, "job", _SPEC)
    return ["vtrain-sim", "project", "--spec", str(path), *_arguments(r, 1), "--json"]


@cache
def _tables(kind: str) -> list[dict[str, Any]]:
    folder = files("vtrain_data") / kind
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".toml"))
    return [tomllib.loads((folder / name).read_text(encoding="utf-8")) for name in names]


def cluster(r: Random, place: Path) -> list[str]:
    """A damaged cluster, with the device and its cost surfaces in the file or by name."""
    table = dict(r.choice(_tables("clusters")))
    devices = [device for device in _tables("devices") if "surfaces" in device]
    if r.random() < 0.6:
        device = r.choice(devices)
        table |= {"device": device["device"], "surfaces": device["surfaces"]}
    path = _written(r, place, "cluster", table)
    return ["vtrain-sim", "project", "--cluster", str(path), *_MODEL, *_STEP, *_arguments(r, 2), "--json"]


def validation(r: Random, place: Path) -> list[str]:
    """A damaged table of measurements."""
    from simulator.api.workplace import _COLUMNS, _ROWS

    (place / "measured.csv").write_text(damaged_rows(r, "\n".join([_COLUMNS, *_ROWS])), errors="replace")
    return ["vtrain-sim", "validate", str(place / "measured.csv"), "--json"]


_JOBS = "job_id,arrival_s,model,global_batch_size,iterations,gpus,deadline_s\na,0,gpt3-1.3b,64,100,4,1e9\nb,5,gpt3-1.3b,64,10,2,"
_GEMM = "m,n,k,duration_us\n" + "\n".join(f"{m},{n},1024,{20 + m * n / 1e5}" for m in (512, 2048) for n in (1024, 4096))
_SENT = "collective,gpus,nodes,bytes,duration_us\n" + "\n".join(
    f"all_reduce,{gpus},1,{1 << bits},{40 + (1 << bits) / 1e5}" for gpus in (4, 8) for bits in range(16, 26, 2)
)


def tables(r: Random, place: Path) -> list[str]:
    """Damaged tables of jobs and of microbenchmarks."""
    path = place / "table.csv"
    text, words = r.choice(
        (
            (_JOBS, ["schedule", *_CLUSTER, "--num-gpus", "4", "--trace"]),
            (_GEMM, ["calibrate", "--device", "a100-sxm-80gb", "--compute-units", "108", "--gemm"]),
            (_SENT, ["calibrate", *_CLUSTER, "--collectives"]),
        )
    )
    path.write_text(damaged_rows(r, text), errors="replace")
    return ["vtrain-sim", *words, str(path), "--json"]


_LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "linear", "factor": 2.0},
}
_CONFIGS: tuple[dict[str, Any], ...] = (
    _LLAMA,
    {**_LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 1024},
    {**_LLAMA, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256},
    {**_LLAMA, "model_type": "gemma2", "head_dim": 64, "layer_types": ["full_attention"] * 4},
    {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 1024, "vocab_size": 50257},
)


def huggingface(r: Random, place: Path) -> list[str]:
    """A damaged config.json."""
    text = json.dumps(damaged_table(r, r.choice(_CONFIGS)))
    (place / "config.json").write_text(damaged_text(r, text) if r.random() < 0.2 else text, errors="replace")
    return [
        "vtrain-sim",
        "project",
        *_CLUSTER,
        "--model",
        str(place / "config.json"),
        *_STEP,
        *_arguments(r, 2),
        "--json",
    ]


_SCRIPTS = (
    SCRIPT,
    """#!/bin/bash
#SBATCH --nodes=2
export TP=${TP:-2}
PP=$((TP*2))
A="--num-layers 24 --hidden-size 2048 --num-attention-heads 16"
A+=" --seq-length 2048 --tensor-model-parallel-size $TP"
if [ "$PP" -gt 2 ]; then
  A="$A --pipeline-model-parallel-size ${PP}"
else
  A="$A --bf16"
fi
# a comment
srun bash -c "python pretrain_gpt.py $A --micro-batch-size 1 --global-batch-size 64 ${EXTRA}"
""",
    """
X=1
X=$X$X
options=( --num-layers 2   # layers
  --hidden-size 64 --num-attention-heads 4
  --seq-length 64 )
for i in 1 2; do options+=(--log-interval $i); done
case $X in 1) B=1;; *) B=2;; esac
python -m torch.distributed.launch --nproc_per_node 4 pretrain_gpt.py ${options[@]} \\
  --micro-batch-size $B \\
  --global-batch-size 8 --data-path <path> 2>&1 | tee log
""",
)


def script(r: Random, place: Path) -> list[str]:
    """A damaged launch script."""
    (place / "train.sh").write_text(damaged_text(r, r.choice(_SCRIPTS)), errors="replace")
    return ["vtrain-sim", "project", *_CLUSTER, "--megatron-args", str(place / "train.sh"), "--no-run-script", "--json"]


def result_files(r: Random, place: Path) -> list[str]:
    """A study that goes on from damaged results."""
    done = place / "study-done"
    results = place / "results"
    results.mkdir(exist_ok=True)
    for path in done.glob("*.json"):
        text = path.read_text()
        as_table = r.random() < 0.6
        text = json.dumps(damaged_table(r, json.loads(text))) if as_table else damaged_text(r, text)
        (results / path.name).write_text(text, errors="replace")
    study = place / "study.toml"
    study.write_text(STUDY if r.random() < 0.5 else toml(damaged_table(r, tomllib.loads(STUDY))), errors="replace")
    return ["vtrain-sim", "study", str(study), "--out", str(results), *r.choice((["--json"], []))]


_QUERIES = (
    "SELECT * FROM step_breakdown",
    "SELECT kind, phase, calls, median_ns FROM layer_summary WHERE run_id = 'base' ORDER BY median_ns DESC LIMIT 5",
    "SELECT 0.0 / 0 AS none, 1e308 * 10 AS endless, NULL AS nothing, [1, 2] AS list, {'a': 1} AS pair",
    "COPY (SELECT 1) TO 'x.csv'",
)


def catalog(r: Random, place: Path) -> list[str]:
    """Damaged queries and names."""
    held = ["--catalog", str(place / "vtrain.duckdb")]
    if r.random() < 0.8:
        return ["vtrain-catalog", "sql", damaged_text(r, r.choice(_QUERIES)).replace("\0", ""), *held, "--json"]
    what = r.choice((["show", str(r.choice(ODD))], ["schema", str(r.choice(ODD))], ["ls"]))
    return ["vtrain-catalog", *what, *held, "--json"]


def _event(category: str, name: str, start: float, length: float, **arguments: object) -> dict[str, Any]:
    on_gpu = category == "kernel"
    place = {"pid": 0, "tid": 7} if on_gpu else {"pid": 1, "tid": 1}
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": length, **place, "args": arguments}


_LINK = {"correlation": 3, "External id": 2}
_TRACE: dict[str, Any] = {
    "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-80GB"}],
    "distributedInfo": {"rank": 0, "world_size": 1, "backend": "nccl"},
    "traceEvents": [
        _event("user_annotation", "ProfilerStep#3", 1.0, 100.0),
        _event("kernel", "ampere_bf16_gemm", 5.0, 10.0, stream=7, device=0, **_LINK),
        _event("cuda_runtime", "cudaLaunchKernel", 2.5, 1.0, **_LINK),
        _event(
            *("cpu_op", "aten::mm", 2.0, 3.0),
            **{"External id": 2, "Input Dims": [[64, 64], [64, 64]], "Input type": ["c10::BFloat16"] * 2},
        ),
    ],
}


def trace(r: Random, place: Path) -> list[str]:
    """A damaged torch.profiler trace."""
    text = json.dumps(damaged_table(r, _TRACE))
    (place / "trace.json").write_text(damaged_text(r, text) if r.random() < 0.3 else text, errors="replace")
    where = ["--catalog", str(place / "traces.duckdb"), "--out", str(place / "imported"), "--processes", "1"]
    return ["vtrain-catalog", "add", str(place / "trace.json"), *where, "--run-id", f"t{r.randrange(10**9)}", "--json"]


# Of 410 cases, so many.
MAKERS: dict[Maker, int] = {
    project: 140,
    spec: 62,
    cluster: 60,
    script: 40,
    huggingface: 36,
    validation: 20,
    sweep: 16,
    timeline: 8,
    compare: 8,
    explain: 2,
    decide: 5,
    tables: 4,
    plan: 4,
    catalog: 2,
    result_files: 2,
    trace: 1,
}
