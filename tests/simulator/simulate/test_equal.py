"""The batch evaluation equals the operator-by-operator timeline, whatever the configuration."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.simulate.strategies import Machine, configurations, machines
from vtrain_sim.schedules import names
from vtrain_sim.simulate.recording import UNHIDDEN
from vtrain_sim.simulate.spans import PASSES, SENDS, Timeline
from vtrain_sim.simulate.timeline import timeline

EXACT = 1e-9


def assert_equal(data: st.DataObject, schedule: str) -> None:
    configuration, machine = data.draw(configurations(schedule)), data.draw(machines)
    projector = machine.projector()
    batch = projector.evaluate([configuration])
    exact = timeline(projector.evaluator, configuration, detail="passes")
    assert batch.iteration_time_s[0] == pytest.approx(exact.iteration_time_s, rel=EXACT)
    assert list(batch.end_s) == pytest.approx(exact.end_s, rel=EXACT)
    # What is exposed is a difference of two ends: its error is theirs.
    assert list(batch.exposed_s) == pytest.approx(exact.exposed_s, rel=EXACT, abs=EXACT * max(exact.end_s))


@pytest.mark.parametrize("schedule", names())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_batch_equals_timeline(schedule: str, data: st.DataObject) -> None:
    assert_equal(data, schedule)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.sampled_from(names()).flatmap(configurations), min_size=2, max_size=5), machines)
def test_many_at_once_are_each_one_alone(many: list, machine: Machine) -> None:
    """Configurations of different shapes and schedules in one call do not touch each other."""
    projector = machine.projector()
    together = projector.evaluate(many)
    first = 0
    for number, configuration in enumerate(many):
        alone = projector.evaluate([configuration])
        stages = slice(first, first + configuration.parallel.pp)
        first += configuration.parallel.pp
        assert together.iteration_time_s[number] == pytest.approx(alone.iteration_time_s[0], rel=1e-12)
        assert together.peak_bytes[number] == pytest.approx(alone.peak_bytes[0], rel=1e-12)
        assert np.allclose(together.end_s[stages], alone.end_s, rtol=1e-12)
        assert np.allclose(together.exposed_s[stages], alone.exposed_s, rtol=1e-9, atol=1e-12)


def by_track(one: Timeline) -> dict[tuple[int, str], list[tuple[float, float]]]:
    tracks: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for span in one.spans:
        tracks[span.stage, span.track].append((span.start_s, span.end_s))
    return tracks


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(names()).flatmap(configurations), machines)
def test_a_stream_does_one_thing_at_a_time(configuration, machine: Machine) -> None:
    projector = machine.projector()
    one = timeline(projector.evaluator, configuration)
    for spans in by_track(one).values():
        spans.sort()
        for (_, before), (after, _) in pairwise(spans):
            assert after >= before - EXACT * one.iteration_time_s
    # Every pass of every microbatch is there: one span in PASSES for each instruction that is a pass.
    copies = projector.evaluator.layout(configuration).schedule.parameter_copies
    forward = Counter((s.stage, s.chunk) for s in one.spans if s.track == PASSES and s.name == "forward")
    assert set(forward.values()) == {configuration.num_microbatches // copies}
    assert len(forward) == configuration.parallel.pp * configuration.parallel.vpp * copies


@given(st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_chosen_stages_and_microbatches_are_those_of_the_whole(data: st.DataObject) -> None:
    configuration, machine = data.draw(configurations("interleaved")), data.draw(machines)
    evaluator = machine.projector().evaluator
    whole = timeline(evaluator, configuration)
    part = timeline(evaluator, configuration, stages=[1], microbatches=[0])
    assert part.iteration_time_s == whole.iteration_time_s
    assert list(part.spans) == [s for s in whole.spans if s.stage == 1 and s.microbatch in (0, None)]
    passes = timeline(evaluator, configuration, stages=[1], detail="passes")
    assert list(passes.spans) == [
        s for s in whole.spans if s.stage == 1 and (s.microbatch is None or s.track.startswith((PASSES, "pp")))
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(names()).flatmap(configurations), machines)
def test_the_timeline_shows_everything_up_to_the_end_of_the_step(configuration, machine: Machine) -> None:
    """Also what an exchange cannot hide, and the wait for the slowest node."""
    projector = machine.projector()
    one = timeline(projector.evaluator, configuration, detail="passes")
    end_s = max(span.end_s for span in one.spans)
    layout = projector.evaluator.layout(configuration)
    if not layout.schedule.overlaps_optimizer:
        assert end_s == pytest.approx(one.iteration_time_s, rel=EXACT)
    for stage, (end, exposed) in enumerate(zip(one.end_s, one.exposed_s, strict=True)):
        if exposed > 1e-9:
            assert one.begin_s + end + exposed == pytest.approx(
                max(s.end_s for s in one.spans if s.stage == stage and s.name in ("grad_sync", UNHIDDEN)), rel=EXACT
            )
    # A microbatch crosses each boundary between stages once in each direction.
    placement = layout.placement
    crossings = sum(other not in (-1, placement.stage_of(p)) for p, other in enumerate(placement.next_stage))
    ends = Counter(s.track.startswith(SENDS) for s in one.spans if s.transfer is not None)
    transfers = 2 * crossings * configuration.num_microbatches // layout.schedule.parameter_copies
    assert ends == Counter({True: transfers, False: transfers})
