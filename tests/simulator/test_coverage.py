"""What Megatron can do beyond a plain GPT: counts of FLOPs, bytes, parameters and messages by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.model import (
    Communication,
    Compute,
    Item,
    Parts,
    Program,
    Wait,
    build_step,
    communications_of,
    operators_of,
)
from vtrain_sim.model.attention import attention_block
from vtrain_sim.model.chunks import PartName
from vtrain_sim.model.shard import Shard
from vtrain_sim.simulate.batch import Evaluator
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.shard import LayerKind

S, H, FFN = 1024, 512, 1024
DENSE = ModelSpec(
    4,
    H,
    8,
    S,
    1024,
    ffn_hidden_size=FFN,
    swiglu=True,
    add_bias_linear=False,
    normalization="RMSNorm",
    position_embedding_type="rope",
)
EXPERTS = replace(DENSE, num_experts=8, moe_router_topk=2, moe_ffn_hidden_size=256)
STEP = TrainSpec(1, 8)


def layer(configuration: Configuration, moe: bool = False, recomputed: bool = False) -> Program:
    return Parts(configuration.shard).layer(LayerKind(moe, recomputed))


def shapes(program: Program, direction: str = "forward") -> Counter[tuple[str, int, int, int]]:
    return Counter(
        (i.name, i.operator.m, i.operator.n, i.operator.k)
        for i in operators_of(getattr(program, direction))
        if i.operator.kind in ("gemm", "grouped_gemm")
    )


def messages(program: Program, direction: str = "forward") -> list[tuple[str, str, str, int]]:
    return [(i.name, i.op, i.role, i.nbytes) for i in communications_of(getattr(program, direction))]


def flops(program: Program, direction: str) -> float:
    return sum(
        i.operator.flops()
        for i in operators_of(getattr(program, direction))
        if i.operator.kind in ("gemm", "grouped_gemm", "router", "attention")
    )


def test_grouped_queries_share_keys_and_values() -> None:
    model = replace(DENSE, num_query_groups=2)
    found = shapes(layer(Configuration(model, ParallelSpec(tp=2), STEP)))
    # (8 query heads + 2 x 2 groups) of 64 channels, over two ranks.
    assert found["linear_qkv", S, 384, H] == 1
    assert found["linear_fc1", S, FFN, H] == 1  # gate and up, over two ranks


def test_latent_attention() -> None:
    """DeepSeek-V3's layer: 187.1 million parameters of attention, its published shapes and messages."""
    model = presets.model("deepseek-v3")
    c = Configuration(model, ParallelSpec(tp=4, sequence_parallel=True), TrainSpec(1, 8))
    program = layer(c)
    tokens, local, heads = 4096, 1024, 32
    assert shapes(program)["linear_q_down", local, 1536, 7168] == 1
    assert shapes(program)["linear_kv_down", local, 512 + 64, 7168] == 1
    assert shapes(program)["linear_q_up", tokens, heads * 192, 1536] == 1
    assert shapes(program)["linear_kv_up", tokens, heads * 256, 512] == 1
    assert shapes(program)["linear_proj", tokens, 7168, heads * 128] == 1
    # What is gathered is the compressed rows, not the hidden ones.
    assert ("attention_latent", "all_gather", "tp", tokens * (1536 + 576) * 2) in messages(program)
    attention, _ = attention_block(Shard(replace(c, parallel=ParallelSpec()).shard))
    whole = sum(i.parameters for i in attention if isinstance(i, Compute))
    assert whole == 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168 + 7168 + 1536 + 512


def test_experts_by_hand() -> None:
    """8 experts over 4 ranks, 2 of them for each token: every rank gets as many rows as it sends."""
    c = Configuration(EXPERTS, ParallelSpec(dp=4, ep=4), STEP)
    program = layer(c, moe=True)
    rows = 2 * S
    assert shapes(program)["experts_fc1", rows, 2 * 256, H] == 1
    assert shapes(program)["experts_fc2", rows, H, 256] == 1
    assert messages(program) == [(name, "all_to_all", "ep", rows * H * 2) for name in ("dispatch", "combine")]
    assert program.expert_parameters == 2 * 3 * H * 256
    stage = build_step(c).stages[0]
    assert [(i.role, i.size) for i in stage.sync if isinstance(i, Communication)] == [("dp", 4)]


def test_shared_experts_and_dense_first_layers() -> None:
    model = replace(EXPERTS, moe_shared_expert_intermediate_size=384, moe_layer_freq="([0]+[1]*3)")
    c = Configuration(model, ParallelSpec(), STEP)
    assert shapes(layer(c, moe=True))["shared_fc1", S, 2 * 384, H] == 1
    (chunk,) = build_step(c).stages[0].chunks
    assert {p.name: n for p, n in chunk if p.name.startswith("layer")} == {"layer": 1, "layer_moe": 3}


def test_expert_tensor_parallelism() -> None:
    """With two tensor ranks an expert each has half of its columns, and the rows of both."""
    c = Configuration(EXPERTS, ParallelSpec(tp=2, dp=2, ep=2, sequence_parallel=True), STEP)
    program = layer(c, moe=True)
    rows = S // 2 * 2
    assert shapes(program)["experts_fc1", 2 * rows, 2 * 128, H] == 1
    assert ("dispatch", "all_gather", "expert_tp", 2 * rows * H * 2) in messages(program)
    assert ("combine", "reduce_scatter", "expert_tp", 2 * rows * H * 2) in messages(program)
    alone = replace(c, parallel=replace(c.parallel, expert_tp=1, ep=4))
    assert shapes(layer(alone, moe=True))["experts_fc1", rows, 2 * 256, H] == 1
    assert alone.parallel.expert_dp == 1


def test_experts_one_after_the_other() -> None:
    """The same products, parameters and memory, but each expert has its own with its part of the rows."""
    together = Configuration(EXPERTS, ParallelSpec(dp=4, ep=4), STEP)
    program = layer(replace(together, train=replace(STEP, moe_grouped_gemm=False)), moe=True)
    assert shapes(program)["experts_fc1", S, 2 * 256, H] == shapes(program)["experts_fc2", S, H, 256] == 2
    assert shapes(program, "backward")["experts_fc1", S, 2 * 256, H] == 2
    assert program.expert_parameters == layer(together, moe=True).expert_parameters
    assert program.saved_bytes == layer(together, moe=True).saved_bytes
    assert flops(program, "forward") == flops(layer(together, moe=True), "forward")
    with pytest.raises(SpecError, match="--no-moe-grouped-gemm needs --num-experts"):
        Configuration(DENSE, ParallelSpec(), replace(STEP, moe_grouped_gemm=False))


def test_imbalance_loads_the_busiest_rank() -> None:
    even = Configuration(EXPERTS, ParallelSpec(dp=4, ep=4), STEP)
    uneven = replace(even, model=replace(EXPERTS, moe_imbalance_factor=1.5))
    assert shapes(layer(uneven, moe=True))["experts_fc1", 3 * S, 512, H] == 1
    assert messages(layer(uneven, moe=True))[0][3] == 1.5 * messages(layer(even, moe=True))[0][3]
    # Half a batch of rows more: what comes in, two tensors of the gated activation, its product, a weight in 32 bits.
    more = S * ((H + 2 * 256 + 256) * 2 + 4)
    assert layer(uneven, moe=True).saved_bytes - layer(even, moe=True).saved_bytes == more


@pytest.mark.parametrize("untied", [True, False])
def test_fully_sharded_parameters_are_gathered_twice_and_gradients_scattered_once(untied: bool) -> None:
    """A tied table is gathered for the embedding and for the output layer."""
    model = replace(DENSE, untie_embeddings_and_output_weights=untied)
    stage = build_step(Configuration(model, ParallelSpec(dp=4, fsdp=True), STEP)).stages[0]
    gathered = stage.parameters if untied else stage.parameters + 1024 * H
    for direction in ("forward", "backward"):
        exchanged: Counter[str] = Counter()
        for program, count in stage.chunks[0]:
            for name, _, role, nbytes in messages(program, direction):
                assert role == "dp"
                exchanged[name] += nbytes * count
        # Parameters in 16 bits, gradients in 32.
        assert exchanged["param_gather"] == 2 * gathered
        assert exchanged["grad_sync"] == (4 * stage.parameters if direction == "backward" else 0)
    assert not [i for i in (*stage.sync, *stage.update) if isinstance(i, Communication) and i.role == "dp"]


def beside(items: tuple[Item, ...]) -> dict[str, list[str]]:
    """Operators that are issued between each communication and the wait for it."""
    running: dict[str, list[str]] = {}
    ended: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, Communication) and not item.blocking:
            running[item.name] = []
        elif isinstance(item, Wait):
            ended[item.name] = running.pop(item.name)
        elif isinstance(item, Compute):
            for names in running.values():
                names.append(item.name)
    assert not running
    return ended


def test_tensor_parallel_overlap_hides_the_same_messages() -> None:
    parallel = ParallelSpec(tp=4, sequence_parallel=True)
    plain = layer(Configuration(DENSE, parallel, STEP))
    overlapped = layer(Configuration(DENSE, replace(parallel, tp_comm_overlap=True), STEP))
    assert messages(plain) == messages(overlapped)
    assert beside(overlapped.forward) == {
        "attention_qkv": ["linear_qkv"],
        "attention": ["linear_proj"],
        "mlp_fc1": ["linear_fc1"],
        "mlp": ["linear_fc2"],
    }
    assert beside(plain.forward) == {}


def test_zero_bubble_splits_the_backward_pass_and_loses_nothing() -> None:
    whole = Configuration(DENSE, ParallelSpec(pp=2), STEP)
    split = replace(whole, train=replace(STEP, schedule="zb-h1"))
    assert not layer(whole).weight
    assert flops(layer(split), "backward") + flops(layer(split), "weight") == flops(layer(whole), "backward")
    # Attention has no weights: all of its backward pass is the input's.
    assert all(i.operator.phase == "wgrad" for i in layer(split).weight if isinstance(i, Compute))
    with pytest.raises(SpecError, match="splits the backward pass"):
        replace(split, train=replace(split.train, recompute_granularity="full"))


def test_weights_gather_their_inputs_in_their_own_pass() -> None:
    """Beside the product before; the sum of input gradients has nothing to hide behind."""
    parallel = ParallelSpec(pp=2, tp=2, sequence_parallel=True)
    program = layer(Configuration(DENSE, parallel, replace(STEP, schedule="zb-h1")))
    back = [i for i in program.backward if isinstance(i, Communication)]
    assert [(i.name, i.op, i.blocking) for i in back] == [
        ("mlp", "all_gather", True),
        ("mlp_fc1", "reduce_scatter", True),
        ("attention", "all_gather", True),
        ("attention_qkv", "reduce_scatter", True),
    ]
    assert beside(program.weight) == {"mlp_fc1_again": ["linear_fc2"], "attention_qkv_again": ["linear_proj"]}
    whole = layer(Configuration(DENSE, replace(parallel, pp=1), STEP))
    assert Counter(messages(whole, "backward")) == Counter(messages(program, "backward") + messages(program, "weight"))


def norm_gradients(model: ModelSpec, **parallel: Any) -> list[int]:
    """Elements that tensor parallel ranks sum once per step."""
    stage = build_step(Configuration(model, ParallelSpec(tp=2, **parallel), STEP)).stages[0]
    return [i.nbytes // 4 for i in stage.sync if isinstance(i, Communication) and i.name == "norm_grads"]


def test_gradients_of_what_every_tensor_rank_has_are_summed() -> None:
    """Where each has a part of the sequence: norms (gains, and shifts of a LayerNorm), biases of sums, the router,
    the down-projections of latent attention (Megatron-Core's parameters that are marked sequence_parallel)."""
    assert norm_gradients(DENSE) == []
    assert norm_gradients(DENSE, sequence_parallel=True) == [4 * 2 * H + H]
    wide = replace(DENSE, normalization="LayerNorm", add_bias_linear=True)
    assert norm_gradients(wide, sequence_parallel=True) == [4 * (4 * H + 2 * H) + 2 * H]
    assert norm_gradients(EXPERTS, sequence_parallel=True) == [4 * (2 * H + 8 * H) + H]
    latent = replace(
        DENSE, multi_latent_attention=True, q_lora_rank=48, kv_lora_rank=32, qk_head_dim=16, qk_pos_emb_head_dim=8,
        v_head_dim=16,
    )  # fmt: skip
    assert norm_gradients(latent, sequence_parallel=True) == [4 * (2 * H + H * (48 + 32 + 8)) + H]


def test_eight_bit_products() -> None:
    c = Configuration(DENSE, ParallelSpec(), replace(STEP, fp8="hybrid"))
    kinds = {i.name: i.operator.dtype for i in layer(c).forward if isinstance(i, Compute)}
    assert {kinds[n] for n in ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")} == {"float8"}
    assert kinds["core_attention"] == kinds["activation"] == "bfloat16"
    assert [i.operator.dtype for i in Parts(c.shard).program(PartName("head")).forward if isinstance(i, Compute)] == [
        "bfloat16"
    ] * 3
    # Inputs of three products take a byte less; that of the fourth is a copy of what attention keeps anyway.
    plain = layer(replace(c, train=STEP))
    assert plain.saved_bytes - layer(c).saved_bytes == S * (2 * H + FFN) - S * H
    with pytest.raises(SpecError, match="--bf16"):
        replace(STEP, fp8="e4m3", params_dtype="float16")


def test_context_parallel_ranks_share_the_sequence() -> None:
    c = Configuration(DENSE, ParallelSpec(cp=4), STEP)
    assert shapes(layer(c))["linear_fc2", S // 4, H, FFN] == 1
    (ring,) = messages(layer(c))
    assert ring == ("cp_ring", "all_gather", "cp", 2 * S * H * 2)
    (core,) = [i.operator for i in operators_of(layer(c).forward) if i.name == "core_attention"]
    assert (core.seq_q, core.seq_kv) == (S // 4, S)


def test_uneven_stages_have_their_layers() -> None:
    c = Configuration(DENSE, ParallelSpec(pp=3, layers=(1, 2, 1)), STEP)
    held = [sum(n for p, n in stage.chunks[0] if p.name == "layer") for stage in build_step(c).stages]
    assert held == [1, 2, 1]
    with pytest.raises(SpecError, match="5 layers in all"):
        Configuration(DENSE, ParallelSpec(pp=3, layers=(2, 2, 1)), STEP)


@pytest.mark.parametrize(
    ("model", "parallel", "word"),
    [
        (DENSE, {"ep": 2, "dp": 2}, "--num-experts"),
        (EXPERTS, {"tp": 2}, "needs --sequence-parallel"),
        (EXPERTS, {"dp": 3, "ep": 3}, "does not divide --num-experts"),
        (DENSE, {"tp": 2, "tp_comm_overlap": True}, "--tp-comm-overlap needs"),
        (DENSE, {"pp": 2, "fsdp": True}, "--pipeline-model-parallel-size of 1"),
        (DENSE, {"fsdp": True, "distributed_optimizer": True}, "shards the optimizer itself"),
        (DENSE, {"expert_tp": 2, "dp": 2}, "--expert-tensor-parallel-size needs --num-experts"),
        (DENSE, {"pp": 3}, "does not divide --num-layers"),
        (DENSE, {"tp": 2, "sequence_parallel": True, "scatter_gather": True}, "nothing to scatter"),
    ],
)
def test_what_megatron_cannot_do_is_refused_with_the_reason(
    model: ModelSpec, parallel: dict[str, object], word: str
) -> None:
    with pytest.raises(SpecError, match=word):
        Configuration(model, ParallelSpec(**parallel), TrainSpec(1, 12))  # type: ignore[arg-type]


def test_everything_is_estimated_on_every_cluster() -> None:
    many = [
        Configuration(EXPERTS, ParallelSpec(tp=2, pp=2, dp=4, ep=4, expert_tp=1, sequence_parallel=True), STEP),
        Configuration(DENSE, ParallelSpec(dp=8, fsdp=True), STEP),
        Configuration(DENSE, ParallelSpec(pp=4, layers=(0, 2, 1, 1)), replace(STEP, schedule="zb-h2")),
        Configuration(replace(DENSE, seq_length=4096), ParallelSpec(cp=4, tp=2), STEP),
    ]
    for name in presets.names("clusters"):
        cluster = presets.cluster(name)
        surface = DeviceSurface(cluster.device, Surfaces.from_dict(presets.cluster_surfaces(name)))
        evaluator = Evaluator(cluster, OperatorCosts(surface), CollectiveCosts(cluster))
        in_8_bits = [replace(c, train=replace(STEP, fp8="hybrid")) for c in many if c.train is STEP]
        found = evaluator.evaluate(many + in_8_bits if "float8" in cluster.device.peak_flops else many)
        assert (found.iteration_time_s > 0).all()
        assert found.fits.all()
