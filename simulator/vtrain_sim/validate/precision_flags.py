"""The word that a validation table has for a precision, as Megatron's arguments."""

from __future__ import annotations

from vtrain_sim.errors import UserError
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.precision import Precision, precision, precisions

_WORDS = {
    "bf16": ["--bf16"],
    "fp16": ["--fp16"],
    "fp32": ["--fp32"],
    "fp8": ["--bf16", "--fp8-format", "hybrid"],
}
_TYPES = {"bfloat16": "--bf16", "float16": "--fp16", "float32": "--fp32"}


def precision_flags(word: str) -> tuple[list[str], bool]:
    """Arguments of a precision, and whether they are not quite what it is. Raises `UserError`."""
    if word in _WORDS:
        return _WORDS[word], False
    try:
        known = precision(word.replace("_", "-"))
    except SpecError:
        names = dict.fromkeys((*_WORDS, *(p.name for p in precisions())))
        raise UserError(f"precision {word} is not simulated: known are {', '.join(names)}") from None
    return _flags(known), False


def _flags(known: Precision) -> list[str]:
    return [_TYPES[known.params_dtype], *(["--fp8-format", known.fp8_format] if known.fp8_format else [])]
