"""What an annotated range is, by its name: span kind and phase.

Covers torch.profiler's own annotations, Megatron-Core's NVTX ranges, vtrain's, DeepSeek's, DeepSpeed's
and the ``nn.Module`` ranges of torch.profiler's Python stacks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vtrain_schemas.name_rules import first_match


@dataclass(frozen=True)
class RangeRule:
    """One row of the table; `phase` "" takes over the phase of what encloses the range."""

    kind: str
    phase: str
    source: str
    pattern: str
    example: str


# A class of modules: any prefix (the model's name), the class, and the instance's number.
def _module(classes: str) -> str:
    return rf"^nn\.Module: \w*?({classes})_\d+$"


RANGE_RULES = (
    RangeRule("step", "", "torch.profiler", r"^ProfilerStep(#\d+)?\*?$", "ProfilerStep#12"),
    RangeRule("step", "", "Megatron-LM, Lightning", r"^(iteration|step|train_step|training_step|iter)[ _#:=]*\d+$",
              "iteration 7"),
    RangeRule("optimizer", "update", "torch.optim", r"^Optimizer\.step#", "Optimizer.step#AdamW.step"),
    RangeRule("zero_grad", "update", "torch.optim", r"^Optimizer\.zero_grad#", "Optimizer.zero_grad#AdamW.zero_grad"),
    RangeRule("self_attention", "forward", "DeepSeek", r"^attn\(F\)$", "attn(F)"),
    RangeRule("self_attention", "backward", "DeepSeek", r"^attn\(B\)$", "attn(B)"),
    RangeRule("self_attention", "wgrad", "DeepSeek", r"^attn\(W\)$", "attn(W)"),
    RangeRule("mlp", "forward", "DeepSeek", r"^mlp\(F\)$", "mlp(F)"),
    RangeRule("mlp", "backward", "DeepSeek", r"^mlp\(B\)$", "mlp(B)"),
    RangeRule("mlp", "wgrad", "DeepSeek", r"^mlp\(W\)$", "mlp(W)"),
    RangeRule("dispatch", "forward", "DeepSeek", r"^(dispatch|combine)\(F\)$", "dispatch(F)"),
    RangeRule("dispatch", "backward", "DeepSeek", r"^(dispatch|combine)\(B\)$", "combine(B)"),
    RangeRule("forward_step", "forward", "HolisticTraceAnalysis, torchrec", r"^## forward ##$", "## forward ##"),
    RangeRule("backward_step", "backward", "HolisticTraceAnalysis, torchrec", r"^## backward ##$", "## backward ##"),
    RangeRule("optimizer", "update", "HolisticTraceAnalysis, torchrec", r"^## optimizer ##$", "## optimizer ##"),
    RangeRule("zero_grad", "update", "HolisticTraceAnalysis, torchrec", r"^## zero_grad ##$", "## zero_grad ##"),
    RangeRule("forward_step", "forward", "PyTorch", r"^(DistributedDataParallel|FullyShardedDataParallel)\.forward$",
              "DistributedDataParallel.forward"),
    RangeRule("grad_sync", "update", "PyTorch", r"FSDP::(post_)?backward_(reduce|post)|reduce_grads?$|allreduce_grads?",
              "FSDP::post_backward_reduce"),
    RangeRule("param_sync", "", "PyTorch", r"FSDP::all_gather|_unshard", "FSDP::all_gather"),
    RangeRule("forward_step", "forward", "DeepSpeed, Megatron-LM",
              r"^(DeepSpeedEngine\.forward|forward[-_ ]?(compute|step)?)$", "DeepSpeedEngine.forward"),
    RangeRule("backward_step", "backward", "DeepSpeed, Megatron-LM",
              r"^(DeepSpeedEngine\.backward|backward[-_ ]?(compute|step)?)$", "backward-compute"),
    RangeRule("optimizer", "update", "DeepSpeed, Megatron-LM", r"^(DeepSpeedEngine\.step|optimizer([-_ ]?step)?)$",
              "optimizer"),
    RangeRule("self_attention", "", "Megatron-Core", r"^megatron\..*\.(self|cross)_attention$",
              "megatron.core.transformer.transformer_layer.TransformerLayer._forward_attention.self_attention"),
    RangeRule("core_attention", "", "Megatron-Core", r"^megatron\..*\.core_attention$",
              "megatron.core.transformer.attention.Attention.forward.core_attention"),
    RangeRule("mlp", "", "Megatron-Core", r"^megatron\..*\.mlp$",
              "megatron.core.transformer.transformer_layer.TransformerLayer._forward_mlp.mlp"),
    RangeRule("linear", "", "Megatron-Core", r"^megatron\..*\.(linear_\w+|qkv|\w*_proj)$",
              "megatron.core.transformer.mlp.MLP.forward.linear_fc1"),
    RangeRule("norm", "", "Megatron-Core", r"^megatron\..*norm$",
              "megatron.core.transformer.transformer_layer.TransformerLayer._forward_mlp.pre_mlp_layernorm"),
    RangeRule("dispatch", "", "Megatron-Core", r"^megatron\..*(dispatch|combine)\w*$",
              "megatron.core.transformer.moe.token_dispatcher.MoEFlexTokenDispatcher.token_dispatch"),
    RangeRule("transformer_layer", "", "vtrain, Megatron-Core", r"(^|\.)layers\.\d+$", "decoder.layers.3"),
    RangeRule("self_attention", "", "vtrain, Megatron-Core", r"\.layers\.\d+\.(self_)?attention$",
              "decoder.layers.3.self_attention"),
    RangeRule("mlp", "", "vtrain, Megatron-Core", r"\.layers\.\d+\.mlp$", "decoder.layers.3.mlp"),
    RangeRule("embedding", "", "vtrain, Megatron-Core", r"(^|\.)embedding$", "embedding"),
    RangeRule("output_layer", "", "vtrain, Megatron-Core", r"(^|\.)output_layer$", "output_layer"),
    RangeRule("core_attention", "", "torch.profiler modules", _module(r"DotProductAttention|CoreAttention|FlashAttention"),
              "nn.Module: DotProductAttention_3"),
    RangeRule("self_attention", "", "torch.profiler modules", _module(r"SelfAttention|Attention|MultiheadAttention"),
              "nn.Module: Qwen2Attention_0"),
    RangeRule("moe", "", "torch.profiler modules", _module(r"MoELayer|MoE|MoeBlock|SparseMoeBlock"), "nn.Module: MoELayer_2"),
    RangeRule("router", "", "torch.profiler modules", _module(r"Router|Gate"), "nn.Module: TopKRouter_2"),
    RangeRule("mlp", "", "torch.profiler modules", _module(r"MLP|FeedForward|Experts?"), "nn.Module: Qwen2MLP_0"),
    RangeRule("norm", "", "torch.profiler modules", _module(r"Norm\d?d?"), "nn.Module: Qwen2RMSNorm_1"),
    RangeRule("embedding", "", "torch.profiler modules", _module(r"Embedding"), "nn.Module: VocabParallelEmbedding_0"),
    RangeRule("linear", "", "torch.profiler modules", _module(r"Linear|Conv1D"), "nn.Module: ColumnParallelLinear_0"),
    RangeRule("loss", "", "torch.profiler modules", _module(r"Loss|CrossEntropy"), "nn.Module: CrossEntropyLoss_0"),
    # The stack of all layers is a "TransformerBlock" in Megatron-Core: a block of anything else is a layer.
    RangeRule("transformer_layer", "", "torch.profiler modules",
              r"^nn\.Module: (?!TransformerBlock_)\w*?(TransformerLayer|DecoderLayer|EncoderLayer|Block|Layer)_\d+$",
              "nn.Module: Qwen2DecoderLayer_3"),
)  # fmt: skip

# The rule that a range's name falls under.
range_rule = first_match(RANGE_RULES)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.|$)|^nn\.Module: (?!TransformerBlock_)\w*(?:Layer|Block)_(\d+)$")
# Wrappers by which communication libraries mark their calls: collectives, not spans.
_COMMUNICATION = re.compile(r"^(nccl|rccl|gloo|ucc|mpi|c10d|hccl|xccl):|^nccl[A-Z]")


def is_communication(name: str) -> bool:
    """Whether a range marks a call of a communication library (``nccl:all_reduce``, ``ncclAllReduce``)."""
    return _COMMUNICATION.search(name) is not None


def layer_number(name: str) -> int | None:
    """Layer of a range, from 1; None where the name has none."""
    match = _LAYER.search(name)
    rule = range_rule(name)
    # A module's number counts the instances of its class: only a layer's is that of a layer.
    if match is None or (match[2] and (rule is None or rule.kind != "transformer_layer")):
        return None
    return int(match[1] or match[2]) + 1
