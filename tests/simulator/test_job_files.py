"""Files other than launch scripts that say what a training is."""

from __future__ import annotations

import argparse
import enum
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

import vtrain as vt
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.job_files import read_job_file
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.specs import Configuration

BRIDGE = """
_target_: megatron.bridge.training.config.ConfigContainer
model:
  _target_: megatron.bridge.models.gpt_provider.GPTModelProvider
  num_layers: 16
  hidden_size: 2048
  ffn_hidden_size: 8192
  num_attention_heads: 32
  num_query_groups: 8
  kv_channels: 64
  seq_length: 8192
  vocab_size: 128256
  gated_linear_unit: true
  activation_func: {_target_: torch.nn.functional.silu, _call_: false}
  add_bias_linear: false
  normalization: RMSNorm
  position_embedding_type: rope
  share_embeddings_and_output_weights: false
  hidden_dropout: 0.0
  attention_dropout: 0.0
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 2
  virtual_pipeline_model_parallel_size: 4
  sequence_parallel: true
  params_dtype: {_target_: torch.bfloat16, _call_: false}
  moe_router_topk: 2
  moe_token_dispatcher_type: allgather
  qk_head_dim: 128
  recompute_granularity: null
  recompute_method: block
  cp_comm_type: null
train: {micro_batch_size: 1, global_batch_size: 64, train_iters: 10}
ddp: {overlap_grad_reduce: true, use_distributed_optimizer: true, bucket_size: null, data_parallel_sharding_strategy: no_shard}
optimizer: {optimizer: adam, lr: 0.0003}
mixed_precision: {bf16: true, params_dtype: {_target_: torch.bfloat16, _call_: false}}
"""
TORCHTITAN = """
[model]
name = "llama3"
flavor = "70B"
[training]
local_batch_size = 8
seq_len = 8192
[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = 32
tensor_parallel_degree = 8
[activation_checkpoint]
mode = "full"
"""
FUNCTIONAL = """
ENV_VARS:
  PYTORCH_CUDA_ALLOC_CONF: "expandable_segments:True"
MODEL_ARGS:
  --num-layers: 12
  --hidden-size: 512
  --num-attention-heads: 8
  --seq-length: 1024
  --micro-batch-size: 4
  --global-batch-size: 32
  --recompute-granularity: selective
  --recompute-modules: "[moe_act layernorm]"
  --num-experts: 8
  --context-parallel-size: 4
  --cp-comm-type: a2a+p2p
  --hierarchical-context-parallel-sizes: 2 2
  --moe-layer-freq: ([0]*3+[1]*9)
  --data-path: ${DATA_PATH}/text
  --bf16: true
  --save: ""
TEST_TYPE: regular
"""


def configuration(path: Path) -> Configuration:
    launch = read_job_file(path)
    return configuration_from_flags(launch.arguments, None, launch.processes)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_megatron_s_functional_tests(tmp_path: Path) -> None:
    read = configuration(written(tmp_path / "model_config.yaml", FUNCTIONAL))
    assert (read.model.num_layers, read.model.num_experts, read.model.moe_layer_freq) == (12, 8, "([0]*3+[1]*9)")
    assert read.train.recompute_modules == ("moe_act", "layernorm")
    assert (read.train.micro_batch_size, read.train.expandable_segments) == (4, True)
    assert (read.parallel.cp, read.parallel.cp_comm_type, read.parallel.cp_a2a_size) == (4, "a2a+p2p", 2)


def test_recipes(tmp_path: Path) -> None:
    read = configuration(written(tmp_path / "recipe.yaml", BRIDGE))
    model, parallel, train = read.model, read.parallel, read.train
    assert (model.num_layers, model.hidden_size, model.num_query_groups, model.seq_length) == (16, 2048, 8, 8192)
    assert (model.swiglu, model.add_bias_linear, model.dropout, model.untie_embeddings_and_output_weights) == (
        True,
        False,
        False,
        True,
    )
    assert (model.num_experts, model.multi_latent_attention) == (0, False)
    assert (parallel.tp, parallel.pp, parallel.vpp, parallel.sequence_parallel) == (2, 2, 4, True)
    assert (parallel.distributed_optimizer, parallel.overlap_grad_reduce) == (True, True)
    assert (train.params_dtype, train.global_batch_size, train.recompute_granularity) == ("bfloat16", 64, "none")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("cp_comm_type: null", "cp_comm_type: [p2p, a2a]"), "layers that differ in it are not simulated"),
        (("GPTModelProvider", "T5ModelProvider"), "T5ModelProvider, which is not simulated"),
        (("  num_layers: 16\n", ""), "does not say num_layers"),
        (("torch.nn.functional.silu", "torch.nn.functional.relu"), "activation_func is relu with a gate"),
    ],
)
def test_recipes_of_something_else_are_refused(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    assert change[0] in BRIDGE
    with pytest.raises(UserError, match=why):
        configuration(written(tmp_path / "recipe.yaml", BRIDGE.replace(*change)))


def test_torchtitan(tmp_path: Path) -> None:
    job = vt.job.from_script(written(tmp_path / "job.toml", TORCHTITAN), cluster="dgx-h100")
    parallel, train = job.configuration.parallel, job.configuration.train
    assert job.configuration.model.name == "llama3-70b"
    assert (parallel.tp, parallel.dp, parallel.fsdp, parallel.sequence_parallel) == (8, 32, True, True)
    assert (train.micro_batch_size, train.global_batch_size, train.recompute_granularity) == (8, 256, "full")
    with pytest.raises(UserError, match="no preset for llama3 debugmodel"):
        vt.job.from_script(written(tmp_path / "job.toml", TORCHTITAN.replace("70B", "debugmodel")), cluster="dgx-h100")
    with pytest.raises(UserError, match="give --num-gpus"):
        vt.job.from_script(written(tmp_path / "job.toml", TORCHTITAN.replace("= 32", "= -1")), cluster="dgx-h100")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("", "all_gather"),
        ('context_parallel_rotate_method = "allgather"\n', "all_gather"),
        ('context_parallel_rotate_method = "alltoall"\n', "p2p"),
    ],
)
def test_torchtitan_gathers_keys_and_values_or_passes_them_round(tmp_path: Path, line: str, kind: str) -> None:
    text = TORCHTITAN.replace("[parallelism]\n", f"[parallelism]\ncontext_parallel_degree = 2\n{line}")
    parallel = configuration_of_preset(written(tmp_path / "job.toml", text)).parallel
    assert (parallel.cp, parallel.cp_comm_type) == (2, kind)


def test_torchtitan_has_no_other_way(tmp_path: Path) -> None:
    lines = 'context_parallel_degree = 2\ncontext_parallel_rotate_method = "none"\n'
    path = written(tmp_path / "job.toml", TORCHTITAN.replace("[parallelism]\n", f"[parallelism]\n{lines}"))
    with pytest.raises(
        UserError, match="context_parallel_rotate_method is 'none': it takes one of allgather, alltoall"
    ):
        configuration_of_preset(path)


def configuration_of_preset(path: Path) -> Configuration:
    return vt.job.from_script(path, cluster="dgx-h100").configuration


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("a2a\n  context_parallel_size: 2", ("a2a", 0)),
        ("[a2a, a2a]\n  context_parallel_size: 2", ("a2a", 0)),
        ("a2a+p2p\n  hierarchical_context_parallel_sizes: [2, 2]\n  context_parallel_size: 4", ("a2a+p2p", 2)),
    ],
)
def test_recipes_say_what_context_parallel_ranks_exchange(
    tmp_path: Path, fields: str, expected: tuple[str, int]
) -> None:
    recipe = BRIDGE.replace("cp_comm_type: null", f"cp_comm_type: {fields}")
    parallel = configuration(written(tmp_path / "recipe.yaml", recipe)).parallel
    assert (parallel.cp_comm_type, parallel.cp_a2a_size) == expected


class AttnBackend(enum.Enum):
    flash = 1


ARGS: dict[str, Any] = {
    "num_layers": 24, "hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 16, "kv_channels": 64,
    "seq_length": 2048, "encoder_seq_length": 2048, "max_position_embeddings": 2048, "padded_vocab_size": 50304,
    "vocab_size": None, "make_vocab_size_divisible_by": 128, "tensor_model_parallel_size": 2, "sequence_parallel": False,
    "pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": None, "context_parallel_size": 1,
    "world_size": 16, "data_parallel_size": 4, "micro_batch_size": 2, "global_batch_size": 64, "bf16": True, "fp16": False,
    "group_query_attention": False, "num_query_groups": 1, "add_position_embedding": True, "swiglu": False,
    "position_embedding_type": "learned_absolute", "add_bias_linear": True, "untie_embeddings_and_output_weights": False,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "num_experts": None, "moe_router_topk": 2, "q_lora_rank": None,
    "kv_lora_rank": 32, "qk_head_dim": 128, "data_parallel_sharding_strategy": "no_shard", "mamba_state_dim": 128,
    "recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 3, "fp8": None,
    "fp8_recipe": "delayed", "moe_flex_dispatcher_backend": "deepep", "use_distributed_optimizer": True,
    "optimizer": "adam", "cuda_graph_impl": "none", "overlap_p2p_comm": True, "main_grads_dtype": "fp32",
    "attention_backend": AttnBackend.flash, "cp_comm_type": ["p2p"], "num_distributed_optimizer_instances": 1,
    "transformer_impl": "transformer_engine", "normalization": "LayerNorm", "cross_entropy_fusion_impl": "native",
}  # fmt: skip


def checkpoint(path: Path, content: object) -> Path:
    """A file as torch.save writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")
    return path


def check_arguments(read: Configuration) -> None:
    assert (read.model.num_layers, read.model.vocab_size, read.model.dropout) == (24, 50304, False)
    assert (read.parallel.tp, read.parallel.pp, read.parallel.vpp, read.parallel.dp) == (2, 2, 1, 4)
    assert read.parallel.distributed_optimizer
    assert (read.train.recompute_granularity, read.train.recompute_method, read.train.recompute_num_layers) == (
        "full",
        "block",
        3,
    )
    assert (read.train.micro_batch_size, read.train.params_dtype, read.train.attention_kernel) == (
        2,
        "bfloat16",
        "flash",
    )


def test_checkpoints(tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(**ARGS), "iteration": 100, "other": AttnBackend.flash}
    check_arguments(configuration(checkpoint(tmp_path / "common.pt", content)))
    folder = tmp_path / "checkpoints" / "iter_0000100"
    folder.mkdir(parents=True)
    checkpoint(folder / "common.pt", content)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("100")
    check_arguments(configuration(tmp_path / "checkpoints"))


def test_checkpoints_that_torch_wrote(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    arguments = argparse.Namespace(**ARGS | {"params_dtype": torch.bfloat16})
    torch.save(
        {"args": arguments, "weights": {"w": torch.ones(3)}, "state": torch.nn.Linear(2, 2).state_dict()},
        tmp_path / "a.pt",
    )
    check_arguments(configuration(tmp_path / "a.pt"))


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_nothing_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    for content in (_Evil(tmp_path / "ran"), {"args": _Evil(tmp_path / "ran")}):
        with pytest.raises(UserError, match="no args of Megatron-LM"):
            read_job_file(checkpoint(tmp_path / "a.pt", content))
    values = argparse.Namespace(**ARGS | {"num_layers": _Evil(tmp_path / "ran")})
    with pytest.raises(UserError):
        configuration(checkpoint(tmp_path / "a.pt", {"args": values}))
    assert not (tmp_path / "ran").exists()


def test_lists_within_lists_without_end_are_refused(tmp_path: Path) -> None:
    doubled: tuple[object, ...] = ("x",)
    for _ in range(40):
        doubled = (doubled, doubled)
    itself: list[object] = []
    itself.append(itself)
    for value in (doubled, itself):
        values = argparse.Namespace(**ARGS | {"recompute_modules": value})
        with pytest.raises(UserError, match="longer than any"):
            read_job_file(checkpoint(tmp_path / "a.pt", {"args": values}))
    names = [f"&{a} [{', '.join([f'*{b}'] * 9)}]" for a, b in zip("bcdefghi", "abcdefgh", strict=True)]
    lines = ["a: &a [x]", *(f"{name[1]}: {name}" for name in names), "MODEL_ARGS: {--num-layers: *i}"]
    with pytest.raises(UserError, match="longer than any"):
        read_job_file(written(tmp_path / "a.yaml", "\n".join(lines)))


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"\x80\x04.", b"\x80\x02cposix\nsystem\n(S'true'\ntR.", b"\x80\x02]q\x00h\x05."]
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pt"):
        read_job_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
    with pytest.raises(UserError, match=r"a\.pt"):
        read_job_file(path)
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_job_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.json", "{}", "give it with --model"),
        ("a.toml", "tp = 2", "no configuration of torchtitan"),
        ("a.yaml", "- 1", "holds no names"),
        ("a.yaml", "MODEL_ARGS:\n  --num-layers: 2\n", "incomplete"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        configuration(written(tmp_path / name, text))
