"""The replay against a brute-force one: every operator of every stage as a node of a graph."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrain_sim.replay import (
    SCHEDULES,
    Pipelines,
    Replay,
    ScheduleDeadlock,
    ends,
    pipelines,
    replay,
    zero_bubble_orders,
)
from vtrain_sim.schedules import Exchange, Instruction, Message, Receive, Run, Send, schedule, zero_bubble
from vtrain_sim.simulate.memory import in_flight


def brute_force(
    instructions: list[list[object]],
    forward: list[list[list[float]]],
    backward: list[list[list[float]]],
    transfer: float,
    weight_gradients: list[list[list[float]]],
) -> list[float]:
    """End of each stage by longest path over a graph with a node for each operator and transfer.

    forward, backward, weight_gradients: [stage][chunk][operator] durations. Written without looking at the replay.
    """
    weight: dict[object, float] = {}
    before: dict[object, list[object]] = {}
    sent_after: dict[Message, object] = {}
    received_after: dict[Message, object] = {}
    last: list[object] = []
    for stage, todo in enumerate(instructions):
        previous: object = ("start", stage)
        weight[previous], before[previous] = 0.0, []
        for at, instruction in enumerate(todo):
            if isinstance(instruction, Run):
                table = {"F": forward, "B": backward, "W": weight_gradients}[instruction.direction]
                for index, duration in enumerate(table[stage][instruction.chunk]):
                    node = (stage, at, index)
                    weight[node], before[node] = duration, [previous]
                    previous = node
                continue
            node = (stage, at)
            weight[node], before[node] = 0.0, [previous]
            if isinstance(instruction, Exchange):
                for message in instruction.sends:
                    sent_after[message] = previous
                for message in instruction.receives:
                    received_after[message] = previous
                before[node] += [("transfer", m) for m in (*instruction.sends, *instruction.receives)]
            elif isinstance(instruction, Send):
                sent_after[instruction.message] = previous
            else:
                assert isinstance(instruction, Receive)
                before[node].append(("transfer", instruction.message))
            previous = node
        last.append(previous)
    for message, node in sent_after.items():
        transfer_node = ("transfer", message)
        weight[transfer_node] = transfer
        before[transfer_node] = [node, *([received_after[message]] if message in received_after else [])]

    # Longest path in topological order.
    after: dict[object, list[object]] = {node: [] for node in weight}
    missing = {node: len(found) for node, found in before.items()}
    for node, found in before.items():
        for earlier in found:
            after[earlier].append(node)
    end = dict.fromkeys(weight, 0.0)
    ready = [node for node, count in missing.items() if count == 0]
    while ready:
        node = ready.pop()
        end[node] += weight[node]
        for later in after[node]:
            end[later] = max(end[later], end[node])
            missing[later] -= 1
            if missing[later] == 0:
                ready.append(later)
    return [end[node] for node in last]


durations = st.floats(0.01, 10.0)


@dataclass(frozen=True)
class Case:
    """A pipeline with the durations of every operator of every chunk: [stage][chunk][operator]."""

    name: str
    stages: int
    chunks: int
    microbatches: int
    forward: list[list[list[float]]]
    backward: list[list[list[float]]]
    weight: list[list[list[float]]]
    transfer: float

    def chunk_times(self, table: list[list[list[float]]]) -> list[list[float]]:
        return [[sum(chunk) for chunk in stage] for stage in table]

    def pipelines(self) -> Pipelines:
        """As the fast replay takes it."""
        tables = [
            np.array([sum(t[s][c]) for c in range(self.chunks) for s in range(self.stages)])
            for t in (self.forward, self.backward, self.weight)
        ]
        sizes = [np.array([n]) for n in (SCHEDULES.index(self.name), self.stages, self.chunks, self.microbatches)]
        return Pipelines(*sizes, *tables, np.array([self.transfer]), np.array([True]))

    def instructions(self) -> list[list[Instruction]]:
        if self.name.startswith("zb"):
            return zero_bubble(zero_bubble_orders(self.pipelines()).tolist())
        return schedule(self.name, self.stages, self.chunks, self.microbatches)

    def timeline(self) -> Replay:
        return replay(
            self.instructions(),
            self.chunk_times(self.forward),
            self.chunk_times(self.backward),
            self.transfer,
            True,
            self.chunk_times(self.weight),
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(SCHEDULES))
    stages = draw(st.integers(2 if name == "interleaved" else 1, 5))
    chunks = draw(st.integers(2, 3)) if name == "interleaved" else 1
    microbatches = stages * draw(st.integers(1, 3)) if name == "interleaved" else draw(st.integers(1, 24))
    operators = st.lists(durations, min_size=1, max_size=3)
    row = st.lists(operators, min_size=chunks, max_size=chunks)
    # Equal stages reach a steady state, which the fast replay takes in one stride.
    table = draw(st.sampled_from([st.lists(row, min_size=stages, max_size=stages), row.map(lambda r: [r] * stages)]))
    weight = draw(table) if name.startswith("zb") else [[[0.0]] * chunks] * stages
    return Case(name, stages, chunks, microbatches, draw(table), draw(table), weight, draw(st.floats(0, 2.0)))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_replay_equals_brute_force(case: Case) -> None:
    timeline = case.timeline()
    expected = brute_force(case.instructions(), case.forward, case.backward, case.transfer, case.weight)
    assert timeline.end_s == pytest.approx(expected, rel=1e-9)
    assert ends(case.pipelines()) == pytest.approx(expected, rel=1e-9)
    # Every microbatch runs once in each direction on every chunk, and never two at a time.
    directions = 3 if case.name.startswith("zb") else 2
    for stage in range(case.stages):
        slots = sorted((s for s in timeline.slots if s.stage == stage), key=lambda s: s.start_s)
        keys = {(s.direction, s.chunk, s.microbatch) for s in slots}
        assert len(keys) == len(slots) == directions * case.chunks * case.microbatches
        for one, two in itertools.pairwise(slots):
            assert one.end_s <= two.start_s + 1e-9
        # Conservation: busy time is the work.
        tables = (case.forward, case.backward, case.weight)
        work = case.microbatches * sum(sum(sum(chunk) for chunk in table[stage]) for table in tables)
        assert timeline.busy_s[stage] == pytest.approx(work)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_plain_and_compiled_kernels_agree(case: Case) -> None:
    both = [pipelines.replay_all(case.pipelines(), compiled)[0] for compiled in (False, True)]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(1.0, 2.0))
def test_slower_work_never_ends_earlier(case: Case, factor: float) -> None:
    """In a fixed order; zero-bubble schedules choose theirs by the durations, and may choose worse."""
    instructions = case.instructions()
    f, b, w = (case.chunk_times(t) for t in (case.forward, case.backward, case.weight))
    slower = [row if i else [x * factor for x in row] for i, row in enumerate(f)]
    now = max(replay(instructions, f, b, case.transfer, False, w).end_s)
    assert max(replay(instructions, slower, b, case.transfer, False, w).end_s) >= now - 1e-9


@pytest.mark.parametrize(("stages", "microbatches"), [(4, 8), (8, 32), (16, 48)])
def test_zero_bubble_schedules_keep_the_papers_promise(stages: int, microbatches: int) -> None:
    """With equal parts 1F1B idles for 3 (p - 1) of them. ZB-H1 (a third in the paper, where the order is made
    by hand) idles for not much more than half of that at most; ZB-H2 not at all once its first microbatch has come down."""
    ones = [[[1.0]]] * stages
    work = 3.0 * microbatches
    h1, h2 = (ends(Case(n, stages, 1, microbatches, ones, ones, ones, 0.0).pipelines()) for n in ("zb-h1", "zb-h2"))
    assert max(h1) - work < 0.6 * 3 * (stages - 1)
    assert max(h2 - np.arange(stages)) == pytest.approx(work)


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 8), (8, 32)])
def test_bubble_of_equal_stages_is_the_textbooks(stages: int, microbatches: int) -> None:
    """(p - 1) / m of the work for GPipe and 1F1B, and that over v when interleaved."""
    for name in ("1f1b", "gpipe"):
        end = max(replay(schedule(name, stages, 1, microbatches), [[1.0]] * stages, [[2.0]] * stages, 0.0).end_s)
        assert end == pytest.approx(3.0 * (microbatches + stages - 1))
    chunks = 2
    end = max(
        replay(
            schedule("interleaved", stages, chunks, microbatches),
            [[0.5] * chunks] * stages,
            [[1.0] * chunks] * stages,
            0.0,
        ).end_s
    )
    assert end == pytest.approx(3.0 * (microbatches + (stages - 1) / chunks))


@pytest.mark.parametrize("name", SCHEDULES)
def test_microbatches_in_flight_are_what_memory_counts(name: str) -> None:
    stages, chunks, microbatches = 4, 2 if name == "interleaved" else 1, 16
    row = [[1.0]] * chunks
    case = Case(name, stages, chunks, microbatches, [row] * stages, [[[2.0]] * chunks] * stages, [row] * stages, 0.1)
    last = "W" if name.startswith("zb") else "B"
    for stage in range(stages):
        held = most = 0
        for slot in sorted((s for s in case.timeline().slots if s.stage == stage), key=lambda s: s.start_s):
            held += {"F": 1, last: -1}.get(slot.direction, 0)
            most = max(most, held)
        counted = in_flight(np.array(SCHEDULES.index(name)), stage, stages, chunks, microbatches)
        if name.startswith("zb"):
            # The schedule may hold so many; it does where that keeps it busy.
            assert most <= counted
        else:
            assert most == counted * chunks


def test_circular_waiting_is_an_error() -> None:
    a, b = Message("F", 0, 0, 0), Message("F", 1, 0, 0)
    with pytest.raises(ScheduleDeadlock):
        replay([[Receive(b), Send(a)], [Receive(a), Send(b)]], [[1.0]] * 2, [[1.0]] * 2, 0.0)
