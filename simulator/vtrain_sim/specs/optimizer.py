"""What Adam keeps of each parameter, in which types (Megatron-Core's precision-aware optimizer)."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.specs.checks import SpecError, one_of
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


@dataclass(frozen=True)
class OptimizerTypes:
    """Types of the main parameters and of both moments. precision_aware: Transformer Engine's Adam, which takes any."""

    precision_aware: bool = False
    main_params: str = WIDE
    exp_avg: str = WIDE
    exp_avg_sq: str = WIDE

    def check(self) -> None:
        """Raises `SpecError` for types that Megatron's optimizer does not take."""
        one_of("--main-params-dtype", self.main_params, (WIDE, "float16"))
        for flag, dtype in (("--exp-avg-dtype", self.exp_avg), ("--exp-avg-sq-dtype", self.exp_avg_sq)):
            one_of(flag, dtype, tuple(dict.fromkeys(STATE_DTYPES.values())))
            if dtype != WIDE and not self.precision_aware:
                raise SpecError(f"{flag} {dtype} needs --use-precision-aware-optimizer")
        if self.main_params != WIDE and not self.precision_aware:
            raise SpecError("--main-params-dtype needs --use-precision-aware-optimizer")

    def bytes_per_parameter(self, precision: Precision, gradients: str) -> int:
        """Bytes of main parameters and moments, and of gradients converted for the step.

        gradients: type of their buffers. The plain optimizer converts those of less than 32 bits; the precision-aware
        one takes them as they are, and keeps of 32-bit parameters the half that bf16 parameters lack
        (Megatron-Core's store_param_remainders).
        """
        moments = dtype_bytes(self.exp_avg) + dtype_bytes(self.exp_avg_sq)
        if precision.params_dtype == WIDE:
            return moments
        converted = 4 if dtype_bytes(gradients) < 4 and not self.precision_aware else 0
        halves = self.precision_aware and precision.params_dtype == "bfloat16" and not precision.keeps_params
        main = 2 if halves and self.main_params == WIDE else dtype_bytes(self.main_params)
        return main + moments + converted
