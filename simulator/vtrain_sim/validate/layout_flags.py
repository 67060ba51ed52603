"""The layout of a row of a validation table as Megatron's arguments: what its software did where no column says it."""

from __future__ import annotations

from vtrain_sim.errors import UserError
from vtrain_sim.specs.pipeline_layout import write_layout
from vtrain_sim.validate.cells import Cells, shared_out, switched

# Sources of 2021: their software did not yet run the backward all-reduce beside the weight gradient.
_OLD_SOURCES = ("SC21", "MT-NLG", "BigScience")


def layout_flags(cells: Cells) -> list[str]:
    """What the ranks share, and how they exchange it."""
    return [*_groups(cells), *_sharding(cells), *_overlap(cells)]


def _groups(cells: Cells) -> list[str]:
    scatters = cells.text("framework") in ("Megatron-LM", "Megatron-DeepSpeed") and not cells.switch(
        "sequence_parallel"
    )
    return [
        *("--data-parallel-size", str(cells.dp)),
        *switched("--sequence-parallel", cells.switch("sequence_parallel") and cells.tp > 1),
        # Before Megatron-Core, pipeline stages scattered and gathered what they passed on (as DeepSpeed's engine
        # partitions it).
        *switched("--scatter-gather-tensors-in-pipeline", scatters and cells.tp > 1 and cells.pp > 1),
        *switched(
            "--no-async-tensor-model-parallel-allreduce", any(word in cells.text("source") for word in _OLD_SOURCES)
        ),
        *switched("--no-batch-p2p-comm", cells.text("framework") == "Megatron-DeepSpeed"),
    ]


def _sharding(cells: Cells) -> list[str]:
    if not cells.switch("fsdp"):
        return switched("--use-distributed-optimizer", cells.switch("distributed_optimizer"))
    strategy = cells.text("fsdp_sharding_strategy", "optim_grads_params")
    return ["--use-megatron-fsdp", "--data-parallel-sharding-strategy", strategy]


def _overlap(cells: Cells) -> list[str]:
    nemo = cells.text("framework") == "NeMo/Megatron-Core"
    reduces = cells.switch("overlap_grad_reduce", nemo)
    # Full sharding gathers parameters as its layers run: there is nothing to switch.
    gathers = cells.switch("overlap_param_gather", nemo) and cells.switch("distributed_optimizer")
    pieces = cells.switch("tp_comm_overlap", nemo and cells.switch("sequence_parallel"))
    # An option of Megatron-LM since 2023, and its default since 2024.
    transfers = cells.switch("overlap_p2p_communication", cells.text("framework") != "Megatron-LM")
    return [
        *switched("--no-overlap-p2p-communication", not transfers),
        *switched("--overlap-grad-reduce", reduces),
        *switched("--overlap-param-gather", gathers and reduces and not cells.switch("fsdp")),
        *switched("--tp-comm-overlap", pieces and cells.switch("sequence_parallel") and cells.tp > 1),
    ]


def pipeline_flags(cells: Cells, vpp: int) -> list[str]:
    """How layers are cut into stages and chunks."""
    schedule = ["--schedule", cells.schedule] if vpp == 1 and cells.schedule != "interleaved" else []
    if cells.text("pipeline_layout"):
        return ["--pipeline-model-parallel-layout", cells.text("pipeline_layout"), *schedule]
    if cells.number("num_layers") % (cells.pp * vpp) and not cells.text("num_layers_in_first_pipeline_stage"):
        # Ends that lack layers may leave chunks empty, but no stage.
        if max(cells.pp, vpp) > cells.number("num_layers"):
            raise UserError(
                f"--pipeline-model-parallel-size is {cells.pp}, with {vpp} chunks a stage: the model has "
                f"{cells.number('num_layers')} layers"
            )
        layers = _interleave(cells.stage_layers, vpp)
        return ["--pipeline-model-parallel-layout", write_layout(layers, cells.number("mtp_num_layers")), *schedule]
    return ["--num-virtual-stages-per-pipeline-rank", str(vpp), *schedule]


def _interleave(stages: list[int], vpp: int) -> tuple[int, ...]:
    """Layers of each virtual stage: those of a stage shared out over its chunks, the end ones short.

    The first stage lacks layers in its first chunk, beside the embedding, the last in its last.
    """
    pp = len(stages)
    chunks = [shared_out(layers, vpp) for layers in stages]
    chunks[0].reverse()
    return tuple(chunks[stage][chunk] for chunk in range(vpp) for stage in range(pp))
