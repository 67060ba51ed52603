"""A time, how sure it is, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = "measured"
INTERPOLATED = "interpolated"
MODELLED = "modelled"


@dataclass(frozen=True)
class Estimate:
    """seconds: expected duration. sigma: standard deviation of its logarithm."""

    seconds: float
    sigma: float
    provenance: str

    def scaled(self, factor: float) -> Estimate:
        """The same estimate for `factor` times the duration."""
        return Estimate(self.seconds * factor, self.sigma, self.provenance)
