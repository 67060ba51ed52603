"""What arguments that are read describe, in plain words, by the field that each sets."""

from __future__ import annotations

from functools import cache

# Noun phrases; a switch that turns one off has "no" before it.
_WORDS = """
num_layers: transformer layers
hidden_size: width of the hidden states
ffn_hidden_size: width of the feedforward blocks
num_attention_heads: attention heads
num_query_groups: groups of heads that share keys and values
kv_channels: width of an attention head
seq_length: tokens of a sequence
max_position_embeddings: learned positions, where positions are learned
vocab_size: words of the vocabulary, before padding
padded_vocab_size: words of the vocabulary, padded
make_vocab_size_divisible_by: what the vocabulary is padded to a multiple of
normalization: LayerNorm or RMSNorm
position_embedding_type: how positions are embedded
norms_per_layer: normalizations of a layer (vtrain's own)
qk_layernorm_weights: weights of the normalization of queries and keys (vtrain's own)
hidden_dropout: dropout of hidden states
attention_dropout: dropout of attention weights
num_experts: experts of a layer
moe_router_topk: experts that a token goes to
moe_router_num_groups: groups of experts that the router chooses among
moe_router_group_topk: groups of experts that a token goes to
moe_ffn_hidden_size: width of an expert
moe_layer_freq: which layers have experts
moe_shared_expert_intermediate_size: width of the shared expert
moe_expert_capacity_factor: tokens that an expert takes at most, over an even share
moe_latent_size: width that tokens are sent to experts in
moe_imbalance_factor: tokens of the busiest rank's experts, over the mean (vtrain's own)
q_lora_rank: rank of the queries' compression, in latent attention
kv_lora_rank: rank of the keys' and values' compression, in latent attention
qk_head_dim: width of a head's queries and keys, in latent attention
qk_pos_emb_head_dim: rotated width of a head, in latent attention
v_head_dim: width of a head's values, in latent attention
window_size: tokens before and after that a layer with a window attends to
window_attn_skip_freq: which layers have no window
activation_func_clamp_value: largest value that the activation takes
softmax_type: attention's softmax
hybrid_layer_pattern: kinds of layers of a hybrid, in order
mtp_hybrid_override_pattern: kinds of layers of a hybrid that predict further tokens
mamba_num_heads: heads of a Mamba layer
mamba_head_dim: width of a Mamba head
mamba_state_dim: width of a Mamba state
mamba_num_groups: groups of Mamba heads
linear_attention_freq: which layers have linear attention
linear_conv_kernel_dim: width of linear attention's convolution
linear_key_head_dim: width of a key head of linear attention
linear_value_head_dim: width of a value head of linear attention
linear_num_key_heads: key heads of linear attention
linear_num_value_heads: value heads of linear attention
mtp_num_layers: layers that predict further tokens
tp: tensor parallel ranks
pp: pipeline stages
cp: context parallel ranks
cp_comm_type: what context parallel ranks exchange for attention
cp_hierarchy: context parallel ranks of an all-to-all, and of a ring
ep: expert parallel ranks
expert_tp: tensor parallel ranks of the experts
dp: data parallel ranks (vtrain's own)
layers_per_chunk: layers of a model chunk, in an interleaved pipeline
vpp: model chunks of a stage, in an interleaved pipeline
microbatch_group_size: microbatches that a chunk runs in a row
first_stage_layers: layers of the first pipeline stage
last_stage_layers: layers of the last pipeline stage
pipeline_layout: layers of each stage and chunk
micro_batch_size: sequences of a microbatch
global_batch_size: sequences of a step
recompute_granularity: recomputation of activations
recompute_method: which layers are recomputed in full
recompute_num_layers: how many layers are recomputed in full
checkpoint_method: which layers are recomputed in full (turns it on)
fp8: format of multiplications in 8 bits
fp8_recipe: scaling of multiplications in 8 bits
num_layers_at_start_in_bf16: first layers that are not in 8 bits
num_layers_at_end_in_bf16: last layers that are not in 8 bits
fp4: format of multiplications in 4 bits
cuda_graph_impl: CUDA graphs
cpu_offload_layers: layers whose activations go to the host
min_offloaded_tensor_size: elements of the smallest tensor that goes to the host
optimizer_offload_fraction: share of the optimizer that is on the host
optimizer_grads_dtype: type of the optimizer's gradients
main_params_dtype: type of the optimizer's weights
exp_avg_dtype: type of the optimizer's first moment
exp_avg_sq_dtype: type of the optimizer's second moment
cross_entropy_impl: kernel of the fused loss
transformer_impl: whose layers are used
sharding_strategy: what fully sharded data parallelism cuts
attention_kernel: attention kernel
optimizer: optimizer
muon_num_ns_steps: Muon's Newton-Schulz steps
muon_tp_mode: how Muon works across tensor parallel ranks
schedule: pipeline schedule (vtrain's own)
bucket_size: elements of a bucket of gradients
moe_token_dispatcher: how tokens get to their experts
moe_flex_backend: library of the flex dispatcher
swiglu: gated feedforward blocks with SiLU
quick_geglu: gated feedforward blocks with a quick GELU
squared_relu: feedforward blocks with a squared ReLU
is_hybrid_model: layers of several kinds
add_bias_linear: biases of linear layers
add_qkv_bias: biases of queries, keys and values
untie_embeddings_and_output_weights: output layer with weights of its own
group_query_attention: heads that share keys and values
multi_latent_attention: attention with compressed keys and values
mtp_use_repeated_layer: one layer for all further tokens
qk_layernorm: normalization of queries and keys
add_position_embedding: learned positions
sequence_parallel: sequence cut over the tensor parallel ranks between blocks
distributed_optimizer: optimizer cut over the data parallel ranks
fsdp: fully sharded data parallelism of PyTorch
megatron_fsdp: fully sharded data parallelism of Megatron's own
overlap_grad_reduce: exchange of gradients beside the backward pass
overlap_param_gather: gathering of weights beside the forward pass
tp_comm_overlap: tensor parallel communication beside multiplications
align_grad_reduce: exchange of gradients at one time in all stages
moe_pad_expert_input_to_capacity: experts filled up to their capacity
moe_deepep: exchange of tokens with DeepEP
overlap_moe_comm: exchange of tokens beside another microbatch
moe_shared_expert_overlap: shared expert beside the exchange of tokens
async_tp_allreduce: backward all-reduce beside the weight gradient
scatter_gather: activations between stages cut over the tensor parallel ranks
batch_p2p: sends and receives between stages in one batch
embedding_is_a_layer: embedding counted as a layer when layers are divided over stages
loss_is_a_layer: loss counted as a layer when layers are divided over stages
first_last_layers_bf16: first and last layers that are not in 8 bits
fp8_param_gather: weights kept and gathered in 8 bits
grads_in_fp32: gradients summed and exchanged in 32 bits
grads_in_bf16: gradients exchanged in 16 bits
gradient_accumulation_fusion: weight gradients added up by the multiplication itself
use_transformer_engine_op_fuser: Transformer Engine's fused operators
moe_router_padding: experts' tokens padded for 8 bits
moe_grouped_gemm: one multiplication for all experts of a rank
expandable_segments: allocator with expandable segments (vtrain's own, of a variable of PyTorch)
deepspeed_zero: DeepSpeed's engine (vtrain's own)
use_precision_aware_optimizer: optimizer with states of chosen types
fine_grained_offloading: activations of chosen modules on the host
optimizer_cpu_offload: optimizer on the host
overlap_cpu_optimizer: the host's optimizer beside its copies
packs: several documents packed in a sequence
attention_output_gate: gate of attention's output
moe_shared_expert_gate: gate of the shared expert
muon_use_syrk: Muon's multiplications by symmetry
cross_entropy_fused: fused loss
overlap_p2p: communication between stages beside computation
params_dtype: type of weights and activations
recompute_modules: modules that are recomputed
packed_lengths: tokens of the documents of a packed sequence (vtrain's own)
offload_modules: modules whose activations go to the host
cuda_graph_scope: modules in CUDA graphs
final_batch: sequences of a step, over the training (the last entry is read)
ramp_up: sequences of a step while the batch grows (the final batch is read)
"""


def words_of(field: str, value: object = None) -> str:
    """What an argument describes. value: of a switch. Empty for a field that is not described."""
    words = _table().get(field, "")
    if not words or value is None or value is True:
        return words
    return f"no {words}" if value is False else f"{words}: {value}"


@cache
def _table() -> dict[str, str]:
    pairs = (line.partition(": ") for line in _WORDS.strip().splitlines())
    return {field: words for field, _, words in pairs}
