"""Where the time goes: seconds are neither lost nor counted twice, whatever the stage."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.simulate.machine import costs
from simulator.simulate.strategies import Machine, configurations, machines
from vtrain_sim.schedules import names
from vtrain_sim.simulate.breakdown import HOST, STRAGGLERS, tally_pass
from vtrain_sim.simulate.passes import ChunkTimer, duration
from vtrain_sim.simulate.projection import WAITING
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.shard import ChunkSpec, LayerKind

SLOW = {"max_examples": 50, "deadline": None, "suppress_health_check": list(HealthCheck)}
any_schedule = st.sampled_from(names()).flatmap(configurations)


@settings(**SLOW)
@given(any_schedule, machines)
def test_the_parts_of_a_pass_add_up_to_its_duration(configuration: Configuration, machine: Machine) -> None:
    """Of every chunk, so of every kind of stage: first, last, in the middle, empty."""
    evaluator = machine.projector().evaluator
    layouts, layout = evaluator.layouts(configuration), evaluator.layout(configuration)
    for chunk in layout.contents.chunks:
        runs = layouts.timer.runs(chunk)
        for passes, direction in (
            ([(p.forward, n) for p, n in runs], "forward"),
            ([(p.backward, n) for p, n in runs[::-1]], "backward"),
            ([(p.weight, n) for p, n in runs[::-1]], "backward"),
        ):
            tally = tally_pass(passes, direction)
            assert tally.seconds == pytest.approx(duration(passes), rel=1e-9, abs=1e-15)
            for parts in (tally.category, tally.provenance):
                assert sum(parts.values()) == pytest.approx(tally.seconds, rel=1e-9, abs=1e-15)
                assert all(seconds >= 0 for seconds in parts.values())


@settings(**SLOW)
@given(any_schedule, machines)
def test_a_projection_adds_up(configuration: Configuration, machine: Machine) -> None:
    projector = machine.projector()
    answer = projector.project(configuration)
    assert sum(answer.breakdown_s.values()) == pytest.approx(answer.iteration_time_s, rel=1e-9)
    assert all(seconds >= 0 for seconds in answer.breakdown_s.values())
    assert sum(answer.provenance.values()) == pytest.approx(1.0)
    assert 0 < answer.mfu <= 1
    assert answer.mfu <= answer.hfu * (1 + 1e-9)
    assert answer.hfu <= 1
    assert 0 < answer.iteration_time_low_s < answer.iteration_time_s < answer.iteration_time_high_s < math.inf
    for stage in range(configuration.parallel.pp):
        tally = projector.stage_tally(configuration, stage)
        assert tally.seconds <= answer.iteration_time_s * (1 + 1e-9), stage
        assert all(seconds >= 0 for seconds in tally.category.values())


def test_each_second_has_one_cause_by_hand() -> None:
    """Products of 1 s and an exchange of 5 s of which a piece of 0.75 s hides 0.75 s; launches of 0.25 s each."""
    parallel = ParallelSpec(tp=4, sequence_parallel=True, tp_comm_overlap=True)
    configuration = Configuration(ModelSpec(2, 1024, 8, 512, 1024), parallel, TrainSpec(1, 1))
    timer = ChunkTimer(configuration.shard, costs({"gemm": 1.0}, {"tp": 5.0}))
    tally = tally_pass([(p.forward, n) for p, n in timer.runs(ChunkSpec(((LayerKind(), 2),)))], "forward")
    # Two column-parallel products wait 5 - 0.75 s for the last piece, two row-parallel ones go on for 5 s beside
    # their last three quarters.
    assert tally.category == pytest.approx({"forward": 2 * 4.0, "tp communication": 2 * 4 * (5 - 0.75)})
    bound = ChunkTimer(configuration.shard, costs({"gemm": 1.0}, {"tp": 5.0}, launch_s=0.25))
    launched = tally_pass([(p.forward, n) for p, n in bound.runs(ChunkSpec(((LayerKind(), 2),)))], "forward")
    assert launched.category["forward"] == pytest.approx(8.0)
    assert launched.category[HOST] > 0


def test_layers_that_are_counted_at_once_are_those_that_are_issued_one_by_one() -> None:
    """A deep chunk's layers reach a steady state; the tally of 40 is that of 2 and 38 times a further one."""
    parallel = ParallelSpec(dp=4, fsdp=True)
    configuration = Configuration(ModelSpec(48, 1024, 8, 512, 1024), parallel, TrainSpec(1, 4))
    for exchange_s in (1.0, 3.0, 50.0):
        timer = ChunkTimer(configuration.shard, costs({"gemm/forward": 1.0, "gemm/backward": 2.0}, {"dp": exchange_s}))
        for direction in ("forward", "backward"):

            def tally(layers: int, timer: ChunkTimer = timer, direction: str = direction) -> dict[str, float]:
                runs = timer.runs(ChunkSpec(((LayerKind(), layers),)))
                return dict(tally_pass([(getattr(p, direction), n) for p, n in runs], direction).category)

            two, three, many = tally(2), tally(3), tally(40)
            assert many == pytest.approx({key: two[key] + 38 * (three[key] - two[key]) for key in two})


def test_a_single_stage_never_waits_for_others() -> None:
    machine = Machine("dgx-h100", 1.0, 1.0, 0.0)
    model = ModelSpec(4, 2048, 16, 2048, 30_000)
    alone = machine.projector().project(Configuration(model, ParallelSpec(), TrainSpec(1, 4)))
    assert alone.breakdown_s.get(WAITING, 0.0) < 1e-12 * alone.iteration_time_s
    # Also not where gathered parameters are late and all wait for the slowest of eight nodes.
    overlap = {"distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
    many = machine.projector().project(Configuration(model, ParallelSpec(dp=64, **overlap), TrainSpec(1, 64)))
    assert many.breakdown_s[STRAGGLERS] > 0
    assert many.breakdown_s["dp communication"] > 0
    assert many.breakdown_s.get(WAITING, 0.0) < 1e-9 * many.iteration_time_s
    assert sum(many.breakdown_s.values()) == pytest.approx(many.iteration_time_s, rel=1e-9)
    staged = machine.projector().project(Configuration(model, ParallelSpec(pp=4), TrainSpec(1, 4)))
    # (p - 1) / m of the passes, Narayanan et al. 2021; the others are shorter than the last stage with its head.
    passes_s = sum(staged.breakdown_s[name] for name in ("forward", "backward"))
    assert 0.3 * passes_s < staged.breakdown_s[WAITING] < 0.75 * passes_s
