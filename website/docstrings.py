"""An extension of Griffe: examples in docstrings (``>>>``) become blocks of code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# From a line with a prompt to the next empty line.
_EXAMPLE = re.compile(r"^>>> .*?(?=^\s*$|\Z)", re.S | re.M)


class Examples(Extension):
    """Fences each example of a docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """A docstring with its examples as fenced blocks."""
    return _EXAMPLE.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)
