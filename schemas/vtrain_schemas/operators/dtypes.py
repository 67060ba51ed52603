"""Element types by their torch names, and how large they are."""

from __future__ import annotations

DTYPE_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "tf32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "float8": 1,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class UnknownDtypeError(ValueError):
    """An element type whose size vtrain does not know."""


def dtype_bytes(dtype: str) -> int:
    """Size of one element; raises `UnknownDtypeError` with the known names."""
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise UnknownDtypeError(f"unknown element type {dtype!r}: known are {', '.join(DTYPE_BYTES)}") from None
