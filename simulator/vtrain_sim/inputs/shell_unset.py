"""What is empty in a script that is not run: its own arguments where none are given, and arrays that nothing sets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtrain_sim.inputs.shell_variables import Value

_COMMENT = re.compile(r"(^|\s)#.*")
_ARRAY = re.compile(r"\$\{#?([A-Za-z_]\w*)\[[@*]\]")
_FUNCTION = re.compile(r"^[ \t]*(?:function[ \t]+[\w-]+|[\w-]+[ \t]*\(\))", re.MULTILINE)
# What changes a script's own arguments, and what may set any variable.
_SHIFTS = re.compile(r"(?<![\w-])(?:shift|set[ \t]+--|getopts)(?![\w-])")
_SETS_ANY = re.compile(r"(?:^|[;&|(`{]|\bthen|\bdo|\belse)[ \t]*(?:eval|source|\.)[ \t]", re.MULTILINE)


def known_from_the_start(text: str, arguments: Sequence[str]) -> dict[str, Value]:
    """Variables of a script before its first command, by name: ``@`` is the list of its own arguments.

    Left out, as not known, are arguments that a function may have of its own or that the script changes, and arrays
    that it may set anywhere.
    """
    plain = _COMMENT.sub("", text)
    values: dict[str, Value] = {}
    if not _FUNCTION.search(plain) and not _SHIFTS.search(plain):
        values |= {"@": list(arguments), "*": list(arguments), "#": str(len(arguments))}
        values |= {str(number): word for number, word in enumerate(arguments[:9], 1)}
    if not _SETS_ANY.search(plain):
        values |= {name: [] for name in sorted(set(_ARRAY.findall(plain))) if not _is_set(name, plain)}
    return values


def _is_set(name: str, plain: str) -> bool:
    """Whether a text names a variable in another way than by using it."""
    return re.search(rf"(?<![\w${{#]){name}(?!\w)", plain) is not None


def notes(text: str, values: dict[str, Value]) -> tuple[str, ...]:
    """Sentences on what was taken to be empty."""
    plain = _COMMENT.sub("", text)
    sentences = []
    if values.get("@") == [] and re.search(r"\$\{?[@*]", plain):
        sentences.append("the script's own arguments ($@) are empty: --script-args gives them")
    if arrays := [f"${name}" for name, value in values.items() if value == [] and name not in "@*"]:
        sentences.append(f"not set, empty in the script as in bash: {', '.join(arrays)}")
    return tuple(sentences)
