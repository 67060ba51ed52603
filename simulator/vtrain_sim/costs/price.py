"""A time, how sure it is, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = "measured"
INTERPOLATED = "interpolated"
MODELLED = "modelled"


@dataclass(frozen=True)
class Price:
    """seconds: expected duration. sigma: standard deviation of its logarithm."""

    seconds: float
    sigma: float
    provenance: str

    def scaled(self, factor: float) -> Price:
        """The same price for `factor` times the duration."""
        return Price(self.seconds * factor, self.sigma, self.provenance)
