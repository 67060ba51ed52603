"""Nesting and intervals against computations that try everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vtrain_sim.ingest.intervals import Union
from vtrain_sim.ingest.nesting import adopt, innermost, nest, sort_order

TICK = 10_000  # far above the rounding that nesting tolerates


@st.composite
def bracketed(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Properly nested events (thread, start, duration) of two threads, with distinct times."""
    events: list[tuple[int, int, int]] = []
    for thread in (0, 1):
        clock = 0

        def block(depth: int, thread: int = thread) -> None:
            nonlocal clock
            for _ in range(draw(st.integers(0, 3 if depth < 3 else 0))):
                clock += TICK
                index = len(events)
                events.append((thread, clock, 0))
                block(depth + 1)
                clock += TICK
                events[index] = (thread, events[index][1], clock - events[index][1])

        block(0)
    return events


def arrays(events: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(events, dtype=np.int64).reshape(-1, 3)
    order = sort_order(table[:, 0], table[:, 1], table[:, 2], np.zeros(len(table), dtype=np.int64))
    return tuple(table[order].T)  # type: ignore[return-value]


@given(bracketed(), st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40 * TICK)), max_size=8))
def test_parents_and_innermost_are_the_smallest_that_enclose(events, points) -> None:
    thread, start, duration = arrays(events)
    nesting = nest(thread, start, duration)
    assert not nesting.overlapping.any()

    def smallest(at_thread: int, begin: int, end: int, other: int = -1) -> int:
        around = [
            i
            for i in range(len(thread))
            if i != other and thread[i] == at_thread and start[i] <= begin and start[i] + duration[i] >= end
        ]
        return min(around, key=lambda i: duration[i], default=-1)

    assert nesting.parent.tolist() == [
        smallest(thread[i], start[i], start[i] + duration[i], i) for i in range(len(thread))
    ]
    table = np.array(points, dtype=np.int64).reshape(-1, 2)
    found = innermost(thread, start, duration, nesting, table[:, 0], table[:, 1])
    assert found.tolist() == [smallest(t, at, at) for t, at in points]


@given(bracketed())
def test_sums_up_and_values_down_agree_with_walking(events) -> None:
    thread, start, duration = arrays(events)
    nesting = nest(thread, start, duration)
    own = np.arange(1, len(thread) + 1)
    total = own.copy()
    root = np.arange(len(thread))
    for i in range(len(thread)):
        at = int(nesting.parent[i])
        while at >= 0:
            total[at] += own[i]
            root[i], at = at, int(nesting.parent[at])
    assert nesting.add_up(own, np.add.at).tolist() == total.tolist()
    assert nesting.pass_down(np.arange(len(thread)), nesting.parent >= 0).tolist() == root.tolist()


def test_adopted_events_bring_what_is_inside_them() -> None:
    thread, start, duration = arrays(
        [(0, 0, 100 * TICK), (0, TICK, 50 * TICK), (1, 2 * TICK, 10 * TICK), (1, 3 * TICK, TICK)]
    )
    nesting = adopt(nest(thread, start, duration), np.array([2]), np.array([1]))
    assert nesting.parent.tolist() == [-1, 0, 1, 2]
    assert [level.tolist() for level in nesting.levels] == [[0], [1], [2], [3]]


def test_an_overlap_is_put_into_what_holds_it() -> None:
    thread, start, duration = arrays(
        [(0, 0, 100 * TICK), (0, 10 * TICK, 20 * TICK), (0, 20 * TICK, 30 * TICK), (0, 25 * TICK, TICK)]
    )
    nesting = nest(thread, start, duration)
    assert nesting.parent.tolist() == [-1, 0, 0, 2]
    assert nesting.overlapping.tolist() == [False, False, True, False]


INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12)


@given(INTERVALS, INTERVALS)
def test_unions_against_counting_moments(intervals, asked) -> None:
    table = np.array(intervals, dtype=np.int64).reshape(-1, 2)
    union = Union(table[:, 0], table[:, 1])
    moments = {t for begin, length in intervals for t in range(begin, begin + length)}
    assert union.length == len(moments)
    query = np.array(asked, dtype=np.int64).reshape(-1, 2)
    covered = union.covered(query[:, 0], query[:, 0] + query[:, 1])
    assert covered.tolist() == [len(moments & set(range(b, b + n))) for b, n in asked]
