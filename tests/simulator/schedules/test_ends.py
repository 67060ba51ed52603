"""Ends of the stages: recurrences, executor and replay against a brute-force longest path."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.schedules.brute_force import PassEnds as BruteForceEnds
from simulator.schedules.cases import NAMES, Case, cases, equal_case
from vtrain_sim.schedules import PassEnds, PassTimes, PipelineShape, compiled, executor, run
from vtrain_sim.schedules.interleaved import Interleaved
from vtrain_sim.schedules.replay import reduction_starts, replay, replay_all, replay_instructions


def expected_reductions(case: Case, stage: int, end: float, passes: BruteForceEnds) -> list[float]:
    """From when the gradients of each chunk of a stage may be reduced, by the words of `PassEnds`."""
    kinds = {"W", "BW"} if case.schedule.splits_backward else {"B"}
    gradients = [(one.chunk, at) for one, at in passes if one.kind in kinds]
    starts = []
    for chunk in range(case.placement.chunks):
        number = max(i for i, (c, _) in enumerate(gradients) if c == chunk)
        if case.aligned and case.schedule.name == "interleaved":
            number += stage
        elif case.aligned and stage > 0:
            number = len(gradients) - 1
        starts.append(gradients[number][1] if number < len(gradients) else end)
    return starts


def by_place(rows: list[list[float]]) -> list[float]:
    """[stage][chunk] as places."""
    return [row[chunk] for chunk in range(len(rows[0])) for row in rows]


def close(values: np.ndarray | tuple[float, ...], expected: np.ndarray | list[float]) -> bool:
    return bool(np.allclose(values, expected, rtol=1e-9, atol=1e-9))


@settings(max_examples=400, deadline=None)
@given(cases())
def test_ends_equal_brute_force(case: Case) -> None:
    ends, passes = case.brute_force()
    gradients = by_place(
        [
            expected_reductions(case, s, end, of_stage)
            for s, (end, of_stage) in enumerate(zip(ends, passes, strict=True))
        ]
    )
    result = case.schedule.ends(case.times)
    assert close(result.end_s, ends)
    assert close(result.gradients_s, gradients)
    timeline = replay(case.schedule, case.shape, case.times)
    assert close(timeline.end_s, ends)
    assert close(reduction_starts(case.schedule, case.shape, case.times, timeline), gradients)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_timeline_is_one_pass_at_a_time_and_conserves_work(case: Case) -> None:
    timeline = replay(case.schedule, case.shape, case.times)
    split = case.schedule.splits_backward
    for stage in range(case.shape.stages):
        spans = [s for s in timeline.spans if s.stage == stage]
        for one, two in itertools.pairwise(spans):
            assert one.end_s <= two.start_s + 1e-9
        # Every microbatch of a place runs once in each direction.
        done = [(k, s.chunk, s.microbatch) for s in spans for k in (("B", "W") if s.kind == "BW" else (s.kind,))]
        each_way = case.shape.microbatches // case.schedule.parameter_copies
        assert len(set(done)) == len(done) == (3 if split else 2) * case.placement.chunks * each_way
        places = range(stage, len(case.placement.virtual_stage), case.shape.stages)
        tables = (case.forward, case.backward, case.weight)
        work = each_way * sum(sum(table[place]) for table in tables for place in places)
        assert timeline.busy_s[stage] == pytest.approx(work)
        assert timeline.waiting_s[stage] >= -1e-9


@settings(max_examples=100, deadline=None)
@given(cases(["interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev"]))
def test_executor_equals_the_recurrences(case: Case) -> None:
    """What a schedule with nothing but an order gets is what a recurrence of its own gives."""
    generic, special = executor.execute(case.schedule, case.times), case.schedule.ends(case.times)
    assert close(generic.end_s, special.end_s)
    assert close(generic.gradients_s, special.gradients_s)


@settings(max_examples=100, deadline=None)
@given(cases(["gpipe", "1f1b"]))
def test_recurrences_equal_replays_of_many(case: Case) -> None:
    """What a schedule with blocking exchanges and nothing but an order gets."""
    slow, fast = replay_all(case.schedule, case.times), case.schedule.ends(case.times)
    assert close(slow.end_s, fast.end_s)
    assert close(slow.gradients_s, fast.gradients_s)


@settings(max_examples=60, deadline=None)
@given(cases(["1f1b"]), st.integers(100, 300))
def test_one_stride_through_the_steady_state(case: Case, microbatches: int) -> None:
    times = replace(case.times, microbatches=np.array([microbatches]))
    slow, fast = replay_all(case.schedule, times), case.schedule.ends(times)
    assert close(slow.end_s, fast.end_s)
    assert close(slow.gradients_s, fast.gradients_s)


@settings(max_examples=80, deadline=None)
@given(cases(["interleaved"]), st.integers(5, 12), st.integers(0, 1))
def test_one_stride_through_whole_groups(case: Case, groups: int, smaller: int) -> None:
    """Equal and unequal places, with and without a smaller last group."""
    assert isinstance(case.schedule, Interleaved)
    stages = case.shape.stages
    group = case.schedule.group(stages)
    microbatches = group * groups + (smaller * stages if group > stages else 0)
    times = replace(case.times, microbatches=np.array([microbatches]))
    case.schedule.check(case.schedule.shape(times, 0))
    generic, special = executor.execute(case.schedule, times), case.schedule.ends(times)
    assert close(generic.end_s, special.end_s)
    assert close(generic.gradients_s, special.gradients_s)


@pytest.mark.parametrize("durations", ["equal", "uneven"])
def test_the_steady_state_of_groups_is_not_simulated(durations: str) -> None:
    """40 groups of 4 microbatches: after a few of them the kernel writes no ends of passes but the last ones."""
    shape = PipelineShape(4, 2, 160)
    forward = [1.0] * 8 if durations == "equal" else [1.25, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.5]
    times = PassTimes.single(shape, forward, [2 * f for f in forward], transfer_s=[0.1] * 8)
    schedule, written = Interleaved(), []

    def counting(kernel: Callable[..., None], arguments: Sequence[np.ndarray], fast: bool) -> None:
        kernel(*arguments)
        written.extend(int(np.count_nonzero(array)) for array in arguments if len(array) == 4 * 2 * 160)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "call", counting)
        ends = schedule.ends(times)
    assert close(ends.end_s, executor.execute(schedule, times).end_s)
    forward_passes, backward_passes = written[0], written[1]
    assert forward_passes == backward_passes < 0.3 * 4 * 2 * 160


@settings(max_examples=60, deadline=None)
@given(cases())
def test_plain_and_compiled_kernels_agree(case: Case) -> None:
    results = []
    with pytest.MonkeyPatch.context() as patch:
        for fast in (False, True):
            patch.setattr(compiled, "worth_compiling", lambda passes, fast=fast: fast)
            results.append(case.schedule.ends(case.times))
    plain, fast_result = results
    assert plain.end_s == pytest.approx(fast_result.end_s, rel=1e-12)
    assert plain.gradients_s == pytest.approx(fast_result.gradients_s, rel=1e-12)


def together(times: list[PassTimes]) -> PassTimes:
    """One batch of several."""
    columns = ("stages", "chunks", "microbatches", "forward_s", "backward_s", "weight_s", "transfer_s", "ready_s")
    columns = (*columns, "overlapped", "aligned")
    return PassTimes(*(np.concatenate([getattr(t, c) for t in times]) for c in columns))


@settings(max_examples=60, deadline=None)
@given(st.lists(cases(), min_size=1, max_size=6))
def test_run_is_each_pipeline_by_its_schedule(several: list[Case]) -> None:
    batch = together([case.times for case in several])
    result = run([case.schedule for case in several], batch)
    alone: list[PassEnds] = [case.schedule.ends(case.times) for case in several]
    assert close(result.end_s, np.concatenate([a.end_s for a in alone]))
    assert close(result.gradients_s, np.concatenate([a.gradients_s for a in alone]))


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(1.0, 2.0), st.floats(0.0, 5.0))
def test_slower_work_never_ends_earlier(case: Case, factor: float, later: float) -> None:
    """In a fixed order; a schedule that chooses its order by the durations may choose worse."""
    instructions = case.schedule.instructions(case.shape, case.times)
    changes = {
        "forward_s": case.times.forward_s * factor,
        "transfer_s": case.times.transfer_s * factor,
        "ready_s": case.times.ready_s + later,
    }
    now = replay_instructions(instructions, case.placement, case.times)
    for name, column in changes.items():
        slower = replay_instructions(instructions, case.placement, replace(case.times, **{name: column}))
        assert np.all(np.array(slower.end_s) >= np.array(now.end_s) - 1e-9)


def test_a_chunk_waits_for_its_microbatch_not_for_the_whole_group() -> None:
    """2 stages, groups of 3: the slow second chunk of stage 0 begins at 1 + 10, when the first microbatch is there."""
    schedule, shape = Interleaved(3), PipelineShape(2, 2, 3)
    times = PassTimes.single(shape, [1.0, 10.0, 100.0, 1.0], [1.0] * 4)
    timeline = replay(schedule, shape, times)
    assert next(s for s in timeline.spans if (s.stage, s.chunk) == (0, 1)).start_s == 11.0
    assert close(schedule.ends(times).end_s, list(timeline.end_s))


def test_a_first_pass_waits_for_its_parameters() -> None:
    case = replace(equal_case("interleaved", 2, 4, (1, 2, 0)), ready=[0.0, 0.0, 50.0, 0.0])
    timeline = replay(case.schedule, case.shape, case.times)
    first = next(s for s in timeline.spans if (s.stage, s.chunk) == (0, 1))
    assert first.end_s == 50.0
    assert case.schedule.ends(case.times).end_s == pytest.approx(timeline.end_s)


@pytest.mark.parametrize("name", NAMES)
def test_only_schedules_that_wait_for_sends_mind_how_they_send(name: str) -> None:
    case = equal_case(name, 4, 8)
    crosses = [float(s not in (-1, p % 4)) for p, s in enumerate(case.placement.next_stage)]
    ends = [replace(case, transfer=crosses, overlapped=overlapped).times for overlapped in (True, False)]
    over, blocked = (max(case.schedule.ends(times).end_s) for times in ends)
    assert (blocked > over) == (name == "interleaved")
