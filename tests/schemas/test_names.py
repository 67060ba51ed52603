"""The tables of names: every rule's example, every kind's meaning, and the traps."""

from __future__ import annotations

import pytest

from vtrain_schemas.communication_names import collective_op, nccl_type, role_of_description
from vtrain_schemas.framework_operators import OPERATOR_RULES, as_gradient, operator_rule, shaped_operator
from vtrain_schemas.kernel_names import KERNEL_KINDS, KERNEL_RULES, kernel_dtype, kernel_kind, kernel_rule
from vtrain_schemas.operators import Operator
from vtrain_schemas.range_names import RANGE_RULES, is_communication, layer_number, range_rule
from vtrain_schemas.words import COLLECTIVE_OPS, OPERATOR_KINDS, PHASES, SPAN_KINDS


@pytest.mark.parametrize("rule", KERNEL_RULES, ids=lambda r: r.example[:40])
def test_every_kernel_rule_wins_its_own_example(rule) -> None:
    assert kernel_kind(rule.example) == rule.kind
    assert rule.kind in KERNEL_KINDS


@pytest.mark.parametrize("rule", OPERATOR_RULES, ids=lambda r: r.example)
def test_every_operator_rule_wins_its_own_example(rule) -> None:
    found = operator_rule(rule.example)
    assert found is not None
    assert found.kind == rule.kind
    assert rule.kind in OPERATOR_KINDS


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::dot", "gemm"),
        ("aten::scaled_dot_product_attention", "attention"),
        ("aten::_scaled_dot_product_flash_attention_backward", "attention"),
    ],
)
def test_kinds_of_operators_that_look_like_others(name: str, kind: str) -> None:
    found = operator_rule(name)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("rule", RANGE_RULES, ids=lambda r: r.example)
def test_every_range_rule_wins_its_own_example(rule) -> None:
    found = range_rule(rule.example)
    assert found is not None
    assert (found.kind, found.phase) == (rule.kind, rule.phase)
    assert rule.kind in SPAN_KINDS
    assert rule.phase in ("", *PHASES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # A CUB kernel in DeepEP's namespace is no communication; DeepEP's own are.
        ("void cdpsk::ep::DeviceScanKernel<int>()", "permute"), ("void dpsk::ep::internode::combine<false, 8>()", "communication"),
        ("void fbgemm_gpu::permute_2D_lengths_kernel<int>(int)", "embedding"),
        ("void cutlass::device_kernel<flash::FlashAttnBwd<flash::CollectiveMainloopBwd<2>>>()", "attention"),
        ("void cutlass::device_kernel<dpsk::grouped_gemm::cuda::fp8_ptp128c::GemmKernel>()", "gemm"),
        ("flash_bwd_dot_do_o_kernel", "attention"), ("volta_sgemm_128x32_nt", "gemm"), ("Memset (Device)", "memory"),
        ("[CUDA memcpy Device-to-Host]", "memory"), ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>()", "norm"),
        ("void at::native::(anonymous namespace)::softmax_warp_forward<float>()", "softmax"),
        ("triton_red_fused_native_layer_norm_0", "norm"), ("nvjet_hsh_128x128_64x6_1x2_h_bz_TNT", "gemm"),
        ("attn_fwd.kd", "attention"), ("_ZN7ck_tile6kentryILi1ENS_12Rmsnorm2dFwdINS_27Rmsnorm2dFwdPipeline", "norm"),
        ("void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>()", "communication"),
        ("_ZN2ck16tensor_operation6device12_GLOBAL__N_149kernel_grouped_conv_fwd_multiple_abd_xdl", "convolution"),
        ("my_own_kernel", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_kinds_of_kernels_that_look_like_others(name: str, kind: str) -> None:
    assert kernel_kind(name) == kind
    assert (kernel_rule(name) is None) == (kind == "other")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("ampere_bf16_s16816gemm_bf16_128x256", "bfloat16"), ("volta_fp16_s884gemm_fp16_128x64", "float16"),
     ("cutlass_80_tensorop_s1688gemm_256x64", "float32"), ("sm90_fp8_gemm_e4m3", "float8"), ("something", "")],
)  # fmt: skip
def test_element_types_in_kernel_names(name: str, dtype: str) -> None:
    assert kernel_dtype(name) == dtype


@pytest.mark.parametrize(
    ("name", "op"),
    [("allreduce", "all_reduce"), ("_allgather_base", "all_gather"), ("reduce_scatter_tensor_coalesced", "reduce_scatter"),
     ("_reduce_scatter_base", "reduce_scatter"), ("all_to_allv", "all_to_all"), ("ALLTOALL_BASE", "all_to_all"),
     ("nccl:broadcast", "broadcast"), ("ncclSend", "send"), ("irecv", "recv"), ("gloo:all_reduce", "all_reduce"),
     ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t", "send_recv"), ("reduce", "reduce"), ("barrier", "barrier"),
     ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", "reduce_scatter"), ("wait", ""), ("ncclGroupEnd", "")],
)  # fmt: skip
def test_collectives_by_their_many_names(name: str, op: str) -> None:
    assert collective_op(name) == op
    assert op in (*COLLECTIVE_OPS, "send_recv", "")


def test_types_and_roles_of_collectives() -> None:
    assert [nccl_type(t) for t in ("BFloat16", "Float", "Half", "Long", "Float8_e4m3fn", "?")] == [
        "bfloat16", "float32", "float16", "int64", "float8", "",
    ]  # fmt: skip
    assert nccl_type("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long)") == "float32"
    assert role_of_description("mesh_tp") == "tp"
    assert role_of_description("default_pg") is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [("decoder.layers.3.self_attention", 4), ("nn.Module: Qwen2DecoderLayer_0", 1), ("nn.Module: GPT2Block_11", 12),
     ("nn.Module: TransformerBlock_0", None), ("nn.Module: LayerNorm_4", None), ("nn.Module: Linear_4", None), ("forward", None)],
)  # fmt: skip
def test_layers_in_names(name: str, layer: int | None) -> None:
    assert layer_number(name) == layer


def test_communication_is_no_span() -> None:
    assert all(is_communication(n) for n in ("nccl:all_reduce", "gloo:all_gather", "ncclAllReduce"))
    assert not any(is_communication(n) for n in ("attn(F)", "aten::mm", "record_param_comms"))


BF16 = "c10::BFloat16"


@pytest.mark.parametrize(
    ("name", "dims", "expected"),
    [
        ("aten::mm", [[4, 8], [8, 6]], ("gemm", 4, 6, 8)),
        ("aten::addmm", [[6], [4, 8], [8, 6], [], []], ("gemm", 4, 6, 8)),
        ("aten::linear", [[2, 3, 8], [6, 8], [6]], ("gemm", 6, 6, 8)),
        ("aten::bmm", [[2, 4, 8], [2, 8, 6]], ("gemm", 8, 6, 8)),
        ("aten::_scaled_mm", [[4, 8], [8, 6], [], [], []], ("gemm", 4, 6, 8)),
        # Transformer Engine passes the weight first, its fused layer norm the input.
        ("_Linear", [[6, 8], [2, 3, 8], [6]], ("gemm", 6, 6, 8)),
        ("_LayerNormLinear", [[2, 3, 8], [8], [8], [6, 8], [6]], ("gemm", 6, 6, 8)),
        ("aten::native_layer_norm", [[2, 3, 8], [], [8], [8], []], ("norm", 6, 8, 0)),
        ("aten::embedding", [[100, 8], [2, 3], [], [], []], ("embedding", 6, 8, 100)),
        ("aten::_fused_adamw_", [[[4, 8], [8]], [[4, 8], [8]]], ("optimizer", 40, 0, 0)),
        ("aten::mm", [[4, 8], [7, 6]], None), ("aten::mm", [], None), ("aten::add", [[4], [4]], None),
        ("aten::mm", [[4, 8], None], None), ("aten::linear", ["x", 3], None),
    ],
)  # fmt: skip
def test_operators_by_their_input_sizes(name: str, dims: list[object], expected: tuple[object, ...] | None) -> None:
    operator = shaped_operator(name, dims, [BF16] * len(dims))
    assert (None if operator is None else (operator.kind, operator.m, operator.n, operator.k)) == expected
    assert operator is None or operator.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "dims", "phase"),
    [
        ("aten::_scaled_dot_product_flash_attention", [[2, 8, 512, 64], [2, 2, 512, 64], [2, 2, 512, 64]], "forward"),
        ("aten::_flash_attention_forward", [[2, 512, 8, 64], [2, 512, 2, 64], [2, 512, 2, 64]], "forward"),
        ("flash_attn::_flash_attn_backward", [[9], [2, 512, 8, 64], [2, 512, 2, 64], [2, 512, 2, 64]], "backward"),
    ],
)  # fmt: skip
def test_attention_in_both_layouts(name: str, dims: list[object], phase: str) -> None:
    operator = shaped_operator(name, dims, [BF16] * len(dims))
    assert operator == Operator(
        "attention", phase, batch=2, seq_q=512, seq_kv=512, heads=8, kv_heads=2, head_dim=64, fused=True, causal=True
    )


def test_packed_attention_is_one_long_sequence() -> None:
    operator = shaped_operator(
        "flash_attn::_flash_attn_varlen_forward", [[1024, 8, 64], [1024, 8, 64], [1024, 8, 64]], [BF16] * 3
    )
    assert operator is not None
    assert (operator.batch, operator.seq_q, operator.heads) == (1, 1024, 8)


def test_gradients_are_named_after_the_forward_product() -> None:
    forward = Operator("gemm", "forward", 32, 128, 64)
    named = [
        as_gradient(Operator("gemm", "forward", *sizes), forward)
        for sizes in ((32, 64, 128), (128, 64, 32), (64, 128, 32), (32, 32, 32))
    ]
    assert [None if g is None else (g.phase, g.m, g.n, g.k) for g in named] == [
        ("dgrad", 32, 128, 64), ("wgrad", 32, 128, 64), ("wgrad", 32, 128, 64), None,
    ]  # fmt: skip
