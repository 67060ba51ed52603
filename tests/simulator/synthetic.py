"""Synthetic profiles, written with the plugin's own sink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtrain_plugin.capture.rows import operator_columns
from vtrain_plugin.capture.sink import Sink
from vtrain_schemas import SCHEMA_VERSION
from vtrain_schemas.operators import Operator
from vtrain_sim.model import Compute, build_step, operators_of
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

MODEL = ModelSpec(4, 256, 4, 128, 512, position_embedding_type="rope", make_vocab_size_divisible_by=1)
BASE = Configuration(MODEL, ParallelSpec(), TrainSpec(1, 4, params_dtype="float32", attention_kernel="unfused"))


def true_seconds(operator: Operator) -> float:
    """A machine: 100 GFLOP/s, 10 GB/s, and a little overhead a call."""
    if operator.kind in ("microbatch", "step_overhead"):
        return 1e-4
    return 1e-5 + max(operator.flops() / 1e11, operator.bytes() / 1e10)


def run_row(run_id: str, **columns: Any) -> dict[str, Any]:
    """A row of the runs table."""
    return {
        "run_id": run_id,
        "schema_version": SCHEMA_VERSION,
        "source": "plugin",
        "created_ns": 1,
        "world_size": 1,
        "vtrain_version": "test",
        "clock_source": "host",
        "warmup_steps": 1,
        "active_steps": 1,
        "config_json": "{}",
        "device_name": "test processor",
        "device_memory_bytes": 8 << 30,
        "devices_per_host": 1,
        "backend": "gloo",
        **columns,
    }


def rank_row(run_id: str, rank: int) -> dict[str, Any]:
    """A row of the ranks table."""
    return {
        "run_id": run_id,
        "rank": rank,
        "host": "h",
        "local_rank": rank,
        "tp_rank": 0,
        "pp_rank": 0,
        "dp_rank": rank,
        "cp_rank": 0,
        "ep_rank": 0,
    }


def write_profile(out: Path, run_id: str = "base", configuration: Configuration = BASE) -> None:
    """A capture of one process on that machine, every operator as the program has it."""
    model, train = configuration.model, configuration.train
    sink = Sink(str(out), run_id, 0)
    sink.write(
        "runs",
        [
            run_row(
                run_id,
                tensor_model_parallel_size=1,
                pipeline_model_parallel_size=1,
                virtual_pipeline_chunks=1,
                data_parallel_size=1,
                num_layers=model.num_layers,
                hidden_size=model.hidden_size,
                ffn_hidden_size=model.ffn_hidden_size,
                num_attention_heads=model.num_attention_heads,
                num_query_groups=model.num_query_groups,
                kv_channels=model.kv_channels,
                seq_length=model.seq_length,
                padded_vocab_size=model.vocab_size,
                swiglu=False,
                add_bias_linear=True,
                normalization="LayerNorm",
                position_embedding_type="rope",
                untie_embeddings_and_output_weights=False,
                params_dtype=train.params_dtype,
                main_grads_dtype="float32",
                micro_batch_size=train.micro_batch_size,
                global_batch_size=train.global_batch_size,
                num_microbatches=configuration.num_microbatches,
                transformer_impl="local",
            )
        ],
    )
    sink.write("ranks", [rank_row(run_id, 0)])
    rows: list[dict[str, Any]] = []
    at = 1_000_000_000
    stage = build_step(configuration).stages[0]
    items = [i for i in (*stage.before, *stage.update) if isinstance(i, Compute) and i.operator.kind != "step_overhead"]
    for chunk in stage.chunks:
        for program, count in chunk:
            parts = list(operators_of((*program.forward, *program.backward)))
            items += parts * count * configuration.num_microbatches
    for item in items:
        duration = round(true_seconds(item.operator) * 1e9)
        rows.append(
            {
                "run_id": run_id,
                "rank": 0,
                "step": 1,
                "name": item.name,
                "source": "module",
                **operator_columns(item.operator),
                "start_ns": at,
                "duration_ns": duration,
            }
        )
        at += duration
    sink.write("operators", rows)
    whole = sum(r["duration_ns"] for r in rows) + 100_000
    sink.write(
        "steps",
        [
            {
                "run_id": run_id,
                "rank": 0,
                "step": 1,
                "start_ns": 1_000_000_000,
                "duration_ns": whole,
                "num_microbatches": configuration.num_microbatches,
            }
        ],
    )


def write_collectives(out: Path, run_id: str = "collectives") -> None:
    """A network of 50 us and 1 GB/s bus bandwidth between two processes; rank 1 waits 10 us."""
    for rank in (0, 1):
        sink = Sink(str(out), run_id, rank)
        if rank == 0:
            sink.write("runs", [run_row(run_id, source="collectives", world_size=2, devices_per_host=2)])
        sink.write("ranks", [rank_row(run_id, rank)])
        rows = []
        sequence = 0
        for op in ("all_reduce", "all_gather", "reduce_scatter", "p2p"):
            for exponent in range(10, 27):
                for _ in range(3):
                    duration = 50_000 + (1 << exponent) + 10_000 * rank
                    name = op if op != "p2p" else ("send", "recv")[rank]
                    rows.append(
                        {
                            "run_id": run_id,
                            "rank": rank,
                            "step": 0,
                            "op": name,
                            "role": "world",
                            "source": "microbench",
                            "bytes": 1 << exponent,
                            "dtype": "float32",
                            "group_ranks": [0, 1],
                            "sequence": sequence,
                            "is_async": False,
                            "start_ns": 1,
                            "duration_ns": duration,
                            "exposed_ns": duration,
                        }
                    )
                    sequence += 1
        sink.write("collectives", rows)
