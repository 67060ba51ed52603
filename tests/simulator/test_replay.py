"""The replay against a brute-force one: every operator of every stage as a node of a graph."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrain_sim.memory import in_flight
from vtrain_sim.replay import ScheduleDeadlock, replay
from vtrain_sim.schedules import Exchange, Message, Receive, Run, Send, schedule
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec


def brute_force(
    instructions: list[list[object]],
    forward: list[list[list[float]]],
    backward: list[list[list[float]]],
    transfer: float,
) -> list[float]:
    """End of each stage by longest path over a graph with a node for each operator and transfer.

    forward, backward: [stage][chunk][operator] durations. Written without looking at the replay.
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
                table = forward if instruction.direction == "F" else backward
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


@st.composite
def cases(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    name = draw(st.sampled_from(["1f1b", "gpipe", "interleaved"]))
    stages = draw(st.integers(2 if name == "interleaved" else 1, 5))
    chunks = draw(st.integers(2, 3)) if name == "interleaved" else 1
    microbatches = stages * draw(st.integers(1, 3)) if name == "interleaved" else draw(st.integers(1, 9))
    operators = st.lists(durations, min_size=1, max_size=3)
    table = st.lists(st.lists(operators, min_size=chunks, max_size=chunks), min_size=stages, max_size=stages)
    return name, stages, chunks, microbatches, draw(table), draw(table), draw(st.floats(0, 2.0))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_replay_equals_brute_force(case) -> None:  # type: ignore[no-untyped-def]
    name, stages, chunks, microbatches, forward, backward, transfer = case
    instructions = schedule(name, stages, chunks, microbatches)
    fast = replay(
        instructions,
        [[sum(c) for c in s] for s in forward],
        [[sum(c) for c in s] for s in backward],
        transfer,
        True,
    )
    assert fast.end_s == pytest.approx(brute_force(instructions, forward, backward, transfer), rel=1e-9)  # type: ignore[arg-type]
    # Every microbatch runs once forward and once backward on every chunk, and never two at a time.
    for stage in range(stages):
        slots = sorted((s for s in fast.slots if s.stage == stage), key=lambda s: s.start_s)
        keys = {(s.direction, s.chunk, s.microbatch) for s in slots}
        assert len(keys) == len(slots) == 2 * chunks * microbatches
        for one, two in itertools.pairwise(slots):
            assert one.end_s <= two.start_s + 1e-9
        # Conservation: busy time is the work.
        work = microbatches * sum(sum(f) + sum(b) for f, b in zip(forward[stage], backward[stage], strict=True))
        assert fast.busy_s[stage] == pytest.approx(work)


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(1.0, 2.0))
def test_slower_work_never_ends_earlier(case, factor: float) -> None:  # type: ignore[no-untyped-def]
    name, stages, chunks, microbatches, forward, backward, transfer = case
    instructions = schedule(name, stages, chunks, microbatches)
    f, b = [[sum(c) for c in s] for s in forward], [[sum(c) for c in s] for s in backward]
    slower = [row if i else [x * factor for x in row] for i, row in enumerate(f)]
    assert (
        max(replay(instructions, slower, b, transfer).end_s) >= max(replay(instructions, f, b, transfer).end_s) - 1e-9
    )


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


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "interleaved"])
def test_microbatches_in_flight_are_what_memory_counts(name: str) -> None:
    stages, chunks, microbatches = 4, 2 if name == "interleaved" else 1, 8
    model = ModelSpec(8, 64, 4, 32, 128)
    configuration = Configuration(
        model,
        ParallelSpec(pp=stages, vpp=chunks),
        TrainSpec(1, microbatches, schedule=name if chunks == 1 else "auto"),
    )
    result = replay(
        schedule(name, stages, chunks, microbatches),
        [[1.0] * chunks] * stages,
        [[2.0] * chunks] * stages,
        0.1,
        True,
    )
    for stage in range(stages):
        held = most = 0
        for slot in sorted((s for s in result.slots if s.stage == stage), key=lambda s: s.start_s):
            held += 1 if slot.direction == "F" else -1
            most = max(most, held)
        assert most == in_flight(configuration, stage)


def test_circular_waiting_is_an_error() -> None:
    a, b = Message("F", 0, 0, 0), Message("F", 1, 0, 0)
    with pytest.raises(ScheduleDeadlock):
        replay([[Receive(b), Send(a)], [Receive(a), Send(b)]], [[1.0]] * 2, [[1.0]] * 2, 0.0)
