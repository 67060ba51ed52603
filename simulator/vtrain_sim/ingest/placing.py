"""Puts device events at the time on the host to which they belong: that of the call that launched them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from vtrain_sim.ingest.spool import Spool
from vtrain_sim.ingest.trace import Bools, Events, Ints

# Launching calls that are looked at together.
_PART = 1 << 20


def placed_device(device: Spool, launches: Spool, host: Spool, folder: Path | None) -> Spool:
    """Device events with a column `at`: the time of their launch; else that of the host event that they name; else
    their own."""
    placed = Spool((*device.names, "at"), folder)
    for block, at in _placed(device, launches, host, folder):
        placed.add(**block.columns, at=at)
    return placed


def _placed(device: Spool, launches: Spool, host: Spool, folder: Path | None) -> Iterator[tuple[Events, Ints]]:
    parts = 1 + launches.rows // _PART
    calls, launched = Spool(("correlation", "start"), folder), Spool(device.names, folder)
    loose = Spool(device.names, folder)
    for block in launches.blocks():
        calls.scatter(block, block.correlation % parts)
    for block in device.blocks():
        launched.scatter(block, block.correlation % parts)
    for part in range(parts):
        known = calls.events(part)
        first = _first_by(known.correlation)
        for block in launched.blocks(part):
            place, match = first(block.correlation)
            match &= block.correlation >= 0
            yield block.take(match), known.start[place[match]]
            loose.scatter(block.take(~match), np.zeros(int((~match).sum()), dtype=np.int64))
    calls.close()
    launched.close()
    yield from _place_loose(loose, host)
    loose.close()


def _place_loose(device: Spool, host: Spool) -> Iterator[tuple[Events, Ints]]:
    """Device events without a launch, by the host event that has their external id: the first by thread and time."""
    wanted = [np.unique(block.external[_names_host(block)]) for block in device.blocks()]
    if not wanted:
        return
    ids = np.unique(np.concatenate(wanted))
    thread, start = np.full(len(ids), -1, dtype=np.int64), np.full(len(ids), -1, dtype=np.int64)
    first = _first_by(ids)
    for block in host.blocks() if len(ids) else ():
        block = block.take(first(block.external)[1])
        block = block.take(np.lexsort((block.start, block.thread)))
        numbers, rows = np.unique(block.external, return_index=True)
        place, _ = first(numbers)
        before = (thread[place] < 0) | (block.thread[rows] < thread[place])
        before |= (block.thread[rows] == thread[place]) & (block.start[rows] < start[place])
        thread[place[before]], start[place[before]] = block.thread[rows[before]], block.start[rows[before]]
    for block in device.blocks():
        at = block.start.copy()
        place, match = first(block.external)
        match &= _names_host(block)
        match[match] = thread[place[match]] >= 0
        at[match] = start[place[match]]
        yield block, at


def _names_host(block: Events) -> Bools:
    """Whether the external id of device events is a host event's: where it repeats the correlation id, it is none."""
    names: Bools = (block.external >= 0) & (block.external != block.correlation)
    return names


def _first_by(keys: Ints) -> Callable[[Ints], tuple[Ints, Bools]]:
    """A function that gives the first row of each of some keys, and whether there is one."""
    order = np.argsort(keys, kind="stable")
    known = keys[order]

    def find(wanted: Ints) -> tuple[Ints, Bools]:
        if not len(known):
            return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return order[place], known[place] == wanted

    return find
