"""Which layers attend to the last tokens alone, and which have linear attention.

From Megatron's --window-size, --window-attn-skip-freq and --linear-attention-freq.
"""

from __future__ import annotations

import re

from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.moe_pattern import moe_layers


def windowed_layers(window: int, skip_freq: str, num_layers: int) -> tuple[bool, ...]:
    """For each layer, whether it has a window: all without a frequency; with "n" every nth layer has none; or a list
    with 1 for those that have one. Raises `SpecError`."""
    if not window or not skip_freq:
        return (bool(window),) * num_layers
    return _all_but_nth("--window-attn-skip-freq", skip_freq, num_layers)


def linear_layers(freq: str, num_layers: int) -> tuple[bool, ...]:
    """For each layer, whether it has linear attention, from Megatron's --linear-attention-freq: with "n" all but every
    nth; or a list with 1 for those that have it. Raises `SpecError`."""
    return _all_but_nth("--linear-attention-freq", freq, num_layers) if freq else (False,) * num_layers


def _all_but_nth(flag: str, freq: str, num_layers: int) -> tuple[bool, ...]:
    """With "n" all layers but every nth; or a list with 1 for those that are meant."""
    if freq.isdecimal() and int(freq):
        return tuple((layer + 1) % int(freq) != 0 for layer in range(num_layers))
    return moe_layers(freq, num_layers, flag)


def read_window(flag: str, text: str) -> int:
    """Tokens before each one that it attends to, from ``"128,0"``, ``"(128, 0)"`` or ``"128"``; 0: all, as with -1.

    Raises `SpecError`, also for a window that sees later tokens.
    """
    numbers = re.fullmatch(r"[(\[]?\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?[)\]]?", text.strip())
    if numbers is None or int(numbers[1]) < -1 or int(numbers[2] or 0) not in (0, -1):
        raise SpecError(f"{flag} is {text!r}: it takes a number of tokens before each one and 0 after, such as 128,0")
    return max(0, int(numbers[1]))
