"""A captured run read back is the configuration that ran, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.inputs.megatron_flags import configuration_from_flags, parse_flags
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.moe_pattern import write_pattern

pytest.importorskip("megatron.core")
from plugin.captured_row import captured_row, padded

sizes = st.sampled_from([1, 2, 4])
switch = st.booleans()


@st.composite
def models(draw: st.DrawFn, num_layers: int) -> ModelSpec:
    experts: dict[str, Any] = {}
    if draw(switch):
        pattern = draw(st.lists(st.integers(0, 1), min_size=num_layers, max_size=num_layers))
        experts = {
            "num_experts": 8,
            "moe_router_topk": draw(st.integers(1, 8)),
            "moe_ffn_hidden_size": draw(st.sampled_from([64, 128])),
            "moe_layer_freq": draw(st.sampled_from(["1", "2", write_pattern(pattern)])),
            "moe_shared_expert_intermediate_size": draw(st.sampled_from([0, 96])),
        }
    latent: dict[str, Any] = {}
    if draw(switch):
        latent = {
            "multi_latent_attention": True,
            "q_lora_rank": draw(st.sampled_from([0, 48])),
            "kv_lora_rank": 32,
            "qk_head_dim": 16,
            "qk_pos_emb_head_dim": 8,
            "v_head_dim": 24,
        }
    positions = draw(st.sampled_from(["rope", "learned_absolute", "none"]))
    return ModelSpec(
        num_layers=num_layers,
        hidden_size=512,
        num_attention_heads=8,
        num_query_groups=8 if latent else draw(st.sampled_from([4, 8])),
        kv_channels=draw(st.sampled_from([64, 128])),
        ffn_hidden_size=draw(st.sampled_from([1024, 2048])),
        seq_length=256,
        vocab_size=draw(st.integers(1, 100_000)),
        make_vocab_size_divisible_by=draw(st.sampled_from([1, 128])),
        max_position_embeddings=draw(st.sampled_from([0, 512])) if positions == "learned_absolute" else 0,
        swiglu=draw(switch),
        add_bias_linear=not experts and draw(switch),
        normalization=draw(st.sampled_from(["LayerNorm", "RMSNorm"])),
        position_embedding_type=positions,
        untie_embeddings_and_output_weights=draw(switch),
        add_qkv_bias=draw(switch),
        qk_layernorm=draw(switch),
        dropout=draw(switch),
        **experts,
        **latent,
    )


@st.composite
def layouts(draw: st.DrawFn, moe: bool, layers: tuple[int, ...], pp: int, vpp: int, microbatches: int) -> ParallelSpec:
    tp, dp = draw(sizes), draw(sizes)
    sp = tp > 1 and (moe or draw(switch))
    fsdp = pp == 1 and draw(switch)
    zero = not fsdp and draw(switch)
    overlap = draw(switch)
    overlap_p2p = vpp > 1 and draw(switch)
    expert_tp = draw(st.sampled_from([0, 1])) if moe and tp > 1 else 0
    dispatcher = draw(st.sampled_from(["alltoall", "allgather"])) if moe else "alltoall"
    return ParallelSpec(
        tp=tp,
        pp=pp,
        vpp=vpp,
        dp=dp,
        ep=dp if moe else 1,
        sequence_parallel=sp,
        distributed_optimizer=zero,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap and zero and draw(switch),
        overlap_p2p=overlap_p2p,
        expert_tp=expert_tp,
        fsdp=fsdp,
        tp_comm_overlap=sp and draw(switch),
        async_tp_allreduce=sp or draw(switch),
        batch_p2p=overlap_p2p or draw(switch),
        layers=layers,
        align_grad_reduce=not overlap or draw(switch),
        bucket_size=draw(st.sampled_from([0, 1_000_000])),
        moe_token_dispatcher=dispatcher,
        moe_shared_expert_overlap=moe and dispatcher == "alltoall" and draw(switch),
        microbatch_group_size=draw(st.sampled_from([0, microbatches])) if vpp > 1 and microbatches > pp else 0,
    )


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Configurations in the form in which they are read back: a default is written in one way only."""
    pp = draw(sizes)
    vpp = draw(st.sampled_from([1, 2])) if pp > 1 else 1
    layers = tuple(draw(st.lists(st.integers(1, 3), min_size=pp * vpp, max_size=pp * vpp)))
    model = draw(models(sum(layers)))
    micro_batch_size = draw(st.sampled_from([1, 2]))
    uneven = () if len(set(layers)) == 1 else layers
    parallel = draw(layouts(bool(model.num_experts), uneven, pp, vpp, 2 * pp // micro_batch_size))
    granularity = draw(st.sampled_from(["none", "selective", "full"]))
    dtype = draw(st.sampled_from(["bfloat16", "float16", "float32"]))
    unfused = not model.multi_latent_attention and draw(switch)
    train = TrainSpec(
        micro_batch_size,
        2 * parallel.dp * pp,
        params_dtype=dtype,
        main_grads_dtype=draw(st.sampled_from(["float32", dtype])),
        attention_kernel="unfused" if unfused else "flash",
        recompute_granularity=granularity,
        recompute_method=draw(st.sampled_from(["uniform", "block"])) if granularity == "full" else "uniform",
        recompute_num_layers=draw(st.integers(1, min(layers))) if granularity == "full" else 1,
        fp8=draw(st.sampled_from(["", "hybrid", "e4m3"])) if dtype == "bfloat16" else "",
        gradient_accumulation_fusion=draw(switch),
        moe_grouped_gemm=not model.num_experts or draw(switch),
    )
    return Configuration(model, parallel, train)


quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@quick
@given(configurations())
def test_what_ran_comes_back(configuration: Configuration) -> None:
    assert configuration_from_run(captured_row(configuration)) == configuration


@quick
@given(configurations())
def test_without_megatron_lms_arguments_the_vocabulary_is_padded(configuration: Configuration) -> None:
    assert configuration_from_run(captured_row(configuration, megatron_lm=False)) == padded(configuration)


BASE = Configuration(
    ModelSpec(4, 64, 4, 32, 128, add_bias_linear=False, position_embedding_type="rope"),
    ParallelSpec(),
    TrainSpec(1, 4),
)


def row_with(parts: dict[str, Any], **columns: Any) -> dict[str, Any]:
    """The row of a plain run with some of its configuration's fields replaced."""
    row = {**captured_row(BASE), **columns}
    document = json.loads(row["config_json"])
    for name, value in parts.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    return {**row, "config_json": json.dumps(document)}


@pytest.mark.parametrize(
    ("parts", "columns", "word"),
    [
        ({"mtp_num_layers": 1, "mtp_use_repeated_layer": True}, {}, "multi-token prediction"),
        ({"gated_linear_unit": True, "activation_func": "gelu"}, {}, "SwiGLU"),
        ({"model_class": "T5Model"}, {}, "T5Model"),
        ({"model_class": "BertModel"}, {}, "BertModel"),
        ({"is_hybrid_model": True}, {}, "Mamba"),
        ({"window_size": [128, 128]}, {}, "0 after"),
        ({"heterogeneous_block_specs": True}, {}, "different shapes"),
        ({"experimental_attention_variant": "dsa"}, {}, "experimental"),
        ({"moe_latent_size": 64}, {}, "latent"),
        ({"moe_token_dropping": True}, {}, "dropped tokens"),
        ({"cpu_offloading": True}, {}, "offloaded"),
        ({"fp4": "e2m1", "fp4_param": True}, {}, "4 bits"),
        ({"recompute_modules": ["attention"]}, {"recompute_granularity": "selective"}, "recompute-modules"),
        ({"optimizer_config": {"optimizer_cpu_offload": True}}, {}, "optimizer states offloaded"),
        ({"ddp_config": {"num_distributed_optimizer_instances": 2}}, {}, "distributed optimizers"),
        (
            {"ddp_config": {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": "optim_grads"}},
            {},
            "optim_grads",
        ),
        ({"cp_comm_type": ["p2p", "allgather"]}, {}, "cp_comm_type"),
        ({"cp_comm_type": "a2a+p2p"}, {}, "hierarchical_context_parallel_sizes has 0 sizes"),
        ({"defer_embedding_wgrad_compute": True}, {}, "deferred"),
        ({"fp8": "e4m3", "fp8_wgrad": False}, {}, "weight gradients in 16 bits"),
        ({"fp8": "e4m3", "fp8_dot_product_attention": True}, {}, "attention in 8 bits"),
        ({"fp8": "e4m3", "first_last_layers_bf16": True}, {}, "in 16 bits"),
        ({"tp_comm_overlap": True, "tp_comm_bulk_wgrad": False}, {}, "overlapped in part"),
        ({"optimizer_config": {"optimizer_cuda_graph": True}}, {}, "optimizer"),
        ({"ddp_config": {"outer_dp_sharding_strategy": "optim"}}, {}, "hybrid sharding"),
        ({}, {"optimizer": "sgd"}, "Adam"),
        ({}, {"optimizer": "adam+tensorparallelmuon"}, "muon"),
        ({}, {"position_embedding_type": "relative"}, "relative"),
        ({"moe_layer_freq": "list"}, {"num_experts": 4, "moe_router_topk": 2}, "capture it again"),
        ({"pipeline_model_parallel_layout": "Ettttm|L", "mtp_num_layers": 1}, {}, "multi-token"),
    ],
)
def test_what_is_not_simulated_is_refused(parts: dict[str, Any], columns: dict[str, Any], word: str) -> None:
    configuration_from_run(row_with({}))
    with pytest.raises(UserError, match=word) as caught:
        configuration_from_run(row_with(parts, **columns))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "parts",
    [{"deterministic_mode": True}, {"optimizer_config": {"overlap_param_gather_with_optimizer_step": True}}],
)
def test_what_changes_measured_times_alone_is_read(parts: dict[str, Any]) -> None:
    # Measured times are those of deterministic kernels, or of early gathers; the configuration has no such choice.
    assert configuration_from_run(row_with(parts)) == configuration_from_run(row_with({}))


@pytest.mark.parametrize(
    ("parts", "columns", "flags"),
    [
        ({"mtp_num_layers": 2}, {}, "--mtp-num-layers 2"),
        ({"window_size": [128, 0], "window_attn_skip_freq": 2}, {}, "--window-size 128,0 --window-attn-skip-freq 2"),
        (
            {"window_size": [128, 0], "window_attn_skip_freq": [1, 0, 0, 1]},
            {},
            "--window-size 128,0 --window-attn-skip-freq ([1]*1+[0]*2+[1]*1)",
        ),
        ({"softmax_type": "learnable"}, {}, "--softmax-type learnable"),
        ({"cp_comm_type": ["a2a", "a2a"]}, {}, "--cp-comm-type a2a"),
        (
            {"cp_comm_type": "all_gather"},
            {"context_parallel_size": 2},
            "--cp-comm-type allgather --context-parallel-size 2",
        ),
        (
            {"cp_comm_type": "a2a+p2p", "hierarchical_context_parallel_sizes": [2, 1]},
            {"context_parallel_size": 2},
            "--cp-comm-type a2a+p2p --hierarchical-context-parallel-sizes 2 1 --context-parallel-size 2",
        ),
        (
            {"recompute_modules": ["mlp", "layernorm"]},
            {"recompute_granularity": "selective"},
            "--recompute-granularity selective --recompute-modules layernorm mlp",
        ),
        (
            {"cuda_graph_impl": "local", "cuda_graph_scope": ["attn"]},
            {},
            "--cuda-graph-impl local --cuda-graph-scope attn",
        ),
        ({"enable_cuda_graph": True, "cuda_graph_scope": "full"}, {}, "--enable-cuda-graph --cuda-graph-scope full"),
        ({"external_cuda_graph": True}, {}, "--external-cuda-graph"),
        (
            {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te"},
            {},
            "--cross-entropy-loss-fusion --cross-entropy-fusion-impl te",
        ),
        (
            {
                "optimizer_config": {
                    "use_precision_aware_optimizer": True,
                    "main_params_dtype": "float32",
                    "exp_avg_dtype": "bfloat16",
                    "exp_avg_sq_dtype": "uint8",
                }
            },
            {"distributed_optimizer": True},
            "--use-distributed-optimizer --use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype fp8",
        ),
    ],
)
def test_settings_of_a_run_are_those_of_its_flags(parts: dict[str, Any], columns: dict[str, Any], flags: str) -> None:
    assert configuration_from_run(row_with(parts, **columns)) == configuration_from_flags(flags.split(), BASE)


@pytest.mark.parametrize(
    ("parts", "columns"),
    [
        ({"window_size": [-1, -1]}, {}),
        ({"softmax_type": "vanilla"}, {}),
        ({"activation_func": "gelu"}, {}),
        ({"mtp_num_layers": None}, {"optimizer": None}),
        ({"recompute_modules": ["core_attn", "mlp"]}, {}),
        ({"cp_comm_type": "p2p"}, {}),
        ({"cp_comm_type": ["p2p", "p2p"]}, {}),
        ({"cuda_graph_impl": "none", "cuda_graph_scope": "full"}, {}),
        ({"fp8_recipe": "mxfp8", "fp8_wgrad": False}, {}),
        ({"tp_comm_bulk_wgrad": False}, {}),
    ],
)
def test_what_is_off_is_not_refused(parts: dict[str, Any], columns: dict[str, Any]) -> None:
    assert configuration_from_run(row_with(parts, **columns)) == BASE


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("hybrid_context_parallel", True, "--hybrid-context-parallel"),
        ("moe_token_dropping", True, "--moe-token-dropping"),
    ],
)
def test_a_run_is_refused_with_the_words_of_the_flag(field: str, value: object, flag: str) -> None:
    with pytest.raises(UserError) as of_flag:
        parse_flags(flag.split())
    words = str(of_flag.value).partition(" asks for ")[2].partition(", which is not simulated")[0]
    assert words
    with pytest.raises(UserError, match=words):
        configuration_from_run(row_with({field: value}))


@pytest.mark.parametrize(("dp", "cp"), [(4, 1), (64, 1), (32, 4)])
def test_the_default_bucket_counts_context_parallel_ranks(dp: int, cp: int) -> None:
    """Megatron-Core writes its default into the configuration: as many gradients as ranks that reduce them ask for."""
    parts = {"ddp_config": {"bucket_size": max(40_000_000, 1_000_000 * dp * cp)}}
    columns = {"data_parallel_size": dp, "context_parallel_size": cp, "global_batch_size": dp}
    assert configuration_from_run(row_with(parts, **columns)).parallel.bucket_size == 0


def test_a_configuration_that_is_no_json_is_refused() -> None:
    with pytest.raises(UserError, match="no JSON object"):
        configuration_from_run({**captured_row(BASE), "config_json": "["})


def test_first_and_last_stage_have_their_own_layers() -> None:
    parts = {"num_layers_in_first_pipeline_stage": 1, "num_layers_in_last_pipeline_stage": 1}
    run = row_with(parts, num_layers=6, pipeline_model_parallel_size=4)
    assert configuration_from_run(run).parallel.layers == (1, 2, 2, 1)
    run = row_with({"account_for_loss_in_pipeline_split": True}, num_layers=3, pipeline_model_parallel_size=2)
    assert configuration_from_run(run).parallel.layers == (2, 1)


@pytest.mark.parametrize(
    ("strategy", "fsdp", "zero"),
    [("no_shard", False, False), ("optim", False, True), ("optim_grads_params", True, False)],
)
def test_sharding_of_megatron_fsdp(strategy: str, fsdp: bool, zero: bool) -> None:
    parts = {"ddp_config": {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": strategy}}
    parallel = configuration_from_run(row_with(parts, distributed_optimizer=True)).parallel
    assert (parallel.fsdp, parallel.distributed_optimizer) == (fsdp, zero)


def test_pattern_is_the_one_of_the_flag() -> None:
    assert write_pattern([0] * 3 + [1] * 58) == "([0]*3+[1]*58)"
    assert write_pattern([0, 1] * 24) == "([0,1]*24)"
    with pytest.raises(SpecError):
        ModelSpec(4, 64, 4, 32, 128, num_experts=4, moe_router_topk=2, moe_layer_freq=write_pattern([0, 1]))


def test_only_chosen_arguments_of_a_script_are_written() -> None:
    assert "/secret" not in captured_row(BASE)["config_json"]
