"""Programs on streams: issued, as max-plus maps, and against longest paths through an explicit graph."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrain_schemas.operators import Operator
from vtrain_sim.model import Communication, Compute, Stream, Wait
from vtrain_sim.simulate.streams import STREAMS, Step, StreamMap, after, before, issue, product, spans_of
from vtrain_sim.specs.groups import Group

COMPUTE, TP, DP, HOST = Stream.COMPUTE, Stream.TP, Stream.DP, Stream.HOST
REST = [0.0] * STREAMS


def compute(seconds: float, host_s: float = 0.0, first_launch_s: float | None = None) -> Step:
    item = Compute("product", Operator("gemm", "forward", 1, 1, 1))
    return Step(item, COMPUTE, seconds, host_s, host_s if first_launch_s is None else first_launch_s)


def communicate(seconds: float, stream: Stream = TP, name: str = "x", blocking: bool = True) -> Step:
    item = Communication(name, "all_gather", Group("tp", 2, 1), 1, blocking)
    return Step(item, stream, seconds, blocking=blocking)


def wait(name: str = "x") -> Step:
    return Step(Wait(name), COMPUTE, 0.0, waits_for=name)


def run(*steps: Step, clocks: list[float] = REST) -> list[float]:
    """The clocks after a program."""
    clocks = list(clocks)
    issue(steps, clocks, max)
    return clocks


seconds = st.integers(0, 50).map(float)
launches = st.tuples(st.integers(1, 20), st.integers(0, 20)).map(lambda t: (float(t[0]), float(min(t))))
operators = st.one_of(seconds.map(compute), st.tuples(seconds, launches).map(lambda t: compute(t[0], t[1][0], t[1][1])))
communications = st.builds(
    communicate,
    seconds,
    st.sampled_from([TP, Stream.CP, Stream.EP, DP, Stream.PP]),
    st.sampled_from("xyz"),
    st.booleans(),
)
programs = st.lists(st.one_of(operators, communications, st.sampled_from("xyz").map(wait)), max_size=14)
starts = st.lists(st.integers(0, 100).map(float), min_size=STREAMS, max_size=STREAMS)


# -- by hand -------------------------------------------------------------------------------------


def test_one_after_the_other_unless_something_runs_beside() -> None:
    assert run(compute(3), communicate(2), compute(4))[COMPUTE] == 9
    beside = [communicate(2, blocking=False), compute(4)]
    assert run(compute(3), *beside)[COMPUTE] == 7
    # What nothing waits for goes on after the operators.
    assert run(compute(3), communicate(6, blocking=False), compute(4))[:2] == [7, 9]


def test_compute_goes_on_when_what_it_waits_for_has_ended() -> None:
    program = [compute(3), communicate(6, blocking=False), compute(4), wait(), compute(1)]
    assert run(*program)[COMPUTE] == 10
    # A wait holds until all of that name have ended, and for nothing else.
    two = [communicate(6, name="x", blocking=False), communicate(5, DP, name="x", blocking=False)]
    assert run(*two, wait("x"))[COMPUTE] == 6
    assert run(communicate(9, name="y", blocking=False), *two, wait("x"))[COMPUTE] == 15
    assert run(communicate(9, DP, "y", blocking=False), wait("x"), compute(1))[COMPUTE] == 1


def test_a_stream_runs_its_communications_in_order() -> None:
    behind = [communicate(5, name="x", blocking=False), communicate(2, name="y", blocking=False), wait("y")]
    assert run(*behind)[COMPUTE] == 7
    apart = [communicate(5, TP, "x", blocking=False), communicate(2, DP, "y", blocking=False), wait("y")]
    assert run(*apart)[COMPUTE] == 2


def test_a_role_without_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="world"):
        _ = Communication("x", "all_reduce", Group("world", 2, 1), 1).stream


def test_kernels_start_when_the_host_has_launched_them() -> None:
    """Operators of two kernels, launched in 10 each: the first kernel starts after one of them."""
    small = compute(1, host_s=20, first_launch_s=10)
    # 10 until the first kernel starts, but it ends no earlier than its second kernel is launched, at 20.
    assert run(small)[COMPUTE] == 20
    assert run(small, small, small)[COMPUTE] == 60
    # A long operator lets the host get ahead, and what follows starts at once.
    assert run(compute(100, 20, 10), small)[COMPUTE] == 111
    assert run(compute(100, 20, 10), small)[HOST] == 40
    # Communication is launched by no host here.
    assert run(small, communicate(5), small)[COMPUTE] == 40


def test_spans_say_when_each_item_ran() -> None:
    spans = spans_of([compute(3), communicate(6, blocking=False), compute(4), wait()], list(REST))
    assert [(s.step.item.name, s.start, s.end, s.ready) for s in spans] == [
        ("product", 0, 3, 0),
        ("x", 3, 9, 3),
        ("product", 3, 7, 3),
        ("x", 7, 9, 7),
    ]


# -- properties ----------------------------------------------------------------------------------


def longest_paths(steps: list[Step], clocks: list[float]) -> list[float]:
    """The clocks after a program: longest paths to their last nodes, in a graph of starts and ends.

    Written from the words of `vtrain_sim.model.program` alone: edges are (earlier node, seconds).
    """
    edges: dict[object, list[tuple[object, float]]] = defaultdict(list)
    last: dict[object, object] = {}
    for stream in Stream:
        edges["clock", stream] = [("begin", clocks[stream])]
        last[stream] = ("clock", stream)
    named: dict[str, list[object]] = defaultdict(list)
    for number, step in enumerate(steps):
        start, end = ("start", number), ("end", number)
        if step.waits_for:
            # A node of the compute stream that takes no time, after all that it waits for.
            edges[end] = [(last[COMPUTE], 0.0), *((other, 0.0) for other in named[step.waits_for])]
            last[COMPUTE] = end
            continue
        edges[end].append((start, step.seconds))
        edges[start].append((last[step.stream], 0.0))
        edges[start].append((last[COMPUTE], 0.0))
        if step.host_s:
            launched = ("launched", number)
            edges[launched] = [(last[HOST], step.host_s)]
            edges[start].append((last[HOST], step.first_launch_s))
            edges[end].append((launched, 0.0))
            last[HOST] = launched
        last[step.stream] = end
        if step.stream != COMPUTE:
            named[step.item.name].append(end)
            if step.blocking:
                joined = ("joined", number)
                edges[joined] = [(last[COMPUTE], 0.0), (end, 0.0)]
                last[COMPUTE] = joined
    memo: dict[object, float] = {"begin": 0.0}

    def at(node: object) -> float:
        if node not in memo:
            memo[node] = max(at(earlier) + took for earlier, took in edges[node])
        return memo[node]

    return [at(last[stream]) for stream in Stream]


@settings(deadline=None)
@given(programs, starts)
def test_issuing_finds_the_longest_paths(program: list[Step], clocks: list[float]) -> None:
    assert run(*program, clocks=clocks) == longest_paths(program, clocks)


@settings(deadline=None)
@given(programs, starts)
def test_a_program_is_its_map(program: list[Step], clocks: list[float]) -> None:
    assert after(StreamMap.of(program).matrix, np.array(clocks)).tolist() == run(*program, clocks=clocks)


@settings(deadline=None)
@given(programs, starts, st.integers(1, 9))
def test_repetition_is_a_power(program: list[Step], clocks: list[float], count: int) -> None:
    program_map = StreamMap.of(program)
    moved = np.array(clocks)
    for matrix in program_map.repeated(count):
        moved = after(matrix, moved)
    # One at a time: a program waits for its own communications, not for those of the one before.
    for _ in range(count):
        clocks = run(*program, clocks=clocks)
    assert moved.tolist() == clocks
    # Powers are kept: asked again, in another order, they are the same.
    assert len(program_map.repeated(1)) == 1
    assert len(program_map.repeated(count)) == bin(count).count("1")


@settings(deadline=None)
@given(programs, programs, starts)
def test_programs_that_follow_each_other_are_products(
    first: list[Step], second: list[Step], clocks: list[float]
) -> None:
    both = product(StreamMap.of(second).matrix, StreamMap.of(first).matrix)
    moved = run(*first, clocks=clocks)
    assert after(both, np.array(clocks)).tolist() == run(*second, clocks=moved)


@settings(deadline=None)
@given(programs, starts)
def test_what_remains_is_the_same_path_from_the_other_end(program: list[Step], clocks: list[float]) -> None:
    matrix = StreamMap.of(program).matrix
    end = after(matrix, np.array(clocks)).max()
    assert (np.array(clocks) + before(matrix, np.zeros(STREAMS))).max() == end


@settings(deadline=None)
@given(programs, st.integers(0, 13), st.floats(1, 50))
def test_more_time_for_one_item_never_ends_earlier(program: list[Step], at: int, more: float) -> None:
    slower = [replace(s, seconds=s.seconds + more) if n == at and not s.waits_for else s for n, s in enumerate(program)]
    assert all(late >= early for early, late in zip(run(*program), run(*slower), strict=True))


def test_waits_do_not_reach_beyond_their_program() -> None:
    """Each repetition of a layer waits for its own gathers: a wait for a name that was not issued is none."""
    assert run(wait("y"), compute(1), clocks=[50.0 if s not in (COMPUTE, HOST) else 0.0 for s in Stream])[COMPUTE] == 1


@pytest.mark.parametrize("stream", [s for s in Stream if s not in (COMPUTE, HOST)])
def test_each_stream_is_its_own(stream: Stream) -> None:
    clocks = run(communicate(5, stream, blocking=False), compute(1))
    assert clocks == [5.0 if s == stream else 1.0 if s == COMPUTE else 0.0 for s in Stream]


def test_a_host_that_waits_launches_late() -> None:
    first, waiting = compute(100, 10), replace(compute(5, 10), host_waits=True)
    clocks = list(REST)
    spans = spans_of([first, waiting, compute(1, 10)], clocks)
    # It goes on when the product has ended, and launches one after the other from there.
    assert [span.launched for span in spans] == [0, spans[0].end, spans[0].end + 10]
    assert clocks[HOST] == spans[-1].launched + 10
