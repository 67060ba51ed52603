"""What a GPU kernel is, by its name: one ordered table of patterns, the first that matches counts.

Each rule names the library that the pattern comes from and a real kernel name that it must match; the
reference documentation prints the table, and a test checks every example against the whole of it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from vtrain_schemas.name_rules import Rule, first_match

KERNEL_KINDS = {
    "communication": "data moved between GPUs: collectives, send and receive, expert dispatch and combine",
    "memory": "copies and fills by the copy engine or the driver",
    "attention": "fused attention",
    "convolution": "convolution",
    "gemm": "matrix multiplication",
    "norm": "layer, RMS or batch normalisation",
    "optimizer": "optimizer step, gradient norm and scaling over lists of tensors",
    "softmax": "softmax and cross entropy",
    "rope": "rotary position embedding",
    "cast": "conversion to and from 8 bits, and its transpose",
    "embedding": "table look-up and its gradient",
    "permute": "sorting, selecting, gathering and scattering",
    "reduction": "sums and other reductions",
    "elementwise": "element by element: adds, activations, dropout, copies of another layout",
    "other": "no rule matches the name",
}


KERNEL_RULES = (
    Rule("communication", "NCCL, RCCL", r"^nccl|ncclDevKernel|ncclKernel",
         "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"),
    # A CUB kernel compiled inside DeepEP carries its namespace too: only the library's own kernels count.
    Rule("communication", "DeepEP", r"(?<![A-Za-z_])(deep_ep|dpsk::ep)::(?!.*cub::)",
         "void deep_ep::internode::dispatch<false, 8, true, 8>(int4*, float*, long*)"),
    Rule("communication", "Transformer Engine userbuffers", r"userbuffers_",
         "userbuffers_fp16_sum_inplace_gpu_rr_rs_oop<8>(int, int, int)"),
    Rule("communication", "PyTorch symmetric memory, vLLM",
         r"(multimem|one_shot|two_shot)_all_(reduce|gather)|cross_device_reduce|symm_mem",
         "void two_shot_all_reduce_kernel<c10::BFloat16, 8>(c10::BFloat16**, unsigned long)"),
    Rule("communication", "NVSHMEM", r"nvshmem", "nvshmemi_barrier_all_kernel(int)"),
    Rule("memory", "CUDA", r"^\[?(CUDA )?[Mm]em(cpy|set)", "Memcpy DtoD (Device -> Device)"),
    Rule("attention", "FlashAttention", r"flash_(fwd|bwd)|FlashAttn|flash::compute_attn|compute_attn_ws",
         "void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false, cutlass::bfloat16_t>>()"),
    Rule("attention", "cuDNN", r"cudnn_generated.*(sdpa|flash|fmha|mha)",
         "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0"),
    Rule("attention", "xFormers, TensorRT, CK", r"fmha|Fmha|mha_(fwd|bwd|varlen)",
         "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention)"),
    Rule("attention", "Triton", r"(^|_)attn_(fwd|bwd)|attention_kernel|(unified|flex|flash)_attention|[Pp]aged_?[Aa]ttention|sage_fwd",
         "_attn_fwd"),
    Rule("convolution", "cuDNN, cutlass",
         r"implicit_(gemm|convolve)|cudnn::.*(conv|nchw|nhwc|ndhwc)|scudnn|conv(olve|2d|_depthwise)|grouped_conv|Im2d2Col|"
         r"[dw]grad(\d|_engine|2d|_alg)|winograd|fft2d",
         "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x64x16"),
    Rule("gemm", "cuBLAS", r"(?<!fb)gemm|nvjet_|gemv|splitK_?reduce|cublas|dot_kernel|reduce_1Block_kernel",
         "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn"),
    Rule("gemm", "cuBLAS of Hopper and Blackwell", r"^nvjet", "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT"),
    Rule("gemm", "cutlass", r"cutlass.*(Gemm|(?<!fb)gemm|tensorop|simt)|GemmUniversal|GemmGrouped",
         "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x128_32x4_nn_align8>()"),
    Rule("gemm", "DeepGEMM", r"deep_gemm::|fp8_gemm", "void deep_gemm::fp8_gemm_kernel<4096u, 7168u, 128u>()"),
    Rule("gemm", "Triton", r"triton_(tem_fused_)?_?(\w*_)?(mm|addmm|bmm)(_|$)|(^|_)matmul_(kernel|ogs)|^bmm_|fused_moe",
         "triton_tem_fused_addmm_0"),
    Rule("gemm", "rocBLAS", r"^Cijk_", "Cijk_Alik_Bljk_BBS_BH_MT128x128x32_MI32x32x8x1"),
    Rule("rope", "Transformer Engine, Triton", r"rope|rotary", "fused_rope_forward_kernel<__nv_bfloat16>(int, int)"),
    Rule("norm", "Transformer Engine", r"(ln|rmsnorm)_(fwd|bwd)|normalization::",
         "void transformer_engine::normalization::rmsnorm_fwd_tuned_kernel<Kernel_traits>()"),
    Rule("norm", "apex", r"cu(Apply|Compute).*(Norm|Grad(Input|Gamma)|PartGrad)|layer_norm::",
         "void cuApplyLayerNorm<float, float, c10::BFloat16>(c10::BFloat16*, float*, float*)"),
    Rule("norm", "PyTorch, cuDNN, Triton",
         r"(?i:(layer|rms|group|batch|instance)_?norm)|[LR][a-z]*Norm|RowwiseMoments|GammaBetaBackward|cudnn::bn_|bn_(fw|bw)_",
         "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>()"),
    Rule("optimizer", "apex, Transformer Engine, PyTorch foreach", r"multi_tensor_apply|multi_tensor_|foreach",
         "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float, float, int>, float, float>()"),
    Rule("optimizer", "apex, Triton", r"[Aa]dam|[Ll]amb(_|Stage|Functor)|muon|fused_sgd", "adam_cuda_kernel<float>()"),
    Rule("softmax", "Megatron, PyTorch, Triton",
         r"softmax|SoftMax|cross_entropy|CrossEntropy|nll_loss|NLLLoss",
         "void scaled_upper_triang_masked_softmax_warp_forward<__nv_bfloat16, __nv_bfloat16, float, 11>()"),
    Rule("cast", "Transformer Engine, DeepSeek, vLLM",
         r"cast_(and_)?transpose|cast_to_fp8|cast_back|fp8_(cast|quant)|quantize|transpose_kernel|batched_transpose|_fp8_quant|_quant_kernel|"
         r"amax_kernel",
         "void transformer_engine::cast_transpose_fused_kernel<false, false, float, __nv_bfloat16>()"),
    Rule("embedding", "PyTorch, FBGEMM",
         r"[Ee]mbedding|indexSelect|compute_grad_weight|sum_and_scatter|krn_partial|fbgemm_gpu::",
         "void at::native::(anonymous namespace)::indexSelectLargeIndex<c10::BFloat16, long, unsigned int, 2>()"),
    Rule("permute", "Transformer Engine, Megatron, PyTorch, CUB",
         r"permut|[Ss]ort|[Tt]op_?[Kk]|[Ss]can|[Ss]catter|[Gg]ather|index(ing)?_(put|elementwise|kernel|copy|backward)|[Hh]istogram|"
         r"compute_grad_from|unique|nonzero|routing|bitmatrix|reshape_and_cache|store_kv|recat_copy|sort_chunks|get_dispatch_layout|DeviceSelect",
         "void at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel>()"),
    Rule("reduction", "PyTorch, Triton, CUB", r"reduce_kernel|triton_(red|per)_|DeviceReduce|nvfuser_.*reduction|Reduce|reduce_|pool",
         "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>()"),
    Rule("elementwise", "PyTorch", r"elementwise|CatArray|dropout|fill_|copy_(kernel|tensor)|bernoulli|distribution_|arange|tri(u|l)_|upsample|SubTensorOp|"
         r"^transpose_",
         "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>()"),
    Rule("convolution", "cuDNN", r"cudnn", "void cask_cudnn_infer::computeOffsetsKernel<false, false>()"),
    Rule("elementwise", "Transformer Engine, Megatron, Triton, nvFuser",
         r"(gated|dgated|act)_?(act)?_kernel|[Gg][Ee][Ll][Uu]|[Ss]wi?[Gg]LU|swiglu|silu|triton_poi_|nvfuser_|bias_|_bda|"
         r"^fused_|triton_",
         "triton_poi_fused_add_mul_silu_0"),
)  # fmt: skip

# The rule that a kernel name falls under.
kernel_rule = first_match(KERNEL_RULES)


def kernel_kind(name: str) -> str:
    """Kind of a kernel, one of `KERNEL_KINDS`; "other" where no rule matches."""
    rule = kernel_rule(name)
    return rule.kind if rule is not None else "other"


# Element types in the names of kernels that multiply, the most telling first.
_TYPES = (
    ("float8", re.compile(r"e4m3|e5m2|fp8|float8")),
    ("bfloat16", re.compile(r"bf16|[Bb][Ff]loat16")),
    ("float16", re.compile(r"fp16|f16|[Hh]alf|h884|h1688|hgemm|hshgemm|^nvjet_hs")),
    ("bfloat16", re.compile(r"^nvjet_ts?t")),
    ("float32", re.compile(r"tf32|sgemm|s1688gemm|f32|float")),
    ("float64", re.compile(r"dgemm|d884gemm|double")),
)


@lru_cache(maxsize=65536)
def kernel_dtype(name: str) -> str:
    """Element type that a kernel's name tells of its inputs; "" where it tells none."""
    return next((dtype for dtype, pattern in _TYPES if pattern.search(name)), "")
