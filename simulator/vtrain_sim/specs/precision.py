"""Numeric precisions of a training step, each one object in a registry.

A precision says what the parameters are kept in and what the linear layers multiply in. Names are those that users
of Megatron say: "bf16", "fp16", "fp32", and "fp8-" with Transformer Engine's format.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.errors import nearest
from vtrain_sim.extensions import load_extensions
from vtrain_sim.specs.checks import SpecError


@dataclass(frozen=True)
class Precision:
    """One precision. Element types by their torch names, sizes in bytes."""

    name: str
    params_dtype: str
    """Type of the parameters, of activations, and of every operator but linear layers."""
    product_dtype: str
    """Type in which the linear layers multiply; the peak of this type is what MFU is relative to."""
    main_grads_dtype: str
    """Type in which Megatron keeps gradients where no flag says otherwise."""
    fp8_format: str = ""
    """Value of Megatron's --fp8-format; empty for no 8-bit products."""
    weight_copy_bytes: int = 0
    """Bytes per parameter of further copies of the linear layers' weights."""

    @property
    def casts_inputs(self) -> bool:
        """Whether a linear layer's input is converted before it is multiplied."""
        return self.product_dtype != self.params_dtype

    @property
    def saved_input_bytes(self) -> int:
        """Bytes per element of the input that a linear layer keeps for its backward pass."""
        return dtype_bytes(self.product_dtype)


ENTRY_POINTS = "vtrain.precisions"
_PRECISIONS: dict[str, Precision] = {}


def register(new: Precision) -> Precision:
    """Make a precision known; raises `ValueError` where its name, or its types and format, are taken."""
    for known in _PRECISIONS.values():
        if known.name == new.name or (known.params_dtype, known.fp8_format) == (new.params_dtype, new.fp8_format):
            raise ValueError(f"precision {new!r} is already registered, as {known!r}")
    _PRECISIONS[new.name] = new
    return new


def precisions() -> tuple[Precision, ...]:
    """Every registered precision, in the order of registration."""
    return tuple(_PRECISIONS.values())


def precision(name: str) -> Precision:
    """The precision of a name; raises `SpecError` with the names that there are."""
    known = _PRECISIONS.get(name)
    if known is None:
        load_extensions(ENTRY_POINTS, register)
        known = _PRECISIONS.get(name)
    if known is None:
        raise SpecError(f"precision is {name!r}: it takes one of {', '.join(_PRECISIONS)}{nearest(name, _PRECISIONS)}")
    return known


def precision_of(params_dtype: str, fp8_format: str = "") -> Precision:
    """The precision of parameters in this type and products in this 8-bit format; raises `SpecError`."""
    known = _with_types(params_dtype, fp8_format)
    if known is None:
        load_extensions(ENTRY_POINTS, register)
        known = _with_types(params_dtype, fp8_format)
    if known is not None:
        return known
    formats = [p.fp8_format for p in _PRECISIONS.values() if p.params_dtype == params_dtype and p.fp8_format]
    if not formats:
        raise SpecError(f"there is no precision of parameters in {params_dtype} with 8-bit products ({fp8_format!r})")
    raise SpecError(f"--fp8-format is {fp8_format!r}: it takes one of {', '.join(formats)}")


def _with_types(params_dtype: str, fp8_format: str) -> Precision | None:
    same = (p for p in _PRECISIONS.values() if (p.params_dtype, p.fp8_format) == (params_dtype, fp8_format))
    return next(same, None)


# Megatron keeps gradients in fp32 with bf16, and in the parameters' type else.
register(Precision("bf16", "bfloat16", "bfloat16", "float32"))
register(Precision("fp16", "float16", "float16", "float16"))
register(Precision("fp32", "float32", "float32", "float32"))
# Transformer Engine keeps two 8-bit copies of each weight: as it is, and transposed.
register(Precision("fp8-hybrid", "bfloat16", "float8", "float32", fp8_format="hybrid", weight_copy_bytes=2))
register(Precision("fp8-e4m3", "bfloat16", "float8", "float32", fp8_format="e4m3", weight_copy_bytes=2))
