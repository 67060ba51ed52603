"""Tables of names: ordered rules with a pattern each, the first whose pattern is found in a name counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar


class HasPattern(Protocol):
    """A rule: a regular expression, searched for anywhere in the name."""

    @property
    def pattern(self) -> str: ...


@dataclass(frozen=True)
class Rule:
    """One row of a table of kernels or operators, with a real name that it must match."""

    kind: str
    library: str
    pattern: str
    example: str


R = TypeVar("R", bound=HasPattern)


def first_match(rules: Sequence[R]) -> Callable[[str], R | None]:
    """A function that gives the rule a name falls under, or None; it remembers names."""
    compiled = tuple((re.compile(rule.pattern), rule) for rule in rules)

    @lru_cache(maxsize=65536)
    def find(name: str) -> R | None:
        return next((rule for pattern, rule in compiled if pattern.search(name)), None)

    return find
