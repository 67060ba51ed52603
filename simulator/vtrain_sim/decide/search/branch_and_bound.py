"""Searches a space without evaluating most of it: what cannot be among the best, by a lower bound, is left out.

Layers without modules that run again are timed first; every candidate then has a bound (`search.lower_bounds`), and the
most promising are evaluated, until no other one can matter. Layers that run modules again take no less time than
without, which is their bound until one of them may matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtrain_sim.decide.evaluated import Floats
from vtrain_sim.decide.search.bounding import Bounder, Candidates
from vtrain_sim.decide.search.incumbents import Incumbents
from vtrain_sim.decide.search.options import Lanes
from vtrain_sim.decide.search.space import Space
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration

# Candidates that are evaluated together: enough to share, few enough to learn from.
CHUNK = 96
# Layers that are timed together, and candidates that are gathered before the best of them are evaluated.
_TIMED, _GATHERED = 48, 400_000


class Search:
    """A search of a space. candidates: how many it has, so far as it was looked at. interrupted: it was stopped."""

    def __init__(
        self, space: Space, projector: Projector, incumbents: Incumbents, progress: Progress, allow_tight: bool
    ) -> None:
        self.candidates = 0
        self.interrupted = False
        self._space, self._projector, self._incumbents = space, projector, incumbents
        self._progress, self._allow_tight = progress, allow_tight
        self._errors: list[UserError] = []
        self._bounders: list[Bounder] = []
        self._share = 0.0

    def run(self) -> None:
        """Find the best. Raises `UserError` where all candidates have a cost that is not known."""
        try:
            for counts in self._counts_alike():
                self._run(self._bounder(counts))
        except KeyboardInterrupt:
            self.interrupted = True
            self.glimpse()
            if not self._incumbents.record.configurations:
                raise
        if not self._incumbents.record.configurations:
            for bounder in self._bounders:
                self._nearest(bounder)
        if not self._incumbents.record.evaluated and self._errors:
            raise self._errors[0]

    def glimpse(self) -> None:
        """Where nothing that fits was evaluated: evaluate what looks best of the layers that were timed, or of a few.

        A search that is stopped while it times layers has no candidate yet.
        """
        if self._incumbents.record.configurations:
            return
        bounder = self._bounders[-1] if self._bounders else self._bounder(self._counts_alike()[0])
        if not len(bounder.table):
            every = np.unique(bounder.parents)
            self._time(bounder, every[:: max(1, len(every) // _TIMED)].tolist())
        whole, needs = self._all_bounded(bounder)
        self._add([bounder.configuration(whole, row) for row in _fastest(bounder, whole, needs)])

    def _counts_alike(self) -> list[list[int]]:
        """Numbers of GPUs whose layers run alike: several, and such that each is the only one of its node."""
        is_alone = self._projector.evaluator.is_alone
        alike = ([n for n in self._space.counts if is_alone(n) == alone] for alone in (False, True))
        return [counts for counts in alike if counts]

    def _bounder(self, counts: Sequence[int]) -> Bounder:
        bounder = Bounder(self._space, counts, self._projector, self._incumbents.objective, self._allow_tight)
        self._bounders.append(bounder)
        return bounder

    def _nearest(self, bounder: Bounder) -> None:
        """Evaluate candidates that need least memory, and those that may fit and take least time: what is missing."""
        whole, needs = self._all_bounded(bounder)
        smallest = np.argsort(needs, kind="stable")[:CHUNK].tolist()
        self._add([bounder.configuration(whole, row) for row in {*smallest, *_fastest(bounder, whole, needs)}])

    def _all_bounded(self, bounder: Bounder) -> tuple[Candidates, Floats]:
        """All candidates whose layers were timed, but for those that run modules again, and the bytes that they need at
        least."""
        every, sizes = [], [np.zeros(0)]
        for block in bounder.blocks:
            for number, lanes, sharings in bounder.candidates(block, again=False):
                for candidates, nbytes in bounder.bounded(number, lanes, sharings, relaxed=False):
                    every.append(candidates)
                    sizes.append(nbytes)
        return Candidates.joined(every), np.concatenate(sizes)

    def _run(self, bounder: Bounder) -> None:
        plain = {int(number) for block in bounder.blocks for number in np.unique(bounder.parents[block.lanes.option])}
        # The shares of a search that its parts take are about these.
        self._time(bounder, sorted(plain), 0.5)
        candidates = self._gather(bounder, again=False)
        self._reach(0.6)
        self._evaluate(bounder, candidates)
        self._reach(0.7)
        candidates = self._gather(bounder, again=True)
        self._reach(0.8)
        self._refine(bounder, candidates)

    def _reach(self, share: float) -> None:
        self._share = max(self._share, share)
        self._report()

    def _time(self, bounder: Bounder, options: Sequence[int], share: float = 0.0) -> None:
        """Time layers. share: of the search, which this is the first part of; 0: no part of its own."""
        for done, number in enumerate(options):
            if number not in bounder.table:
                try:
                    bounder.table.add(number, self._space.options[number].shard, bounder.costs)
                except UserError as error:
                    self._errors.append(error)
            if done % _TIMED == 0:
                self._reach(share * done / len(options))

    def _gather(self, bounder: Bounder, again: bool) -> Candidates:
        """Candidates that may matter; counts all. again: those whose layers run modules again, bounded by the layers
        that do not."""
        gathered: list[Candidates] = []
        size = 0
        for block in bounder.blocks:
            for number, lanes, sharings in bounder.candidates(block, again):
                self.candidates += len(lanes.option) * len(sharings)
                for candidates, nbytes in bounder.bounded(number, lanes, sharings, relaxed=again):
                    promising = self._promising(bounder, candidates.pick(bounder.fits(nbytes)))
                    gathered.append(promising)
                    size += len(promising.option)
            if size > _GATHERED:
                # What is best so far cuts what follows.
                whole = Candidates.joined(gathered)
                if not again:
                    order = np.argsort(whole.seconds, kind="stable")
                    self._evaluate(bounder, whole.pick(order[: 4 * CHUNK]))
                    whole = whole.pick(order[4 * CHUNK :])
                gathered = [self._promising(bounder, whole)]
                size = len(gathered[0].option)
        return Candidates.joined(gathered)

    def _promising(self, bounder: Bounder, candidates: Candidates) -> Candidates:
        if not len(candidates.option):
            return candidates
        least, kind = bounder.least(candidates)
        in_time = self._incumbents.objective.in_time(least)
        return candidates.pick(in_time & self._incumbents.may_matter(least, kind))

    def _evaluate(self, bounder: Bounder, candidates: Candidates) -> None:
        """Evaluate candidates, the most promising first, as long as any may matter."""
        if not len(candidates.option):
            return
        least, kind = bounder.least(candidates)
        order = np.argsort(self._incumbents.objective.key(least), kind="stable")
        while len(order):
            first, order = order[:CHUNK], order[CHUNK:]
            self._add([bounder.configuration(candidates, int(row)) for row in first])
            order = order[self._incumbents.may_matter(least.pick(order), kind[order])]
            self._report()

    def _add(self, configurations: Sequence[Configuration | None]) -> None:
        self._errors += self._incumbents.add([c for c in configurations if c is not None])

    def _refine(self, bounder: Bounder, promising: Candidates) -> None:
        """Candidates whose layers run modules again, the most promising layers first."""
        whole = len(promising.option)
        while len(promising.option):
            self._reach(1 - 0.2 * len(promising.option) / whole)
            options, of_option = np.unique(promising.option, return_inverse=True)
            least = np.full(len(options), np.inf)
            key = self._incumbents.objective.key(bounder.least(promising)[0])
            np.minimum.at(least, of_option, key)
            chosen = options[np.argsort(least)[:_TIMED]]
            self._time(bounder, chosen.tolist())
            which = np.isin(promising.option, chosen)
            self._evaluate(bounder, self._bound_again(bounder, promising.pick(which)))
            promising = self._promising(bounder, promising.pick(~which))

    def _bound_again(self, bounder: Bounder, candidates: Candidates) -> Candidates:
        """The same with bounds of their own layers, without what does not fit."""
        parts = []
        for number in np.unique(candidates.pipeline).tolist():
            of_pipeline = candidates.pick(candidates.pipeline == number)
            for sharing in np.unique(of_pipeline.sharing).tolist():
                alike = of_pipeline.pick(of_pipeline.sharing == sharing)
                passes = alike.batch // (self._space.sizes[alike.option, 3] * alike.dp)
                lanes = Lanes(alike.option, alike.gpus, alike.dp, alike.batch, passes)
                for bounded, nbytes in bounder.bounded(number, lanes, np.array([sharing]), relaxed=False):
                    parts.append(self._promising(bounder, bounded.pick(bounder.fits(nbytes))))
        return Candidates.joined(parts)

    def _report(self) -> None:
        self._progress(self._incumbents.record.evaluated, len(self._incumbents.record.configurations), self._share)


def _fastest(bounder: Bounder, candidates: Candidates, nbytes: Floats) -> list[int]:
    """The first of the candidates that may fit, by the least that they take. nbytes: that they need at least."""
    fitting = np.flatnonzero(bounder.fits(nbytes))
    rows: list[int] = fitting[np.argsort(candidates.seconds[fitting], kind="stable")[:CHUNK]].tolist()
    return rows
