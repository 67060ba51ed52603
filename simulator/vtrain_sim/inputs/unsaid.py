"""What a job of Megatron does where its arguments do not say, and where vtrain's own defaults are others."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.inputs.megatron_flags import parse_flags
from vtrain_sim.specs.checks import SpecError

# Field, Megatron's default as flags, and what that is. Of mixtures of experts: `TransformerConfig` of Megatron-Core.
_PRECISION = ("params_dtype", ("--fp32",), "no --bf16 or --fp16: as in Megatron, 32 bits throughout")
_EXPERTS = (
    (
        "moe_grouped_gemm",
        ("--no-moe-grouped-gemm",),
        "no --moe-grouped-gemm: as in Megatron, the experts of a rank multiply one after the other",
    ),
    (
        "moe_token_dispatcher",
        ("--moe-token-dispatcher-type", "allgather"),
        "no --moe-token-dispatcher-type: as in Megatron, allgather",
    ),
)


def unsaid(flags: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags to put before those of a launch script or another file of Megatron's, and a sentence about each.

    flags: all of the job, with those that override the file's. What cannot be read is refused where the job is made,
    after its number of GPUs is known: here, nothing is said about it.
    """
    try:
        said = parse_flags(flags).values
    except SpecError:
        return (), ()
    choices = (_PRECISION, *(_EXPERTS if said.get("num_experts") else ()))
    taken = [(words, sentence) for field, words, sentence in choices if field not in said]
    return tuple(word for words, _ in taken for word in words), tuple(sentence for _, sentence in taken)
