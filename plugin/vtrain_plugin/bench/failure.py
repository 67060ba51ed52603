"""What could not be measured, and why, in one line."""

from __future__ import annotations

from typing import NamedTuple


class Failure(NamedTuple):
    """what: the operator, or the sizes. reason: one line."""

    what: str
    reason: str

    def __str__(self) -> str:
        return f"not measured: {self.what}: {self.reason}"


def reason_of(error: BaseException) -> str:
    """An exception in one line; PyTorch's report on memory down to what was asked for."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text:
        asked = text.partition("Tried to allocate ")[2].partition(". ")[0]
        return f"out of memory{f' (tried to allocate {asked})' if asked else ''}"
    if isinstance(error, ValueError) and text:
        # What refuses says why in a sentence.
        return text[:300]
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name
