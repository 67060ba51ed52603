"""Numeric precisions of a training step, each one object in a registry.

A precision says what the parameters are kept in, what the linear layers multiply in, and how operands get there.
Attention, norms, router, embedding and output layer stay in the parameters' type. Names are those that users of
Megatron say: "bf16", "fp16", "fp32", and Transformer Engine's recipes with their format: "fp8-" with delayed scaling,
"fp8-tensorwise-", "fp8-blockwise-", "mxfp8-", and "nvfp4". Without a format they are those that are usual.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vtrain_schemas.operators import dtype_bytes, element_bytes
from vtrain_sim.errors import nearest
from vtrain_sim.extensions import load_extensions
from vtrain_sim.specs.checks import SpecError, one_of

# Values of Megatron's --fp8-recipe, the default first.
DELAYED = "delayed"
FP8_RECIPES = (DELAYED, "tensorwise", "blockwise", "mxfp8")
# Values of Megatron's --fp8-format.
FP8_FORMATS = ("hybrid", "e4m3")


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
    weight_copy_bytes: float = 0
    """Bytes per parameter of further copies of the linear layers' weights."""
    fp8_recipe: str = ""
    """Value of --fp8-recipe; empty for delayed scaling, Megatron's default."""
    fp4_format: str = ""
    """Value of --fp4-format; empty for no 4-bit products."""
    quantises_by: tuple[str, ...] = ("cast",)
    """Kinds of operators that convert an operand of a product, row-wise and column-wise, in order."""
    gathers_in: str = ""
    """Type in which updated parameters are gathered where --fp8-param-gather keeps them in the products' type;
    empty: they cannot be kept so."""
    keeps_params: bool = False
    """Whether the linear layers' parameters are kept in the products' type alone."""
    aliases: tuple[str, ...] = ()
    """Further names, the usual one first."""

    @property
    def casts_inputs(self) -> bool:
        """Whether a linear layer's input is converted before it is multiplied."""
        return self.product_dtype != self.params_dtype

    @property
    def saved_input_bytes(self) -> float:
        """Bytes per element of the input that a linear layer keeps for its backward pass: one quantised copy."""
        return element_bytes(self.product_dtype)

    @property
    def gathered_bytes(self) -> int:
        """Bytes per parameter that data parallel ranks gather after the update."""
        return dtype_bytes(self.gathers_in if self.keeps_params else self.params_dtype)

    def with_kept_params(self) -> Precision:
        """The same, with --fp8-param-gather: no parameter of a linear layer is also kept in 16 bits.

        Raises `SpecError` where Megatron does not gather parameters in this type.
        """
        if not self.gathers_in:
            raise SpecError(f"--fp8-param-gather needs --fp8-format: precision {self.name} has no 8-bit parameters")
        wide = dtype_bytes(self.params_dtype)
        return replace(self, keeps_params=True, weight_copy_bytes=self.weight_copy_bytes - wide)

    def wide(self) -> Precision:
        """That of layers whose products are in the parameters' type beside narrower ones."""
        return precision_of(self.params_dtype)

    @property
    def usual_name(self) -> str:
        """What it is mostly called."""
        return self.aliases[0] if self.aliases else self.name

    @property
    def all_flags(self) -> tuple[str, ...]:
        """vtrain's arguments that ask for it, that for the parameters' type among them."""
        return TYPE_FLAGS[self.params_dtype], *self.flags

    @property
    def flags(self) -> tuple[str, ...]:
        """Megatron's arguments that ask for its products."""
        pairs = (
            ("--fp8-format", self.fp8_format),
            ("--fp8-recipe", self.fp8_recipe),
            ("--fp4-format", self.fp4_format),
        )
        return tuple(word for flag, value in pairs if value for word in (flag, value))

    @property
    def _key(self) -> tuple[str, str, str, str]:
        return self.params_dtype, self.fp8_format, self.fp8_recipe, self.fp4_format


ENTRY_POINTS = "vtrain.precisions"
# vtrain's arguments for the parameters' type.
TYPE_FLAGS = {"bfloat16": "--bf16", "float16": "--fp16", "float32": "--fp32"}
_PRECISIONS: dict[str, Precision] = {}


def register(new: Precision) -> Precision:
    """Make a precision known; raises `ValueError` where its name, or its types and format, are taken."""
    for known in _PRECISIONS.values():
        if _names(known) & _names(new) or known._key == new._key:
            raise ValueError(f"precision {new!r} is already registered, as {known!r}")
    _PRECISIONS[new.name] = new
    return new


def _names(known: Precision) -> set[str]:
    return {known.name, *known.aliases}


def precisions() -> tuple[Precision, ...]:
    """Every registered precision, in the order of registration."""
    return tuple(_PRECISIONS.values())


def precision(name: str) -> Precision:
    """The precision of a name or alias, with hyphens or underscores.

    Raises `SpecError` with the usual name of each.
    """
    known = _called(name)
    if known is None:
        load_extensions(ENTRY_POINTS, register)
        known = _called(name)
    if known is None:
        usual = [each.usual_name for each in _PRECISIONS.values()]
        close = nearest(name, (word for each in _PRECISIONS.values() for word in (each.name, *each.aliases)))
        raise SpecError(f"precision is {name!r}: it takes one of {', '.join(usual)}{close}")
    return known


def _called(name: str) -> Precision | None:
    word = name.replace("_", "-")
    return next((known for known in _PRECISIONS.values() if word in _names(known)), None)


def precision_of(params_dtype: str, fp8_format: str = "", fp8_recipe: str = "", fp4_format: str = "") -> Precision:
    """The precision of parameters in this type and products in this format, scaled by this recipe.

    Raises `SpecError`.
    """
    recipe = "" if fp8_recipe == DELAYED else fp8_recipe
    key = (params_dtype, fp8_format, recipe, fp4_format)
    known = _with_key(key)
    if known is None:
        load_extensions(ENTRY_POINTS, register)
        known = _with_key(key)
    if known is not None:
        return known
    if fp8_format and fp4_format:
        raise SpecError("--fp8-format and --fp4-format contradict each other: give one")
    if fp4_format:
        formats = [p.fp4_format for p in _PRECISIONS.values() if p.params_dtype == params_dtype and p.fp4_format]
        one_of("--fp4-format", fp4_format, formats)
        raise SpecError("--fp8-recipe needs --fp8-format")
    if recipe and not fp8_format:
        raise SpecError("--fp8-recipe needs --fp8-format")
    one_of("--fp8-recipe", fp8_recipe or DELAYED, FP8_RECIPES)
    formats = [
        p.fp8_format
        for p in _PRECISIONS.values()
        if p.params_dtype == params_dtype and p.fp8_format and p.fp8_recipe == recipe
    ]
    if not formats:
        raise SpecError(f"there is no precision of parameters in {params_dtype} with 8-bit products ({fp8_format!r})")
    raise SpecError(f"--fp8-format is {fp8_format!r}: it takes one of {', '.join(formats)}")


def _with_key(key: tuple[str, str, str, str]) -> Precision | None:
    return next((known for known in _PRECISIONS.values() if known._key == key), None)


# Megatron keeps gradients in fp32 with bf16, and in the parameters' type else.
register(Precision("bf16", "bfloat16", "bfloat16", "float32"))
register(Precision("fp16", "float16", "float16", "float16"))
register(Precision("fp32", "float32", "float32", "float32"))


def _narrow(name: str, product_dtype: str, copies: int, **how: Any) -> None:
    """Products in a narrow type beside parameters in bf16. copies: of each weight, in the products' type."""
    size = copies * element_bytes(product_dtype)
    register(Precision(name, "bfloat16", product_dtype, "float32", weight_copy_bytes=size, **how))


# Transformer Engine keeps two copies of each weight and of each operand: by rows, and by columns for the other product.
# Delayed scaling knows the scale from steps before; current scaling reads the tensor for it first (Transformer Engine,
# "Using FP8"). Blocks of 128 (DeepSeek-V3, arXiv:2412.19437, section 3.3.2) and of 32 (OCP Microscaling Formats 1.0)
# find their scales as they convert. With mxfp8 both copies are made from 16 bits, so that these are gathered
# (Megatron-Core's distributed optimizer). NVFP4 has a scale for the tensor too, and rotates what weight gradients
# multiply (arXiv:2509.25149, sections 4.2 and 4.3).
# The usual format of a recipe has its short names: E4M3 for both directions where blocks are scaled.
for _format in ("hybrid", "e4m3"):
    _per_tensor, _per_block = _format == "hybrid", _format == "e4m3"
    _narrow(
        f"fp8-{_format}",
        "float8",
        2,
        fp8_format=_format,
        gathers_in="float8",
        aliases=("fp8", "fp8-delayed") if _per_tensor else (),
    )
    _narrow(
        f"fp8-tensorwise-{_format}",
        "float8",
        2,
        fp8_format=_format,
        fp8_recipe="tensorwise",
        quantises_by=("amax", "cast"),
        gathers_in="float8",
        aliases=("fp8-tensorwise", "fp8-current") if _per_tensor else (),
    )
    _narrow(
        f"fp8-blockwise-{_format}",
        "float8_blockwise",
        2,
        fp8_format=_format,
        fp8_recipe="blockwise",
        gathers_in="float8",
        aliases=("fp8-blockwise",) if _per_block else (),
    )
    _narrow(
        f"mxfp8-{_format}",
        "mxfp8",
        2,
        fp8_format=_format,
        fp8_recipe="mxfp8",
        gathers_in="bfloat16",
        aliases=("mxfp8",) if _per_block else (),
    )
_narrow("nvfp4", "nvfp4", 2, fp4_format="e2m1", quantises_by=("amax", "cast_hadamard"))
