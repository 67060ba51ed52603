"""Where the experts of a token are, under balanced routing."""

from __future__ import annotations


def domains_reached(domains: int, choices: int, share: float = 1.0) -> float:
    """Expected number of so many equal domains that have one of a token's `choices` experts or more.

    share: of the domains, those that the experts of one token are limited to.
    """
    within = max(1.0, domains * share)
    return within * (1.0 - (1.0 - 1.0 / within) ** choices)
