"""The candidates that were evaluated, and what a further one must beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.evaluated import Booleans, Dropped, Figures, Floats
from vtrain_sim.decide.objective import Objective
from vtrain_sim.decide.order import ROUNDING, equal, undominated
from vtrain_sim.errors import UserError
from vtrain_sim.simulate.batch import Evaluation
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import peak_of
from vtrain_sim.specs import Configuration

Integers = NDArray[np.int64]
Sizes = TypeVar("Sizes", int, Integers)


def _distinct(ascending: Floats) -> Floats:
    """Values without those that equal the one before but for rounding."""
    return ascending[np.concatenate([[True], ~equal(ascending[1:], ascending[:-1])])] if len(ascending) else ascending


def layout_kind(tp: Sizes, cp: Sizes, ep: Sizes, pp: Sizes, fsdp: Sizes) -> Sizes:
    """A number for each kind of layout, one or [candidates]: one of other sizes, or fully sharded, is another kind."""
    return ((tp * 1024 + cp) * 4096 + ep) * 65536 + pp * 2 + fsdp


def kind_of(c: Configuration) -> int:
    """The kind of one candidate's layout."""
    p = c.parallel
    return layout_kind(p.tp, p.cp, p.ep, p.pp, int(p.fsdp))


@dataclass
class Record:
    """Candidates that were evaluated. configurations, figures: those that fit and end in time, and their figures chunk
    by chunk; dropped: the others. tight: of all, those that leave too little memory. smallest_bytes: least peak memory
    of all of them. soonest_days: of those that fit.
    """

    configurations: list[Configuration] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    dropped: Dropped = field(default_factory=Dropped)
    evaluated: int = 0
    tight: int = 0
    smallest_bytes: float = math.inf
    soonest_days: float = math.inf

    def feasible(self) -> Figures:
        """Of all feasible candidates, in the order of `configurations`."""
        return Figures.joined(self.figures)


class Incumbents:
    """Evaluated candidates, gathered chunk by chunk. top: so many of the best are wanted, beside the best of another
    kind, and those that no other one beats in both days and dollars."""

    def __init__(self, projector: Projector, objective: Objective, top: int, allow_tight: bool) -> None:
        self._projector, self.objective, self._top, self._allow_tight = projector, objective, top, allow_tight
        self.record = Record()
        # Of the best of each kind, and of the front: days ascending, dollars descending.
        self._best_of_kind: dict[int, float] = {}
        self._best_keys: Floats = np.zeros(0)
        self._front: tuple[Floats, Floats] = np.zeros(0), np.zeros(0)

    def add(self, chunk: Sequence[Configuration]) -> list[UserError]:
        """Evaluate candidates. Those with a cost that is not known are left out: what is not known of each of them."""
        if not chunk:
            return []
        try:
            self._add(chunk)
        except UserError as error:
            if len(chunk) == 1:
                return [error]
            half = len(chunk) // 2
            return self.add(chunk[:half]) + self.add(chunk[half:])
        return []

    def _add(self, chunk: Sequence[Configuration]) -> None:
        arrays = self._projector.evaluate(chunk)
        figures = self.figures(chunk, arrays)
        record = self.record
        record.evaluated += len(chunk)
        record.smallest_bytes = min(record.smallest_bytes, float(arrays.peak_bytes.min()))
        fits = self.fits(arrays)
        record.tight += int(arrays.tight.sum())
        if fits.any():
            record.soonest_days = min(record.soonest_days, float(figures.days[fits].min()))
        feasible = fits & self.objective.in_time(figures)
        kept = [c for c, keep in zip(chunk, feasible, strict=True) if keep]
        record.configurations += kept
        record.figures.append(figures.pick(feasible))
        record.dropped.add(chunk, figures, fits, feasible)
        self._beat(kept, figures.pick(feasible))

    def absorb(self, other: Record) -> None:
        """Take over what was evaluated elsewhere."""
        record = self.record
        record.configurations += other.configurations
        record.figures += other.figures
        record.dropped.absorb(other.dropped)
        record.evaluated += other.evaluated
        record.tight += other.tight
        record.smallest_bytes = min(record.smallest_bytes, other.smallest_bytes)
        record.soonest_days = min(record.soonest_days, other.soonest_days)
        if other.configurations:
            self._beat(other.configurations, other.feasible())

    def figures(self, chunk: Sequence[Configuration], arrays: Evaluation) -> Figures:
        """Of evaluated candidates."""
        gpus = np.array([c.parallel.world_size for c in chunk], dtype=np.float64)
        tokens = np.array([c.tokens_per_step for c in chunk], dtype=np.float64)
        peak = np.array([peak_of(self._projector.cluster, c.train) for c in chunk])
        return self.objective.figures(
            gpus, tokens, arrays.model_flops, peak, arrays.iteration_time_s, arrays.peak_bytes
        )

    def fits(self, arrays: Evaluation) -> Booleans:
        """Which evaluated candidates fit into memory."""
        return arrays.fits | arrays.tight if self._allow_tight else arrays.fits

    def may_matter(self, least: Figures, kind: Integers) -> Booleans:
        """[candidates] whether they may be among what is wanted. least: their figures at the least that they take."""
        key = self.objective.key(least)
        matters: Booleans = key <= self._best_keys[-1] if len(self._best_keys) >= self._top else np.ones(len(key), bool)
        best_kind = min(self._best_of_kind, key=self._best_of_kind.__getitem__, default=None)
        if best_kind is None:
            return matters
        # A kind that is as good may have twins of the best alone, which are not listed.
        best = self._best_of_kind[best_kind]
        others = [value for value in self._best_of_kind.values() if abs(value - best) > ROUNDING * abs(best)]
        matters |= (kind != best_kind) & (key <= min(others, default=math.inf))
        days, cost = self._front
        if len(days) and self.objective.tokens:
            # The cheapest of those that are as soon done is the last of them.
            place = np.searchsorted(days, least.days, side="right") - 1
            beaten = (place >= 0) & (cost[np.maximum(place, 0)] <= least.dollars)
            matters |= ~beaten
        return matters

    def _beat(self, kept: Sequence[Configuration], figures: Figures) -> None:
        if not kept:
            return
        key = self.objective.key(figures)
        # Twins are listed once.
        self._best_keys = _distinct(np.sort(np.concatenate([self._best_keys, key])))[: self._top]
        for kind, value in zip(map(kind_of, kept), key.tolist(), strict=True):
            self._best_of_kind[kind] = min(value, self._best_of_kind.get(kind, math.inf))
        days, cost = np.concatenate([self._front[0], figures.days]), np.concatenate([self._front[1], figures.dollars])
        order = np.lexsort((cost, days))
        days, cost = days[order], cost[order]
        front = undominated(cost)
        self._front = days[front], cost[front]
