"""Every configuration that a search evaluated, kept as columns until somebody asks for rows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.results import Row
from vtrain_sim.specs import Configuration

# As many plans as are kept of a larger search: the best, and then the first of those that were dropped.
MOST_KEPT = 20_000
FITS, TOO_LARGE, TOO_LATE = "fits", "does not fit", "after the deadline"

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def layout_columns(configuration: Configuration) -> Row:
    """What a search varies: sizes of the layout, micro batch and global batch."""
    sizes = {name: getattr(configuration.parallel, name) for name in ("tp", "pp", "vpp", "dp", "cp", "ep")}
    train = configuration.train
    return {**sizes, "mbs": train.micro_batch_size, "global_batch_size": train.global_batch_size}


@dataclass(frozen=True)
class Figures:
    """What configurations are ranked by, [configurations] each. days: failures and checkpoints included."""

    seconds: Floats
    days: Floats
    dollars: Floats
    mfu: Floats
    peak_bytes: Floats

    def pick(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Figures:
        """Those of some of the configurations."""
        return Figures(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Figures]) -> Figures:
        """Those of several chunks, one after the other."""
        return Figures(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Figures)))


@dataclass
class Dropped:
    """Configurations that a search dropped, with the reason: the first `MOST_KEPT`."""

    configurations: list[Configuration] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)

    def add(self, chunk: Sequence[Configuration], figures: Figures, fits: Booleans, kept: Booleans) -> None:
        """Take over those of a chunk that were not kept."""
        lost = np.flatnonzero(~kept)[: MOST_KEPT - len(self.configurations)]
        self.configurations += [chunk[i] for i in lost]
        self.verdicts += [TOO_LATE if fit else TOO_LARGE for fit in fits[lost]]
        self.figures.append(figures.pick(lost))

    def absorb(self, other: Dropped) -> None:
        """Take over those of another search, as many as there is room for."""
        room = MOST_KEPT - len(self.configurations)
        self.configurations += other.configurations[:room]
        self.verdicts += other.verdicts[:room]
        if other.figures:
            self.figures.append(Figures.joined(other.figures).pick(np.arange(min(room, len(other.verdicts)))))


@dataclass(frozen=True)
class Evaluated:
    """Configurations of a search with their figures and what became of them; the best first. total: of all of them."""

    configurations: tuple[Configuration, ...]
    verdicts: tuple[str, ...]
    figures: Figures
    total: int

    @classmethod
    def of(cls, kept: Sequence[Configuration], figures: Figures, dropped: Dropped, total: int) -> Evaluated:
        """The kept ones in their order, then the dropped ones."""
        best = tuple(kept[:MOST_KEPT])
        rest = MOST_KEPT - len(best)
        joined = Figures.joined([figures.pick(np.arange(len(best))), *dropped.figures])
        return cls(
            best + tuple(dropped.configurations[:rest]),
            (FITS,) * len(best) + tuple(dropped.verdicts[:rest]),
            joined.pick(np.arange(len(best) + min(rest, len(dropped.configurations)))),
            total,
        )

    def rows(self) -> list[Row]:
        """One row per configuration; times in seconds, cost in US dollars, MFU 0 to 1."""
        return [self._row(index) for index in range(len(self.configurations))]

    def _row(self, index: int) -> Row:
        c, figures = self.configurations[index], self.figures
        return {
            "num_gpus": c.parallel.world_size,
            **layout_columns(c),
            "recompute": c.train.recompute_granularity,
            "schedule": c.schedule,
            "iteration_time_s": float(figures.seconds[index]),
            "days": float(figures.days[index]),
            "cost_usd": float(figures.dollars[index]),
            "mfu": float(figures.mfu[index]),
            "peak_bytes": float(figures.peak_bytes[index]),
            "verdict": self.verdicts[index],
            "megatron_args": shlex.join(emit_flags(c)),
        }
