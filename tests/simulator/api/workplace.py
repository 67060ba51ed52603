"""The files that examples of the documentation name: a script, a spec, tables, a study and a catalog."""

from __future__ import annotations

from pathlib import Path

from simulator.synthetic import write_collectives, write_profile
from simulator.synthetic_trace import FUSED, write_traces
from vtrain_sim.catalog import Catalog

SCRIPT = """#!/bin/bash
ARGS=(--num-layers 24 --hidden-size 2048 --num-attention-heads 16 --seq-length 2048
      --tensor-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 16)
torchrun --nproc_per_node=8 --nnodes=2 pretrain_gpt.py "${ARGS[@]}"
"""
SPEC = """cluster: dgx-a100-80gb
preset: gpt3-1.3b
num_gpus: 8
parallel:
  tensor_model_parallel_size: 2
train:
  micro_batch_size: 1
  global_batch_size: 16
"""
STUDY = """models = ["gpt3-1.3b"]
clusters = ["dgx-a100-80gb"]
global_batch_sizes = [64]
num_gpus = [8]
"""
_COLUMNS = (
    "id,gpu,gpus_per_node,inter_node_gbps_per_node,num_gpus,num_layers,hidden_size,ffn_hidden_size,num_attention_heads,"
    "seq_length,vocab_size,tensor_model_parallel_size,pipeline_model_parallel_size,data_parallel_size,micro_batch_size,"
    "global_batch_size,precision,iteration_time_s"
)
_ROWS = (
    "small,A100-SXM4-80GB,8,1600,8,24,2048,8192,16,2048,50304,1,1,8,1,16,bf16,1.0",
    "impossible,A100-SXM4-80GB,8,1600,8,24,2048,8192,16,2048,50304,3,1,8,1,16,bf16,1.0",
)
# Jobs of two tenants.
_JOB_COLUMNS = "job_id,arrival_s,model,global_batch_size,iterations,gpus,tenant,priority"
_JOBS = (
    "a,0,gpt3-1.3b,64,5000,8,research,0",
    "b,10,gpt3-1.3b,64,3000,8,research,0",
    "c,20,gpt3-1.3b,64,2000,4,product,1",
)


def furnish(place: Path) -> None:
    """Put the files there."""
    (place / "train.sh").write_text(SCRIPT)
    (place / "job.yaml").write_text(SPEC)
    (place / "study.toml").write_text(STUDY)
    (place / "measured.csv").write_text("\n".join([_COLUMNS, *_ROWS]))
    (place / "tenants.csv").write_text("\n".join([_JOB_COLUMNS, *_JOBS]))
    sizes = [1 << bits for bits in range(16, 30, 2)]
    rows = [f"all_reduce,{gpus},1,{size},{40 + 2e6 * size / 2e11}" for gpus in (4, 8) for size in sizes]
    (place / "collectives.csv").write_text("\n".join(["collective,gpus,nodes,bytes,duration_us", *rows]))
    write_profile(place / "profiles")
    write_collectives(place / "profiles")
    Catalog(place / "vtrain.duckdb").add([str(place / "profiles")])
    write_traces(place / "traces" / "before")
    write_traces(place / "traces" / "after", FUSED)
    # As `make demo` leaves them.
    demo = place / "demo-output"
    write_profile(demo / "profiles", "base-0")
    write_collectives(demo / "profiles", "collectives-0")
    Catalog(demo / "catalog.duckdb").add([str(demo / "profiles")])
