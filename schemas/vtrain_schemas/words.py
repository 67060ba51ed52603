"""The closed vocabularies of the profile tables."""

from __future__ import annotations

SPAN_KINDS = {
    "step": "one whole training step, from the first gradient reset to the end of the optimizer step",
    "forward_step": "one microbatch's forward pass of one model chunk, data loading and loss included",
    "backward_step": "one microbatch's backward pass of one model chunk",
    "transformer_layer": "one transformer layer",
    "self_attention": "the attention block of a layer: QKV projection, core attention, output projection",
    "core_attention": "attention proper: scores, softmax, weighted sum",
    "mlp": "the feed-forward block of a layer, or one expert",
    "moe": "a mixture-of-experts layer: router, dispatch, experts, combine",
    "router": "the router of a mixture-of-experts layer",
    "linear": "one (tensor-parallel) linear layer",
    "norm": "a layer normalisation or RMS normalisation",
    "embedding": "the input embedding",
    "output_layer": "the projection onto the vocabulary",
    "loss": "the vocabulary-parallel cross entropy",
    "p2p": "one pipeline communication call, as the schedule issues it",
    "grad_sync": "synchronisation of gradients across data-parallel ranks and tied weights",
    "param_sync": "gather of updated parameters across data-parallel ranks",
    "zero_grad": "reset of the gradient buffers",
    "optimizer": "the optimizer step and its parts",
    "dispatch": "tokens on their way to their experts, or back",
    "other": "a range of a foreign trace whose name no rule knows",
}

# Sources of runs that are traces of other profilers.
TRACES = ("kineto", "nsys")

PHASES = {
    "forward": "forward pass",
    "backward": "backward pass: data gradient and weight gradient together",
    "dgrad": "backward pass, data gradient alone",
    "wgrad": "backward pass, weight gradient alone",
    "recompute": "a forward pass that is run again inside the backward pass",
    "update": "once a step: optimizer, gradient reset and synchronisation",
}

OPERATOR_KINDS = {
    "gemm": "matrix multiplication, m x k by k x n (m tokens, n outputs, k inputs on this rank), bias included",
    "grouped_gemm": "the matrix multiplications of several experts, `batch` experts sharing m tokens",
    "attention": "core attention over seq_q x seq_kv, `batch` sequences",
    "norm": "layer or RMS normalisation of m tokens of width n",
    "rope": "split of the fused QKV projection and rotary embedding, m tokens of width n",
    "activation": "bias + activation (GELU, or SwiGLU with its gate), m tokens of width n after the gate",
    "bias_dropout_add": "bias + dropout + residual adds of one layer, m tokens of width n",
    "embedding": "embedding look-up (and its weight gradient), m tokens of width n from a table of k rows",
    "loss": "cross entropy over n vocabulary entries of m tokens",
    "router": "router of a mixture-of-experts layer: m tokens, n experts, width k",
    "permute": "permutation of tokens to experts and back, m tokens of width n",
    "cast": "conversion of m tokens of width n to 8 bits, and its transpose",
    "microbatch": "per-microbatch work outside the model: data, loss scaling, bookkeeping; m tokens",
    "grad_accumulate": "addition of m gradient elements of a microbatch to those before, apart from their product",
    "zero_grad": "reset of m gradient elements",
    "grad_prepare": "copy, unscale and finiteness check of m gradient elements",
    "grad_norm": "norm of m gradient elements",
    "grad_clip": "scaling of m gradient elements",
    "optimizer": "parameter update of m elements",
    "step_overhead": "per-step work outside everything else",
    "other": "an operator that vtrain does not model",
    # Of foreign traces, by the operator's name alone.
    "communication": "a call of a communication library, see the collectives table",
    "view": "an operator that changes shapes or allocates, without work on the device",
    "memory": "a copy or a fill",
    "softmax": "softmax or cross entropy",
    "convolution": "convolution",
    "reduction": "a sum or another reduction",
    "elementwise": "element by element: adds, products, activations",
    "autograd": "a node of the backward pass, around its operators",
}

ROLES = {
    "tp": "tensor parallel",
    "dp": "data parallel (context-parallel ranks included)",
    "pp": "pipeline parallel",
    "cp": "context parallel",
    "ep": "expert parallel",
    "expert_tp": "expert tensor parallel",
    "expert_dp": "expert data parallel",
    "embedding": "first and last pipeline stage, for tied embeddings",
    "mp": "model parallel: tensor and pipeline together",
    "world": "every rank, or a group that vtrain could not name",
}

COLLECTIVE_OPS = (
    "all_reduce",
    "reduce_scatter",
    "all_gather",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "barrier",
    "send",
    "recv",
)
