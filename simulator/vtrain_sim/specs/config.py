"""Model, layout and training step together, and what must hold between them."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.train import TrainSpec
from vtrain_sim.specs.validation import SpecError, divides, positive


@dataclass(frozen=True)
class Configuration:
    """One thing to project. Validation follows what Megatron-Core itself refuses."""

    model: ModelSpec
    parallel: ParallelSpec
    train: TrainSpec

    def __post_init__(self) -> None:
        model, parallel, train = self.model, self.parallel, self.train
        tp, pp, vpp = "--tensor-model-parallel-size", "--pipeline-model-parallel-size", parallel.vpp
        divides(tp, parallel.tp, "--num-attention-heads", model.num_attention_heads)
        if model.num_query_groups % parallel.tp and parallel.tp % model.num_query_groups:
            divides(tp, parallel.tp, "--num-query-groups", model.num_query_groups)
        divides(tp, parallel.tp, "--ffn-hidden-size", model.ffn_hidden_size)
        divides(pp, parallel.pp, "--num-layers", model.num_layers)
        per_stage = model.num_layers // parallel.pp
        if per_stage % vpp:
            raise SpecError(
                f"{vpp} virtual pipeline chunks do not divide the {per_stage} layers of a stage: "
                "--num-layers-per-virtual-pipeline-stage must divide --num-layers over "
                "--pipeline-model-parallel-size"
            )
        if parallel.sequence_parallel:
            if parallel.tp == 1:
                raise SpecError("--sequence-parallel needs --tensor-model-parallel-size of 2 or more")
            divides(tp, parallel.tp, "--seq-length", model.seq_length)
        if parallel.cp > 1:
            divides("2 x --context-parallel-size", 2 * parallel.cp, "--seq-length", model.seq_length)
            if train.attention_kernel == "unfused":
                raise SpecError("--context-parallel-size of 2 or more needs fused (flash) attention")
        if parallel.ep > 1 and not model.num_experts:
            raise SpecError("--expert-model-parallel-size of 2 or more needs --num-experts")
        if model.num_experts:
            divides("--expert-model-parallel-size", parallel.ep, "--num-experts", model.num_experts)
            if parallel.tp > 1 and not parallel.sequence_parallel:
                raise SpecError(
                    "a mixture of experts with --tensor-model-parallel-size of 2 or more needs --sequence-parallel"
                )
        microbatches = train.num_microbatches(parallel.dp)
        if vpp > 1 and microbatches % parallel.pp:
            raise SpecError(
                f"the interleaved schedule needs a number of microbatches ({microbatches}) that "
                f"{pp} ({parallel.pp}) divides: change --global-batch-size or --micro-batch-size"
            )
        if train.schedule == "interleaved" and vpp == 1:
            raise SpecError("--schedule interleaved needs --num-layers-per-virtual-pipeline-stage")
        if train.schedule in ("gpipe", "1f1b") and vpp > 1:
            raise SpecError(f"--schedule {train.schedule} does not interleave: leave out the virtual stages")
        positive("--recompute-num-layers", train.recompute_num_layers)
        if train.recompute_granularity == "full" and train.recompute_num_layers > per_stage:
            raise SpecError(
                f"--recompute-num-layers is {train.recompute_num_layers}, more than the {per_stage} "
                "layers of a pipeline stage"
            )

    @property
    def num_microbatches(self) -> int:
        """Microbatches a step on each data parallel rank."""
        return self.train.num_microbatches(self.parallel.dp)

    @property
    def schedule(self) -> str:
        """The schedule that runs: what was asked for, or what Megatron-Core chooses."""
        if self.train.schedule != "auto":
            return self.train.schedule
        return "interleaved" if self.parallel.vpp > 1 else "1f1b"

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over the whole cluster."""
        return self.train.global_batch_size * self.model.seq_length
