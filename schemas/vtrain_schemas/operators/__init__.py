"""Operators: what is measured and estimated, and what is known of each kind.

Both sides use these records: the plugin to describe what it measured, the simulator to estimate what it
predicts. A kind is one object in one file here, or registered from outside (see `registry.py`).
"""

from vtrain_schemas.operators import attention, elementwise, embedding, gemm, imported, ssm, step  # noqa: F401 - registers
from vtrain_schemas.operators.dtypes import (
    DTYPE_BYTES,
    ELEMENT_TYPES,
    UnknownDtypeError,
    dtype_bytes,
    element_bytes,
)
from vtrain_schemas.operators.operator import DIMENSIONS, Operator
from vtrain_schemas.operators.registry import Family, OperatorKind, UnknownKindError, kind, kinds, register

__all__ = [
    "DIMENSIONS",
    "DTYPE_BYTES",
    "ELEMENT_TYPES",
    "Family",
    "Operator",
    "OperatorKind",
    "UnknownDtypeError",
    "UnknownKindError",
    "dtype_bytes",
    "element_bytes",
    "kind",
    "kinds",
    "register",
]
