"""Which layers attend to the last tokens alone, from Megatron's --window-size and --window-attn-skip-freq."""

from __future__ import annotations

import re

from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.moe_pattern import moe_layers

_FLAG = "--window-attn-skip-freq"


def windowed_layers(window: int, skip_freq: str, num_layers: int) -> tuple[bool, ...]:
    """For each layer, whether it has a window: all without a frequency; with "n" every nth layer has none; or a list
    with 1 for those that have one. Raises `SpecError`."""
    if not window or not skip_freq:
        return (bool(window),) * num_layers
    if skip_freq.isdigit() and int(skip_freq):
        return tuple((layer + 1) % int(skip_freq) != 0 for layer in range(num_layers))
    try:
        return moe_layers(skip_freq, num_layers)
    except SpecError as error:
        raise SpecError(str(error).replace("--moe-layer-freq", _FLAG)) from None


def linear_layers(freq: str, num_layers: int) -> tuple[bool, ...]:
    """For each layer, whether it has linear attention, from Megatron's --linear-attention-freq: with "n" all but every
    nth; or a list with 1 for those that have it. Raises `SpecError`."""
    if not freq:
        return (False,) * num_layers
    if freq.isdigit() and int(freq):
        return tuple((layer + 1) % int(freq) != 0 for layer in range(num_layers))
    try:
        return moe_layers(freq, num_layers)
    except SpecError as error:
        raise SpecError(str(error).replace("--moe-layer-freq", "--linear-attention-freq")) from None


def read_window(flag: str, text: str) -> int:
    """Tokens before each one that it attends to, from ``"128,0"``, ``"(128, 0)"`` or ``"128"``; 0: all, as with -1.

    Raises `SpecError`, also for a window that sees later tokens.
    """
    numbers = re.fullmatch(r"[(\[]?\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?[)\]]?", text.strip())
    if numbers is None or int(numbers[1]) < -1 or int(numbers[2] or 0) not in (0, -1):
        raise SpecError(f"{flag} is {text!r}: it takes a number of tokens before each one and 0 after, such as 128,0")
    return max(0, int(numbers[1]))
