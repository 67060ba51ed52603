"""What the optimizer keeps of each parameter, in which types (Megatron-Core's precision-aware one), and Muon."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.specs.checks import SpecError, one_of, positive
from vtrain_sim.specs.precision import Precision

WIDE = "float32"
# Megatron's words of its types, and torch's.
STATE_DTYPES = {
    "fp32": WIDE,
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8": "float8",
    **{name: name for name in (WIDE, "float16", "bfloat16", "float8")},
}


ADAM, MUON = "adam", "muon"
# Megatron's older word for Muon with --use-distributed-optimizer.
DIST_MUON = "dist_muon"
# How ranks that share a matrix orthogonalise it: each the whole, each a part of the work, or each its part alone.
DUPLICATED, DISTRIBUTED, BLOCKWISE = "duplicated", "distributed", "blockwise"


@dataclass(frozen=True)
class MuonSpec:
    """Orthogonalisation of the momentum of matrices, by the words of Megatron's --muon arguments."""

    num_ns_steps: int = 5
    tp_mode: str = DUPLICATED
    use_syrk: bool = False

    def check(self) -> None:
        """Raises `SpecError` for values that Megatron does not take."""
        positive("--muon-num-ns-steps", self.num_ns_steps)
        one_of("--muon-tp-mode", self.tp_mode, (DUPLICATED, DISTRIBUTED, BLOCKWISE))


@dataclass(frozen=True)
class OptimizerTypes:
    """Types of the main parameters and of both moments. precision_aware: Transformer Engine's Adam, which takes any.
    deepspeed: DeepSpeed shards the optimizer (ZeRO stage 1), not Megatron. muon: where matrices have no second moment.
    on_host: part of the parameters that the host updates, whose state is in its memory; overlaps_host: parameter by
    parameter beside their copies.
    """

    precision_aware: bool = False
    main_params: str = WIDE
    exp_avg: str = WIDE
    exp_avg_sq: str = WIDE
    deepspeed: bool = False
    muon: MuonSpec | None = None
    on_host: float = 0.0
    overlaps_host: bool = False

    def check(self) -> None:
        """Raises `SpecError` for types that Megatron's optimizer does not take."""
        one_of("--main-params-dtype", self.main_params, (WIDE, "float16"))
        for flag, dtype in (("--exp-avg-dtype", self.exp_avg), ("--exp-avg-sq-dtype", self.exp_avg_sq)):
            one_of(flag, dtype, tuple(dict.fromkeys(STATE_DTYPES.values())))
            if dtype != WIDE and not self.precision_aware:
                raise SpecError(f"{flag} {dtype} needs --use-precision-aware-optimizer")
        if self.main_params != WIDE and not self.precision_aware:
            raise SpecError("--main-params-dtype needs --use-precision-aware-optimizer")
        if self.muon is not None:
            self.muon.check()
            if self.precision_aware or self.deepspeed:
                flag = "--use-precision-aware-optimizer" if self.precision_aware else "--deepspeed-zero"
                raise SpecError(f"{flag} needs --optimizer {ADAM}")

    def bytes_per_parameter(self, precision: Precision) -> int:
        """Bytes of main parameters and moments.

        Of 32-bit main parameters, the precision-aware optimizer keeps the half that bf16 parameters lack
        (Megatron-Core's store_param_remainders). DeepSpeed's step copies the rank's gradients into one tensor, and that
        into one of 32 bits (`DeepSpeedZeroOptimizer.step`): the allocator finds no room for tensors of this size in
        what the passes leave, so that theirs stays with the process.
        """
        moments = dtype_bytes(self.exp_avg) + dtype_bytes(self.exp_avg_sq)
        if precision.params_dtype == WIDE:
            return moments
        halves = self.precision_aware and precision.params_dtype == "bfloat16" and not precision.keeps_params
        main = 2 if halves and self.main_params == WIDE else dtype_bytes(self.main_params)
        copies = dtype_bytes(precision.params_dtype) + 4 if self.deepspeed else 0
        return main + moments + copies

    def step_bytes_per_parameter(self, precision: Precision, gradients: str) -> int:
        """Bytes that are there during the step alone, when no activation is.

        gradients: type of their buffers. The plain optimizer converts those of less than 32 bits; the precision-aware
        one takes them as they are.
        """
        taken = self.precision_aware or self.deepspeed or precision.params_dtype == WIDE
        return 4 if dtype_bytes(gradients) < 4 and not taken else 0

    def gradient_bytes(self, precision: Precision, gradients: str) -> int:
        """Bytes of a gradient while microbatches add to it; DeepSpeed's have the parameters' type."""
        return dtype_bytes(precision.params_dtype if self.deepspeed else gradients)
