"""No step is faster than what one of its resources has to do, counted from the operator program alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simulator.simulate.strategies import Machine, configurations, machines
from vtrain_sim.model import Communication, Stream, build_step, communications_of, operators_of
from vtrain_sim.schedules import names
from vtrain_sim.simulate.cost_model import CostModel
from vtrain_sim.simulate.replicas import gathers, reductions
from vtrain_sim.specs import Configuration

any_schedule = st.sampled_from(names()).flatmap(configurations)
SLOW = {"max_examples": 60, "deadline": None, "suppress_health_check": list(HealthCheck)}
ROUNDING = 1e-9


def busy_s(costs: CostModel, configuration: Configuration, stage: int) -> Counter[Stream]:
    """Seconds of work of each stream of a stage in a step, were nothing slowed down by what runs beside it."""
    program = build_step(configuration).stages[stage]
    copies = len(program.chunks) // configuration.parallel.vpp
    microbatches = configuration.num_microbatches // copies
    busy: Counter[Stream] = Counter()
    for chunk in program.chunks:
        for part, count in chunk:
            items = (*part.forward, *part.backward, *part.weight)
            for compute in operators_of(items):
                busy[Stream.COMPUTE] += costs.operator(compute.operator).seconds * count * microbatches
            for communication in communications_of(items):
                busy[communication.stream] += costs.communication(communication).seconds * count * microbatches
    replicas = configuration.replicas
    once = [i for i in (*program.before, *program.sync, *program.update) if isinstance(i, Communication)]
    if replicas.overlap_grad_reduce:
        once += reductions(program.parameters, program.expert_parameters, replicas)
    if replicas.overlap_param_gather:
        once += gathers(program.parameters, program.expert_parameters, replicas)
    for communication in once:
        busy[communication.stream] += costs.communication(communication).seconds
    for compute in operators_of((*program.before, *program.update)):
        busy[Stream.COMPUTE] += costs.operator(compute.operator).seconds
    return busy


@settings(**SLOW)
@given(any_schedule, machines)
def test_no_stream_does_more_than_fits_into_the_step(configuration: Configuration, machine: Machine) -> None:
    projector = machine.projector()
    iteration_s = float(projector.evaluate([configuration]).iteration_time_s[0])
    costs = projector.evaluator.layouts(configuration).costs
    for stage in range(configuration.parallel.pp):
        for stream, seconds in busy_s(costs, configuration, stage).items():
            assert seconds <= iteration_s * (1 + ROUNDING), (stage, stream.name)


@settings(**SLOW)
@given(any_schedule, machines)
def test_the_way_of_one_microbatch_is_part_of_the_step(configuration: Configuration, machine: Machine) -> None:
    """All forward passes of a microbatch one after the other, and all backward passes."""
    evaluator = machine.projector().evaluator
    layout = evaluator.layout(configuration)
    # Else the way down is part of the step before.
    assume(not layout.schedule.overlaps_optimizer)
    passes_s = layout.places["forward_s"] + layout.places["backward_s"]
    if layout.schedule.parameter_copies > 1:
        # A microbatch passes one of the copies.
        passes_s = passes_s.reshape(layout.placement.chunks, -1).sum(axis=1)
    iteration_s = float(evaluator.evaluate([configuration]).iteration_time_s[0])
    way_s = passes_s.max() if layout.schedule.parameter_copies > 1 else passes_s.sum()
    assert way_s <= iteration_s * (1 + ROUNDING)
