"""Model, layout and training step together, and what must hold between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.train import TrainSpec
from vtrain_sim.specs.validation import SpecError, divides, positive

_MOST_PASSES = 20_000_000


@dataclass(frozen=True)
class Configuration:
    """One thing to project. Validation follows what Megatron-Core itself refuses."""

    model: ModelSpec
    parallel: ParallelSpec
    train: TrainSpec

    def __post_init__(self) -> None:
        self._check_sharding()
        self._check_experts()
        self._check_pipeline()
        self._check_kernels()

    def _check_sharding(self) -> None:
        model, parallel = self.model, self.parallel
        tp = "--tensor-model-parallel-size"
        divides(tp, parallel.tp, "--num-attention-heads", model.num_attention_heads)
        if model.num_query_groups % parallel.tp and parallel.tp % model.num_query_groups:
            divides(tp, parallel.tp, "--num-query-groups", model.num_query_groups)
        divides(tp, parallel.tp, "--ffn-hidden-size", model.ffn_hidden_size)
        if parallel.sequence_parallel:
            if parallel.tp == 1:
                raise SpecError("--sequence-parallel needs --tensor-model-parallel-size of 2 or more")
            divides(tp, parallel.tp, "--seq-length", model.seq_length)
        if parallel.cp > 1:
            divides("2 x --context-parallel-size", 2 * parallel.cp, "--seq-length", model.seq_length)
        if parallel.scatter_gather and parallel.sequence_parallel:
            raise SpecError("--scatter-gather-tensors-in-pipeline has nothing to scatter with --sequence-parallel")

    def _check_experts(self) -> None:
        model, parallel = self.model, self.parallel
        if parallel.ep > 1 and not model.num_experts:
            raise SpecError("--expert-model-parallel-size of 2 or more needs --num-experts")
        if not model.num_experts:
            if parallel.expert_tp not in (0, parallel.tp):
                raise SpecError("--expert-tensor-parallel-size needs --num-experts")
            return
        divides("--expert-model-parallel-size", parallel.ep, "--num-experts", model.num_experts)
        divides("--expert-tensor-parallel-size", parallel.etp, "--moe-ffn-hidden-size", model.moe_ffn_hidden_size)
        if model.moe_shared_expert_intermediate_size:
            divides(
                "--tensor-model-parallel-size",
                parallel.tp,
                "--moe-shared-expert-intermediate-size",
                model.moe_shared_expert_intermediate_size,
            )
        if parallel.tp > 1 and not parallel.sequence_parallel:
            raise SpecError(
                "a mixture of experts with --tensor-model-parallel-size of 2 or more needs --sequence-parallel"
            )

    def _check_pipeline(self) -> None:
        model, parallel, train = self.model, self.parallel, self.train
        pp, vpp = "--pipeline-model-parallel-size", parallel.vpp
        if parallel.layers:
            if sum(parallel.layers) != model.num_layers or min(parallel.layers) < 0:
                raise SpecError(
                    f"the stages are given {sum(parallel.layers)} layers in all, --num-layers is {model.num_layers}"
                )
        else:
            divides(pp, parallel.pp, "--num-layers", model.num_layers)
            if model.num_layers // parallel.pp % vpp:
                raise SpecError(
                    f"{vpp} virtual pipeline chunks do not divide the {model.num_layers // parallel.pp} layers of a "
                    "stage: --num-layers-per-virtual-pipeline-stage must divide --num-layers over "
                    "--pipeline-model-parallel-size"
                )
        microbatches = train.num_microbatches(parallel.dp)
        if microbatches * parallel.pp * vpp > _MOST_PASSES:
            raise SpecError(
                f"{microbatches} microbatches on {parallel.pp * vpp} virtual pipeline stages are more than any run has "
                f"({_MOST_PASSES} passes at most): lower --global-batch-size or raise --micro-batch-size"
            )
        if vpp > 1 and microbatches % parallel.pp:
            raise SpecError(
                f"the interleaved schedule needs a number of microbatches ({microbatches}) that "
                f"{pp} ({parallel.pp}) divides: change --global-batch-size or --micro-batch-size"
            )
        if train.schedule == "interleaved" and vpp == 1:
            raise SpecError("--schedule interleaved needs --num-layers-per-virtual-pipeline-stage")
        if train.schedule in ("gpipe", "1f1b", "zb-h1", "zb-h2") and vpp > 1:
            raise SpecError(f"--schedule {train.schedule} does not interleave: leave out the virtual stages")
        if self.zero_bubble and train.recompute_granularity == "full":
            raise SpecError(
                f"--schedule {train.schedule} splits the backward pass, which full recomputation keeps whole: "
                "--recompute-granularity takes none or selective with it"
            )
        positive("--recompute-num-layers", train.recompute_num_layers)
        most = max(self.stage_layers)
        if train.recompute_granularity == "full" and train.recompute_num_layers > most:
            raise SpecError(
                f"--recompute-num-layers is {train.recompute_num_layers}, more than the {most} "
                "layers of a pipeline stage"
            )

    def _check_kernels(self) -> None:
        model, parallel, train = self.model, self.parallel, self.train
        if parallel.cp > 1 and train.attention_kernel == "unfused":
            raise SpecError("--context-parallel-size of 2 or more needs fused (flash) attention")
        if model.multi_latent_attention and train.attention_kernel == "unfused":
            raise SpecError("--multi-latent-attention needs fused (flash) attention")

    @cached_property
    def chunk_layers(self) -> tuple[int, ...]:
        """Layers of each virtual stage, in the order in which a microbatch passes them."""
        parallel = self.parallel
        slots = parallel.pp * parallel.vpp
        return parallel.layers or (self.model.num_layers // slots,) * slots

    @cached_property
    def stage_layers(self) -> tuple[int, ...]:
        """Layers of each pipeline stage, all its chunks together."""
        pp = self.parallel.pp
        return tuple(sum(self.chunk_layers[stage::pp]) for stage in range(pp))

    @cached_property
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
    def zero_bubble(self) -> bool:
        """Whether the backward pass runs in two parts, input gradients first (Qi et al., ICLR 2024)."""
        return self.train.schedule.startswith("zb-")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over the whole cluster."""
        return self.train.global_batch_size * self.model.seq_length
