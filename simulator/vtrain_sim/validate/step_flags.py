"""The training step of a row of a validation table as Megatron's arguments."""

from __future__ import annotations

from vtrain_sim.specs.graphs import NONE
from vtrain_sim.validate.cells import Cells, switched


def step_flags(cells: Cells) -> list[str]:
    """Recomputation, gradients, loss, graphs and the allocator."""
    granularity = cells.text("recompute_granularity", "none")
    recomputed = granularity not in ("none", "unknown")
    fused = cells.switch("gradient_accumulation_fusion", cells.text("framework") != "Megatron-DeepSpeed")
    return [
        *(["--recompute-granularity", granularity] if recomputed else []),
        *switched("--no-gradient-accumulation-fusion", not fused),
        *_gradients(cells),
        *_cross_entropy(cells),
        *_graphs(cells),
        *switched(
            "--expandable-segments", cells.switch("expandable_segments", "Megatron-Bridge" in cells.text("source"))
        ),
    ]


def _gradients(cells: Cells) -> list[str]:
    """Type of the gradients' buffers."""
    wide, narrow = ["--accumulate-allreduce-grads-in-fp32"], ["--grad-reduce-in-bf16"]
    if cells.text("grad_reduce_in_fp32"):
        return wide if cells.switch("grad_reduce_in_fp32") else narrow
    if cells.text("framework") == "NeMo/Megatron-Core":
        # As the examples for the H100 of NVIDIA's NeMo Framework Launcher (optim.grad_sync_dtype=bf16).
        return narrow
    if cells.text("precision") != "fp16" or not cells.switch("distributed_optimizer"):
        return []
    # Megatron-LM's sharded optimizer keeps gradients in fp32. DeepSpeed's sums those in fp16 over all ranks, which
    # moves as much as scattering sums in fp32.
    return [*wide, *switched("--deepspeed-zero", cells.text("framework") == "Megatron-DeepSpeed")]


def _cross_entropy(cells: Cells) -> list[str]:
    how = cells.text("cross_entropy_fusion")
    return ["--cross-entropy-loss-fusion", "--cross-entropy-fusion-impl", how] if how else []


def _graphs(cells: Cells) -> list[str]:
    """Without an implementation there is no graph, whatever the scope."""
    implementation = cells.text("cuda_graph_impl", NONE)
    if implementation == NONE:
        return []
    scope = cells.text("cuda_graph_scope").split()
    return ["--cuda-graph-impl", implementation, *(["--cuda-graph-scope", *scope] if scope else [])]
