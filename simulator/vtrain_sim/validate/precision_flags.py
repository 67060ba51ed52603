"""The word that a validation table has for a precision, as Megatron's arguments."""

from __future__ import annotations

from vtrain_sim.specs.precision import Precision, precision


def precision_flags(word: str, detail: str) -> list[str]:
    """Arguments of a precision; detail: more words about its scaling. Raises `UserError`."""
    return list(precision_of_row(word, detail).all_flags)


def precision_of_row(word: str, detail: str) -> Precision:
    """The precision that a row means. Raises `UserError`."""
    # Per tensor, with the scale of the tensor itself instead of that of steps before.
    current = word == "fp8" and "current" in detail
    return precision("fp8-current" if current else word)
