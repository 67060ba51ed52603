"""What ``vtrain-profile rank`` knows of a shard before it starts, and what becomes of sizes that fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from conftest import run_python
from plugin.simulated_gpu import SimulatedGpu
from vtrain_plugin.bench.arguments import layer_pattern
from vtrain_plugin.bench.device_queue import DeviceQueue
from vtrain_plugin.bench.failure import reason_of
from vtrain_plugin.bench.model_operators import SizeError
from vtrain_plugin.bench.player_config import some_of_each
from vtrain_plugin.bench.rank import parser, problem
from vtrain_plugin.bench.shard_memory import ShardMemory
from vtrain_plugin.bench.shard_parameters import ShardParameters
from vtrain_plugin.bench.step_queue import GpuStepQueue
from vtrain_sim.catalog import Catalog
from vtrain_sim.model import build_step
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

TESTS = str(Path(__file__).resolve().parents[1])
MODEL = ("--num-layers", "8", "--hidden-size", "64", "--num-attention-heads", "8", "--seq-length", "32")


def arguments(*flags: str) -> Any:
    return parser().parse_args(["--out", "x", "--run-id", "r", "--world-size", "16", *MODEL, *flags])


# -- parameters and memory ------------------------------------------------------------------

GATED = ("--swiglu", "--disable-bias-linear", "--normalization", "RMSNorm", "--untie-embeddings-and-output-weights")
EXPERTS = (*GATED, "--num-experts", "8", "--moe-ffn-hidden-size", "48", "--expert-model-parallel-size", "4")
LATENT = (
    *GATED,
    "--multi-latent-attention",
    "--qk-layernorm",
    *("--q-lora-rank", "24", "--kv-lora-rank", "16", "--qk-head-dim", "8"),
    *("--qk-pos-emb-head-dim", "4", "--v-head-dim", "8"),
)
LATENT_SPEC = {
    "multi_latent_attention": True,
    "qk_layernorm": True,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 8,
}
GATED_SPEC = {
    "swiglu": True,
    "add_bias_linear": False,
    "normalization": "RMSNorm",
    "untie_embeddings_and_output_weights": True,
}
EXPERTS_SPEC = {**GATED_SPEC, "num_experts": 8, "moe_router_topk": 2, "moe_ffn_hidden_size": 48}
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "gpt": ((), {"add_bias_linear": True}, {}),
    "gated": ((*GATED, "--num-query-groups", "4"), {**GATED_SPEC, "num_query_groups": 4}, {}),
    "norms": ((*GATED, "--qk-layernorm"), {**GATED_SPEC, "qk_layernorm": True}, {}),
    "latent": (LATENT, {**GATED_SPEC, **LATENT_SPEC}, {}),
    "experts": (EXPERTS, EXPERTS_SPEC, {"ep": 4}),
    "some experts": (
        (*EXPERTS, "--moe-layer-freq", "([0]*3+[1]*5)", "--moe-shared-expert-intermediate-size", "32"),
        {**EXPERTS_SPEC, "moe_layer_freq": "([0]*3+[1]*5)", "moe_shared_expert_intermediate_size": 32},
        {"ep": 4},
    ),
}


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("name", CASES)
def test_parameters_are_those_of_the_stage(name: str, tp: int, pp: int) -> None:
    """The simulator's counts, which are compared with Megatron-Core's own elsewhere."""
    flags, model, parallel = CASES[name]
    spec = ModelSpec(
        num_layers=8,
        hidden_size=64,
        num_attention_heads=8,
        seq_length=32,
        vocab_size=512,
        make_vocab_size_divisible_by=1,
        position_embedding_type="rope",
        **{"ffn_hidden_size": 256, **model},
    )
    layout = ParallelSpec(tp=tp, pp=pp, dp=16 // (tp * pp), sequence_parallel=tp > 1, **parallel)
    stages = build_step(Configuration(spec, layout, TrainSpec(1, 64))).stages
    sizes = ("--tensor-model-parallel-size", str(tp), "--pipeline-model-parallel-size", str(pp), "--vocab-size", "512")
    for stage in stages:
        rank = str(stage.stage * 16 // pp)
        counted = ShardParameters.of(arguments(*flags, *sizes, "--rank", rank))
        assert (counted.dense, counted.experts) == (stage.parameters, stage.expert_parameters)


def test_memory_of_a_shard() -> None:
    plain = ShardMemory.of(arguments("--bf16"))
    count = ShardParameters.of(arguments()).total
    assert (plain.weights, plain.gradients, plain.optimizer) == (2 * count, 4 * count, 12 * count)
    assert ShardMemory.of(arguments()).optimizer == 8 * count
    sharded = ShardMemory.of(arguments("--bf16", "--use-distributed-optimizer"))
    assert sharded.optimizer == pytest.approx(plain.optimizer / 16, rel=0.01)
    again = ShardMemory.of(arguments("--bf16", "--recompute-full"))
    assert again.activations == 8 * 32 * 64 * 2
    assert plain.activations > 5 * again.activations
    first, last = (
        ShardMemory.of(arguments("--pipeline-model-parallel-size", "4", "--num-microbatches", "8", "--rank", rank))
        for rank in ("0", "12")
    )
    assert first.activations == 4 * last.activations
    assert (first.logits, last.logits) == (0, 32 * 50304 * 8)
    assert ShardMemory.of(arguments("--layers", "2")).activations * 4 == ShardMemory.of(arguments()).activations


def test_a_shard_that_cannot_fit_is_refused_in_one_sentence() -> None:
    memory = ShardMemory(weights=20 * 10**9, gradients=40 * 10**9, optimizer=30 * 10**9, activations=0, logits=0)
    assert memory.refusal(90 * 10**9) == ""
    assert memory.refusal(None) == ""
    assert memory.refusal(85 * 10**9).startswith(
        "the shard needs 90 GB or more (weights 20, gradients 40, optimizer 30) and 85 GB of the device's memory are"
    )


# -- flags ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("1", 1), ("2", 2), ("([0]*3+[1]*2)", [0, 0, 0, 1, 1]), ("[0,1]*2", [0, 1, 0, 1]), ("[0, 1, 1]", [0, 1, 1])],
)
def test_patterns_of_layers(text: str, pattern: int | list[int]) -> None:
    assert layer_pattern(text) == pattern


@pytest.mark.parametrize("text", ["0", "[2]", "__import__('os')", ""])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(SizeError, match="--moe-layer-freq"):
        arguments("--moe-layer-freq", text)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--layers", "9"), "--layers is 9"),
        (("--num-experts", "6", "--expert-model-parallel-size", "4"), "--expert-model-parallel-size is 4"),
        (("--num-experts", "64", "--expert-model-parallel-size", "32"), "--world-size (16)"),
        (("--num-experts", "4", "--moe-layer-freq", "[0]*3"), "--moe-layer-freq has 3 layers"),
    ],
)
def test_sizes_that_cannot_be_played(flags: tuple[str, ...], word: str) -> None:
    assert word in problem(arguments(*flags))


def test_each_kind_of_layer_is_built() -> None:
    dense, mixture = ["dense"], ["mixture"]
    assert some_of_each([dense, dense, dense, mixture, mixture], 2) == [dense, mixture]
    assert some_of_each([dense, dense, dense, mixture, mixture], 3) == [dense, dense, mixture]
    assert some_of_each([mixture] * 4, 3) == [mixture] * 3
    with pytest.raises(ValueError, match="2 kinds of layers"):
        some_of_each([dense, mixture], 1)


# -- the queue ------------------------------------------------------------------------------


def launch_step(gpu: SimulatedGpu, queue: GpuStepQueue, recorded: bool, slower: int = 1) -> None:
    """Two forward passes of ten kernels each, launched in ten times what the device takes for them."""
    with queue.kept_full(recorded):
        for _ in range(2):
            queue.look()
            for _ in range(10):
                gpu.launch(10_000 * slower, 1_000)
    gpu.synchronize()


def test_recorded_steps_are_launched_while_the_device_is_held() -> None:
    gpu = SimulatedGpu()
    queue = GpuStepQueue(DeviceQueue(gpu, gpu.clock), gpu.clock)
    launch_step(gpu, queue, recorded=False)
    launch_step(gpu, queue, recorded=False)
    idle = gpu.idle
    # Hooks make a recorded step slower to launch.
    launch_step(gpu, queue, recorded=True, slower=2)
    # What is left is the gap before the spin kernel itself.
    assert gpu.idle - idle <= 10_000
    assert queue.waited() == (0, 2)
    assert queue.remark() == ""


def test_a_queue_that_ran_dry_is_said() -> None:
    gpu = SimulatedGpu()
    queue = GpuStepQueue(DeviceQueue(gpu, gpu.clock), gpu.clock)
    launch_step(gpu, queue, recorded=True)
    assert queue.waited() == (2, 2)
    assert "before 2 of 2 forward passes" in queue.remark()


# -- failures -------------------------------------------------------------------------------


def test_reasons_are_one_line() -> None:
    import torch

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\n a total capacity of")
    assert reason_of(error) == "out of memory (tried to allocate 2.00 GiB)"
    assert reason_of(ValueError("heads\n do not divide")) == "heads do not divide"
    assert reason_of(RuntimeError("a\nb")) == "RuntimeError: a b"
    assert reason_of(KeyError()) == "KeyError"


def play(directory: Path, *flags: str) -> Any:
    return run_python(
        [
            *("-m", "vtrain_plugin.cli", "rank", "--out", str(directory), "--run-id", "r", "--world-size", "16"),
            *(*MODEL, "--vocab-size", "512", "--warmup", "0", "--steps", "1", *flags),
        ],
        env={"PYTHONPATH": TESTS},
        check=False,
    )


@pytest.mark.slow
def test_a_size_that_fails_costs_no_other_anything(tmp_path: Path) -> None:
    """tp 3 does not divide the heads, tp 2 fails while it runs, tp 4 is written."""
    done = play(tmp_path, "--all-tp", "2,3,4", "--prelude", "support.failing_shims", "--layers", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("vtrain:")] == [
        "not measured: tp 2, micro batch size 1: out of memory (tried to allocate 3.00 GiB)",
        "not measured: tp 3, micro batch size 1: --world-size is 16: it must be a multiple of tensor x pipeline "
        "parallel size (3)",
        f"wrote {tmp_path}/run_id=r-tp4-mbs1",
    ]
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path)]).problems
    (run,) = catalog.runs()
    assert run["run_id"] == "r-tp4-mbs1"
    row = catalog.show("r-tp4-mbs1")["run"]
    assert (row["num_layers"], row["layers_built"]) == (8, 2)


@pytest.mark.slow
def test_a_shard_larger_than_the_memory_never_starts(tmp_path: Path) -> None:
    large = ("--hidden-size", "65536", "--num-attention-heads", "64", "--prelude", "support.cpu_shims")
    done = play(tmp_path, *large)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("vtrain-profile")]
    assert re.match(r"vtrain-profile: the shard needs [\d.e+]+ GB or more \(weights", line)
    assert not list(tmp_path.iterdir())
    several = play(tmp_path, *large, "--micro-batch-sizes", "1,2")
    assert several.returncode == 1
    assert len([line for line in several.stdout.splitlines() if line.startswith("not measured: tp 1")]) == 2


@pytest.mark.slow
def test_what_the_libraries_cannot_run_is_said(tmp_path: Path) -> None:
    if __import__("importlib.util").util.find_spec("transformer_engine"):
        pytest.skip("Transformer Engine is there")
    for flags in (("--fp8-format", "hybrid"), ("--multi-latent-attention",)):
        done = play(tmp_path, *flags, "--prelude", "support.cpu_shims")
        assert done.returncode == 1
        assert f"not measured: tp 1, micro batch size 1: {flags[0]}" in done.stdout
        assert "needs Transformer Engine" in done.stdout
        assert "Traceback" not in done.stderr
