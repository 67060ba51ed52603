"""Which layer each one of a hybrid model is, from Megatron-Core's --hybrid-layer-pattern.

A symbol is a layer, with a norm and a residual add of its own: ``M`` Mamba, ``*`` attention, ``-`` dense feed-forward
block, ``E`` mixture of experts. ``|`` ends a virtual pipeline stage; ``/`` begins the layers of a depth of multi-token
prediction, which are the same for each depth (Megatron-Core's `hybrid_layer_allocation.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.specs.checks import SpecError

FLAG = "--hybrid-layer-pattern"
MAMBA, ATTENTION, MLP, EXPERTS = "M", "*", "-", "E"
# Tokens that the convolution of a Mamba layer sees: Megatron-Core's mixer has no argument for it.
CONVOLVED_TOKENS = 4
SYMBOLS = {
    MAMBA: "Mamba",
    ATTENTION: "attention",
    MLP: "dense feed-forward block",
    EXPERTS: "mixture of experts",
}
# Symbols of layers that are not simulated.
_OTHERS = {"G": "gated delta net", "D": "sparse attention", "+": "multi-latent attention"}


@dataclass(frozen=True)
class HybridPattern:
    """layers: a symbol for each layer. mtp: those of a depth of multi-token prediction, depths: how many there are.
    stages: layers of each virtual stage; () where the pattern does not say."""

    layers: str
    mtp: str
    depths: int
    stages: tuple[int, ...]


def read_pattern(text: str) -> HybridPattern:
    """The parts of a pattern such as ``"M-M-|M-M*-/*E/*E"``; raises `SpecError`."""
    main, *depths = text.strip().split("/")
    depths = [depth for depth in depths if depth]
    if len(set(depths)) > 1:
        raise SpecError(f"{FLAG} is {text!r}: the layers of all depths of multi-token prediction (/) must be the same")
    stages = main.split("|")
    layers = "".join(stages)
    check_symbols(FLAG, layers)
    mtp = depths[0] if depths else ""
    check_symbols(FLAG, mtp)
    if not layers:
        raise SpecError(f"{FLAG} is {text!r}: it has no layer")
    return HybridPattern(layers, mtp, len(depths), tuple(map(len, stages)) if len(stages) > 1 else ())


def check_symbols(flag: str, symbols: str) -> None:
    """Raise `SpecError` for a symbol that is none, or of a layer that is not simulated."""
    for symbol in symbols:
        if symbol in _OTHERS:
            raise SpecError(f"{flag} has {symbol!r} ({_OTHERS[symbol]}), which is not simulated: it takes {_known()}")
        if symbol not in SYMBOLS:
            raise SpecError(f"{flag} has {symbol!r}: it takes {_known()}")


def write_pattern(layers: str, stages: tuple[int, ...], mtp: str, depths: int) -> str:
    """Megatron's pattern of these layers, cut into these virtual stages (() for no cut)."""
    cut, first = [], 0
    for count in stages or (len(layers),):
        cut.append(layers[first : first + count])
        first += count
    return "/".join(["|".join(cut), *([mtp] * depths if mtp else [])])


def _known() -> str:
    return ", ".join(f"{symbol} ({what})" for symbol, what in SYMBOLS.items())
