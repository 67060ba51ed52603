"""The word that a validation table has for a precision, as Megatron's arguments."""

from __future__ import annotations

from vtrain_sim.errors import UserError
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.precision import Precision, precision, precisions

# Words that are no names of precisions; the names that they stand for.
_WORDS = {
    "fp8": "fp8-hybrid",
    "fp8_current": "fp8-tensorwise-hybrid",
    "fp8_blockwise": "fp8-blockwise-e4m3",
    "mxfp8": "mxfp8-e4m3",
}
_TYPES = {"bfloat16": "--bf16", "float16": "--fp16", "float32": "--fp32"}


def precision_flags(word: str, detail: str) -> list[str]:
    """Arguments of a precision; detail: more words about its scaling. Raises `UserError`."""
    known = precision_of_row(word, detail)
    return [_TYPES[known.params_dtype], *known.flags]


def precision_of_row(word: str, detail: str) -> Precision:
    """The precision that a row means. Raises `UserError`."""
    # Per tensor, with the scale of the tensor itself instead of that of steps before.
    current = word == "fp8" and "current" in detail
    try:
        return precision(_WORDS.get("fp8_current" if current else word, word))
    except SpecError:
        names = ", ".join(dict.fromkeys((*_WORDS, *(known.name for known in precisions()))))
        raise UserError(f"precision {word} is not simulated: known are {names}") from None
