"""Where the experts of a token are, under balanced routing, and how it gets there."""

from __future__ import annotations

from dataclasses import dataclass

DEEPEP, HYBRIDEP = "deepep", "hybridep"


@dataclass(frozen=True)
class Delivery:
    """Tokens cross each level of the network once for each domain that has any of their experts.

    choices: experts of each token. share: see `domains_reached`. library: whose kernels move them.
    """

    choices: int
    share: float = 1.0
    library: str = DEEPEP


def domains_reached(domains: int, choices: int, share: float = 1.0) -> float:
    """Expected number of so many equal domains that have one of a token's `choices` experts or more.

    share: of the domains, those that the experts of one token are limited to.
    """
    within = max(1.0, domains * share)
    return within * (1.0 - (1.0 - 1.0 / within) ** choices)
