"""One row of a validation table, and what was projected for it."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.results import Document


@dataclass(frozen=True)
class Row:
    """One measured configuration, and what was projected for it (or why it was not).

    measured_s: seconds, None where the table's cell holds no time.
    gpu, family: name of the GPU; "dense" or "mixture of experts". group: what rows must have in common to be
    ordered against each other. fits: whether the projection fits in the GPU's memory, if need be with an allocator
    that wastes nothing, and with full recomputation where that is open. bracket_low_s, bracket_high_s: the fastest
    and the slowest of the configurations that a row may describe which leaves sizes open. full_recompute_s: where
    the source does not say whether it recomputed, the projection with full recomputation. approximated: columns
    with values that nothing models.
    """

    id: str
    measured_s: float | None
    measured_memory_gb: float | None
    group: tuple[str, ...]
    predicted_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    predicted_memory_gb: float | None = None
    fits: bool | None = None
    bracket_low_s: float | None = None
    bracket_high_s: float | None = None
    full_recompute_s: float | None = None
    approximated: tuple[str, ...] = ()
    reason: str = ""
    gpu: str = ""
    family: str = ""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.pair is None else self.pair[1] / self.pair[0] - 1

    @property
    def pair(self) -> tuple[float, float] | None:
        """Measured and predicted seconds, of a row that has both."""
        if self.measured_s is None or self.predicted_s is None:
            return None
        return self.measured_s, self.predicted_s

    def to_dict(self) -> Document:
        """The row of the machine-readable result."""
        names = ("id", "measured_s", "predicted_s", "low_s", "high_s", "measured_memory_gb", "predicted_memory_gb")
        document = {name: getattr(self, name) for name in (*names, "fits")}
        document |= {"gpu": self.gpu, "family": self.family, "group": "/".join(self.group)}
        document |= {"approximated": list(self.approximated)}
        for name in ("bracket_low_s", "bracket_high_s", "full_recompute_s"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        return document | ({"reason": self.reason} if self.reason else {})
