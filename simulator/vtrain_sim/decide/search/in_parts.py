"""A search in several processes, each of which searches a part of the space."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from vtrain_sim.decide.collection import collection_paused
from vtrain_sim.decide.executors import Workers
from vtrain_sim.decide.request import Request
from vtrain_sim.decide.search.branch_and_bound import Search
from vtrain_sim.decide.search.incumbents import Incumbents, Record
from vtrain_sim.decide.search.space import Part, Space
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.simulate.projection import Projector

# Parts for each process: what one finds is not known to the others, and an interrupted search keeps those that ended.
_PARTS = 3
# So many layers take as long to time as processes take to start.
_WORTH_IT = 400


class Outcome(NamedTuple):
    """What was found. interrupted: not everything was looked at."""

    candidates: int
    interrupted: bool


def search(
    request: Request,
    space: Space,
    projector: Projector,
    incumbents: Incumbents,
    top: int,
    workers: Workers,
    progress: Progress,
) -> Outcome:
    """Search a space here, or in several processes where it is large, or where they are elsewhere.

    Raises `UserError` where all candidates have a cost that is not known.
    """
    several = workers.elsewhere or (workers.count > 1 and space.layers_to_time > _WORTH_IT)
    if not several:
        here = Search(space, projector, incumbents, progress, request.allow_tight)
        here.run()
        return Outcome(here.candidates, here.interrupted)
    parts = [Part(index, _PARTS * workers.count) for index in range(_PARTS * workers.count)]
    work = partial(_search_part, request, projector, space.counts, top)
    candidates, errors = 0, []
    try:
        for done, (_, answer) in enumerate(workers.map(work, parts), 1):
            counted, record, error = answer
            candidates += counted
            incumbents.absorb(record)
            errors += [error] if error else []
            progress(incumbents.record.evaluated, len(incumbents.record.configurations), done / len(parts))
    except KeyboardInterrupt:
        Search(space, projector, incumbents, progress, request.allow_tight).glimpse()
        if not incumbents.record.configurations:
            raise
        return Outcome(candidates, True)
    if not incumbents.record.evaluated and errors:
        raise UserError(errors[0])
    return Outcome(candidates, False)


def _search_part(
    request: Request, projector: Projector, counts: tuple[int, ...], top: int, part: Part
) -> tuple[int, Record, str]:
    """Candidates of a part, what was evaluated of them, and why nothing could be."""
    space = Space(request.model, counts, request.batches, request.bounds, request.base, part)
    incumbents = Incumbents(projector, request.objective(projector.cluster), top, request.allow_tight)
    search = Search(space, projector, incumbents, unwatched, request.allow_tight)
    try:
        with collection_paused():
            search.run()
    except UserError as error:
        return search.candidates, incumbents.record, str(error)
    return search.candidates, incumbents.record, ""
