"""How much memory each pipeline stage needs.

Activations per layer follow Korthikanti et al. 2022 (arXiv:2205.05198), equations 1-6, counted from
the tensors that each operator keeps for its backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.operators import StageProgram, StepProgram
from vtrain_sim.schedules.interleaved import warmup_steps
from vtrain_sim.specs import Configuration

# Context, cuBLAS and NCCL workspaces of one process, bytes.
RUNTIME_BYTES = 2 << 30


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank of a stage, by term."""

    stage: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    runtime_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Sum of the terms."""
        return (
            self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes
            + self.activations_bytes + self.logits_bytes + self.runtime_bytes
        )  # fmt: skip

    def terms(self) -> dict[str, int]:
        """The terms by name."""
        return {
            "parameters": self.parameters_bytes,
            "gradients": self.gradients_bytes,
            "optimizer": self.optimizer_bytes,
            "activations": self.activations_bytes,
            "logits": self.logits_bytes,
            "runtime": self.runtime_bytes,
        }


@dataclass(frozen=True)
class MemoryVerdict:
    """Whether the configuration fits, and what decides."""

    fits: bool
    capacity_bytes: int
    stages: tuple[StageMemory, ...]

    @property
    def worst(self) -> StageMemory:
        """The stage that needs most."""
        return max(self.stages, key=lambda s: s.peak_bytes)

    def sentence(self) -> str:
        """The verdict in words."""
        worst, gib = self.worst, 1 << 30
        term, size = max(worst.terms().items(), key=lambda t: t[1])
        state = "fits" if self.fits else "does not fit"
        return (
            f"{state}: stage {worst.stage} needs {worst.peak_bytes / gib:.1f} of "
            f"{self.capacity_bytes / gib:.1f} GiB, most of it {term} ({size / gib:.1f} GiB)"
        )


def memory(step: StepProgram, capacity_bytes: int, runtime_bytes: int = RUNTIME_BYTES) -> MemoryVerdict:
    """Memory of every stage of a step."""
    stages = tuple(_stage(step.configuration, s, runtime_bytes) for s in step.stages)
    return MemoryVerdict(all(s.peak_bytes <= capacity_bytes for s in stages), capacity_bytes, stages)


def layer_activation_bytes(configuration: Configuration) -> tuple[int, int]:
    """Bytes that one layer keeps for one microbatch, and bytes while it is being recomputed."""
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    size = dtype_bytes(train.params_dtype)
    tokens = model.seq_length * train.micro_batch_size // parallel.cp
    local = tokens // parallel.tp if parallel.sequence_parallel else tokens
    h, tp = model.hidden_size, parallel.tp
    # Inputs of both norms and of both residual adds' dropout masks (1 byte an element).
    kept = local * h * (2 * size + 2)
    # Inputs of the QKV projection and of the first feed-forward projection.
    kept += 2 * local * h * size
    kept += tokens * (model.qkv_width // tp) * size
    kept += tokens * (model.attention_width // tp) * size
    gate = 2 if model.swiglu else 1
    if model.num_experts:
        routed = local * model.moe_router_topk
        kept += routed * (h + (gate + 1) * model.moe_ffn_hidden_size) * size
    else:
        kept += tokens * ((gate + 1) * model.ffn_hidden_size // tp) * size
    scores = 0
    if train.attention_kernel == "unfused":
        heads = model.num_attention_heads // tp
        # Softmax output, its dropout mask and the dropout's output.
        scores = train.micro_batch_size * heads * (model.seq_length // parallel.cp) * model.seq_length * (2 * size + 1)
    everything = kept + scores
    if train.recompute_granularity == "full":
        return local * h * size, everything
    if train.recompute_granularity == "selective":
        return kept, everything
    return everything, everything


def in_flight(configuration: Configuration, stage: int) -> int:
    """Most chunk-microbatches whose activations a stage holds at once."""
    parallel, microbatches = configuration.parallel, configuration.num_microbatches
    if configuration.schedule == "gpipe":
        return microbatches
    if configuration.schedule == "interleaved":
        steps = warmup_steps(stage, parallel.pp, parallel.vpp, microbatches)
        return min(steps + 1, microbatches * parallel.vpp)
    return min(parallel.pp - stage, microbatches)


def _stage(configuration: Configuration, stage: StageProgram, runtime_bytes: int) -> StageMemory:
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    weight = dtype_bytes(train.params_dtype)
    total = stage.parameters + stage.expert_parameters
    replicas = parallel.dp * parallel.cp
    sharded = total
    if parallel.distributed_optimizer:
        sharded = -(-stage.parameters // replicas)
        sharded += -(-stage.expert_parameters // max(1, replicas // parallel.ep))
    # Adam: two fp32 moments, and an fp32 copy of parameters that are kept in less.
    state = 8 if weight == 4 else 12
    layers = model.num_layers // parallel.pp // parallel.vpp
    kept, working = layer_activation_bytes(configuration)
    recomputed_layers = layers
    if train.recompute_granularity == "full" and train.recompute_method == "block":
        recomputed_layers = min(layers, train.recompute_num_layers)
    per_microbatch = kept * recomputed_layers + working * (layers - recomputed_layers)
    held = per_microbatch * in_flight(configuration, stage.stage)
    if train.recompute_granularity != "none":
        held += working - kept
    logits = 0
    if stage.stage == parallel.pp - 1:
        tokens = model.seq_length * train.micro_batch_size // parallel.cp
        columns = model.padded_vocab_size(parallel.tp) // parallel.tp
        # Logits, and the fp32 copy whose softmax the loss keeps.
        logits = tokens * columns * (weight + 4)
    return StageMemory(
        stage.stage,
        parameters_bytes=total * weight,
        gradients_bytes=total * dtype_bytes(train.main_grads_dtype),
        optimizer_bytes=sharded * state,
        activations_bytes=held,
        logits_bytes=logits,
        runtime_bytes=runtime_bytes,
    )
