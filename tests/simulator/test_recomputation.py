"""Selective recomputation by module: what is kept less, and what runs again."""

from __future__ import annotations

from collections import Counter

import pytest

import vtrain as vt
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Parts
from vtrain_sim.simulate.memory import recomputed_bytes
from vtrain_sim.specs import Configuration
from vtrain_sim.specs.recompute import MODULES
from vtrain_sim.specs.shard import ChunkSpec, LayerKind

S, B, H, FFN, TOPK, EXPERT, SHARED = 512, 2, 1024, 4096, 2, 512, 256
HEADS, QK, ROPE, V = 8, 64, 32, 48
SBH = S * B * H * 2
GPT = (
    f"--num-layers 2 --hidden-size {H} --num-attention-heads {HEADS} --seq-length {S} --ffn-hidden-size {FFN} "
    f"--micro-batch-size {B} --global-batch-size 16 --swiglu --disable-bias-linear --normalization RMSNorm "
    "--hidden-dropout 0 --attention-dropout 0"
)
MOE = (
    f"--num-experts 8 --moe-router-topk {TOPK} --moe-ffn-hidden-size {EXPERT} "
    f"--moe-shared-expert-intermediate-size {SHARED}"
)
LATENT = (
    f"--multi-latent-attention --q-lora-rank 96 --kv-lora-rank 64 --qk-head-dim {QK} --qk-pos-emb-head-dim {ROPE} "
    f"--v-head-dim {V}"
)
MIXTURE, DENSE = LayerKind(mixture=True), LayerKind()


def read(flags: str, modules: str = "") -> Configuration:
    recompute = f"--recompute-granularity selective --recompute-modules {modules}" if modules else ""
    return configuration_from_flags(f"{GPT} {flags} {recompute}".split())


def again(configuration: Configuration, kind: LayerKind) -> Counter[str]:
    program = Parts(configuration.shard).layer(kind)
    return Counter(i.name for i in program.backward if isinstance(i, Compute) and i.operator.phase == "recompute")


TOKENS = S * B
ROWS = TOKENS * TOPK
# Bytes that a layer keeps less, and what runs again.
CASES = [
    (MOE, "moe_act", MIXTURE, ROWS * EXPERT * 2, {"activation"}),
    # Both norms' outputs: the first product's input, and the router's.
    (MOE, "layernorm", MIXTURE, 2 * SBH, {"input_layernorm", "pre_mlp_layernorm"}),
    ("", "layernorm", DENSE, 2 * SBH, {"input_layernorm", "pre_mlp_layernorm"}),
    # The first product's input (the norm is in it), both halves of the gate, and the second one's input.
    ("", "mlp", DENSE, SBH + 3 * TOKENS * FFN * 2, {"pre_mlp_layernorm", "linear_fc1", "activation", "linear_fc2"}),
    (MOE, "shared_experts", MIXTURE, 3 * TOKENS * SHARED * 2, {"shared_fc1", "activation", "shared_fc2"}),
    (
        LATENT,
        "mla_up_proj",
        DENSE,
        TOKENS * HEADS * (2 * (QK + ROPE) + V) * 2,
        {"linear_q_up", "linear_kv_up", "rope"},
    ),
]


@pytest.mark.parametrize(
    ("flags", "modules", "kind", "freed", "names"),
    CASES,
    ids=lambda c: str(sorted(c) if isinstance(c, set) else c)[:16],
)
def test_a_module_keeps_less_and_runs_again(
    flags: str, modules: str, kind: LayerKind, freed: int, names: set[str]
) -> None:
    plain, selective = read(flags), read(flags, modules)
    before, after = (Parts(c.shard).layer(kind) for c in (plain, selective))
    assert before.saved_bytes - after.saved_bytes == freed
    assert again(plain, kind) == {}
    assert set(again(selective, kind)) == names
    assert (after.parameters, after.expert_parameters) == (before.parameters, before.expert_parameters)
    assert recomputed_bytes(Parts(selective.shard), ChunkSpec(((kind, 1),))) == freed


def test_a_whole_mixture_runs_again_from_its_input() -> None:
    plain, selective = read(MOE), read(MOE, "moe")
    kept = [Parts(c.shard).layer(MIXTURE).saved_bytes for c in (plain, selective)]
    attention = Parts(plain.shard).layer(MIXTURE).saved_bytes - kept[0]
    assert attention == 0
    names = again(selective, MIXTURE)
    assert {"router", "permute", "experts_fc1", "experts_fc2", "shared_fc1"} <= set(names)
    assert "pre_mlp_layernorm" not in names
    # With the norm too, its output is not kept either.
    both = read(MOE, "moe layernorm")
    assert kept[1] - Parts(both.shard).layer(MIXTURE).saved_bytes == 2 * SBH
    assert "pre_mlp_layernorm" in again(both, MIXTURE)


def test_eight_bits_are_kept_no_more_and_made_again() -> None:
    eight = f"{MOE} --fp8-format hybrid --fp8-recipe tensorwise"
    kept = [Parts(read(eight, modules).shard).layer(MIXTURE).saved_bytes for modules in ("", "moe_act")]
    assert kept[0] - kept[1] == ROWS * EXPERT
    assert set(again(read(eight, "moe_act"), MIXTURE)) == {"activation", "experts_fc2_amax", "experts_fc2_cast"}


def test_modules_come_back_from_flags() -> None:
    configuration = read(f"{MOE} {LATENT}", " ".join(reversed(MODULES)))
    assert configuration.train.recompute_modules == tuple(MODULES)
    assert configuration_from_flags(emit_flags(configuration)) == configuration
    assert read("").train.recomputed_modules == ()


def test_the_public_api_takes_modules() -> None:
    job = vt.job(
        "gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16, recompute="selective", recompute_modules=["mlp"]
    )
    plain = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    memory, time = (
        [getter(vt.project(one)) for one in (job, plain)]
        for getter in (lambda p: p.memory.worst.activations_bytes, lambda p: p.iteration_time_s)
    )
    assert memory[0] < 0.7 * memory[1]
    assert time[0] > 1.1 * time[1]
