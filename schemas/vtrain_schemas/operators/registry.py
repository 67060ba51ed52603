"""What is known of a kind of operator, and the registry of kinds.

A kind is one object: an instance of `OperatorKind` or of a subclass, passed to `register`. A package outside
vtrain names its kinds as entry points of the group ``vtrain.operators`` (kind name -> the object).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from vtrain_schemas.operators.operator import Operator

ENTRY_POINTS = "vtrain.operators"


class Family(Enum):
    """What bounds the time of a kind: which formula of the cost model it takes."""

    MATRIX_PRODUCT = "arithmetic, in tiles and waves of a matrix product"
    ATTENTION = "arithmetic and score traffic of attention"
    MEMORY_BOUND = "memory traffic"
    CONSTANT = "the host: it does not follow the shape"
    UNMODELLED = "nothing: of imported traces, known by name alone"


class UnknownKindError(ValueError):
    """An operator kind that nobody registered."""


@dataclass(frozen=True)
class OperatorKind:
    """One kind of operator.

    FLOPs are those that are executed; a multiply-add counts as two (Narayanan et al., SC'21, appendix). Bytes are
    those of a perfect implementation: each input read once, each output written once.
    """

    name: str
    """Word of the ``kind`` column."""
    meaning: str
    """One sentence for the documentation: what it does, and what its sizes are."""
    family: Family = Family.UNMODELLED
    """Which formula of the cost model it takes."""
    kernels: tuple[int, int] = (0, 0)
    """Kernels that the host launches for one forward and one backward call."""
    fusion: str = ""
    """What `Operator.fused` means: text of the ``fused`` column; empty where there is no such choice."""
    like: str = ""
    """The kind whose coefficients of the cost model it takes where it has none of its own; empty: no such kind."""
    routed: bool = False
    """Works on the tokens routed to this rank's experts: its rows are those of the busiest rank."""

    @property
    def matrix_product(self) -> bool:
        """Counts as model FLOPs: matrix products and attention, not what is element by element."""
        return self.family in (Family.MATRIX_PRODUCT, Family.ATTENTION)

    @property
    def follows_shape(self) -> bool:
        """Whether its time depends on its sizes; one time serves all shapes otherwise."""
        return self.family is not Family.CONSTANT

    @property
    def splits_backward(self) -> bool:
        """Whether its backward pass is a data gradient and a weight gradient that can run apart."""
        return self.family is Family.MATRIX_PRODUCT

    def flops(self, operator: Operator) -> float:
        """Floating point operations that one call executes."""
        return 0.0

    def bytes(self, operator: Operator) -> float:
        """Memory traffic of one call, bytes."""
        return 0.0

    def saved(self, operator: Operator, dropout: bool, gated: bool) -> dict[str, int]:
        """Bytes of each tensor that a forward call keeps for its backward pass, by name.

        "input" and "output" may be another operator's tensor too: who adds up counts such a tensor once.
        dropout: the model drops out. gated: its activation has a gate (SwiGLU), an input of twice the width.
        """
        return {}

    def problems(self, operator: Operator) -> int:
        """Independent products that share the rows of one call."""
        return 1

    def simplest(self, operator: Operator) -> Operator:
        """The same work as an operator of a simpler kind, whose measurements are its own too."""
        return operator

    def variant(self, operator: Operator) -> str:
        """Name under which coefficients of the cost model are kept."""
        return self.name

    def launches(self, operator: Operator) -> int:
        """Kernels that the host launches for one call."""
        if operator.phase in ("dgrad", "wgrad"):
            return 1
        forward, backward = self.kernels
        return backward if operator.phase == "backward" else forward


_Kind = TypeVar("_Kind", bound=OperatorKind)
_KINDS: dict[str, OperatorKind] = {}


def register(new: _Kind) -> _Kind:
    """Make a kind known under its name; raises `ValueError` where another has it."""
    known = _KINDS.setdefault(new.name, new)
    if known is not new:
        raise ValueError(f"operator kind {new.name!r} is already registered, as {known!r}: choose another name")
    return new


def kind(name: str) -> OperatorKind:
    """The record of a kind; raises `UnknownKindError` with the nearest known name."""
    known = _KINDS.get(name)
    return _load(name) if known is None else known


def kinds() -> tuple[OperatorKind, ...]:
    """Every registered kind, in the order of registration; kinds behind entry points only once they were used."""
    return tuple(_KINDS.values())


def _load(name: str) -> OperatorKind:
    """Load a kind from an installed package's entry point."""
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        loaded = entry.load()
        if not isinstance(loaded, OperatorKind) or loaded.name != name:
            raise UnknownKindError(
                f"entry point {name!r} of group {ENTRY_POINTS!r} is {loaded!r}: it must be an OperatorKind of that name"
            )
        return register(loaded)
    near = difflib.get_close_matches(name, list(_KINDS), n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UnknownKindError(
        f"unknown operator kind {name!r}{hint}: register it, or install the package whose entry point of group "
        f"{ENTRY_POINTS!r} has that name"
    )
