"""The closed vocabularies of the profile tables."""

from __future__ import annotations

from vtrain_schemas.operators import kinds

SPAN_KINDS = {
    "step": "one whole training step, from the first gradient reset to the end of the optimizer step",
    "forward_step": "one microbatch's forward pass of one model chunk, data loading and loss included; "
    "a part of it where the passes of two microbatches are interleaved",
    "backward_step": "one microbatch's backward pass of one model chunk, or a part of it, likewise",
    "transformer_layer": "one transformer layer",
    "mamba_layer": "one Mamba layer: norm, mixer, residual",
    "mtp_layer": "one layer of multi-token prediction: norms, projection, and a transformer layer",
    "self_attention": "the attention block of a layer: QKV projection, core attention, output projection",
    "core_attention": "attention proper: scores, softmax, weighted sum",
    "mixer": "what a layer has in place of attention: a state-space (Mamba) or another recurrent mixer",
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
    "other": "a range of an imported trace whose name no rule knows",
}

# Sources of runs that are traces of other profilers.
TRACES = ("kineto", "nsys")

PHASES = {
    "forward": "forward pass",
    "backward": "backward pass: data gradient and weight gradient together",
    "dgrad": "backward pass, data gradient alone",
    "wgrad": "backward pass, weight gradient alone",
    "recompute": "a forward pass that is run again inside the backward pass",
    "update": "once per step: optimizer, gradient reset and synchronisation",
}

OPERATOR_KINDS = {kind.name: kind.meaning for kind in kinds()}

ROLES = {
    "tp": "tensor parallel",
    "dp": "data parallel (context-parallel ranks included)",
    "pp": "pipeline parallel",
    "cp": "context parallel",
    "ep": "expert parallel",
    "expert_tp": "expert tensor parallel",
    "tp_ep": "expert tensor and expert parallel together",
    "tp_cp": "tensor and context parallel together: the ranks that share a sequence",
    "tp_dp": "tensor and data parallel together: the ranks of one pipeline stage",
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

# How often a payload crosses each link of a ring of n ranks, in units of (n - 1) / n: the bus bandwidth's factor in
# NCCL's tests (nccl-tests, doc/PERFORMANCE.md; gather and scatter as in its src). The payload is the largest of input
# and output on one rank.
RING_PASSES = {
    "all_reduce": 2,
    "reduce_scatter": 1,
    "all_gather": 1,
    "all_to_all": 1,
    "gather": 1,
    "scatter": 1,
}
# Operations whose payload crosses a link once, whatever the number of ranks.
ONE_PASS = ("broadcast", "reduce", "p2p", "send", "recv")
