"""Megatron-LM's arguments, where a script uses its argument parser."""

from __future__ import annotations

import sys


def argument(name: str) -> object:
    """The value of one of Megatron-LM's arguments; None without its argument parser, or without the argument."""
    variables = sys.modules.get("megatron.training.global_vars")
    if variables is None:
        return None
    try:
        return getattr(variables.get_args(), name, None)
    except AssertionError:
        return None
