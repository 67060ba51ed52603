"""Values that a launch script leaves to be filled in: ``--data-path <path to data>``."""

from __future__ import annotations

import re

# The value of a variable or of an argument.
_OPEN = re.compile(r"((?<![\w-])(?:[A-Za-z_]\w*=|--[a-z][\w-]*[= ]+)[\"']?)<[A-Za-z][^<>\n|&;$`\"']*(?<![ \t])>")


def filled_in(text: str) -> str:
    """A script with a value for each of them: a shell takes them for redirections."""
    return _OPEN.sub(r"\1%placeholder%", text)
