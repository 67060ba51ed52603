"""Values of settings as they are written on the command line."""

from __future__ import annotations


def value_of(text: str) -> str | int | bool:
    """True and false, whole numbers, anything else as it is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.isdecimal() else text
