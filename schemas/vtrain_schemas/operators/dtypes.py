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
# Quantised types: an element and its share of the scales. One fp32 scale for 128 elements (DeepSeek-V3,
# arXiv:2412.19437, section 3.3.2), one E8M0 for 32 (OCP Microscaling Formats 1.0), one E4M3 for 16 (NVFP4,
# arXiv:2509.25149, section 2).
SCALED_BYTES = {"float8_blockwise": 1 + 4 / 128, "mxfp8": 1 + 1 / 32, "nvfp4": 0.5 + 1 / 16}
ELEMENT_TYPES = (*DTYPE_BYTES, *SCALED_BYTES)


class UnknownDtypeError(ValueError):
    """An element type whose size vtrain does not know."""


def dtype_bytes(dtype: str) -> int:
    """Size of one element; raises `UnknownDtypeError` with the known names."""
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise UnknownDtypeError(f"unknown element type {dtype!r}: known are {', '.join(DTYPE_BYTES)}") from None


def element_bytes(dtype: str) -> float:
    """Size of one element, of a quantised type with its share of the scales; raises `UnknownDtypeError`."""
    scaled = SCALED_BYTES.get(dtype)
    return float(dtype_bytes(dtype)) if scaled is None else scaled
