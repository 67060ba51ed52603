"""What an exchange between stages takes beside its transfer, where the host waits for it."""

from __future__ import annotations

import pytest

from simulator.simulate.machine import FixedCollectives, FixedOperators, cluster
from vtrain_sim.simulate.batch import Evaluator
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

MODEL = ModelSpec(8, 1024, 8, 512, 1024)
MICROBATCHES = 8


def seconds(parallel: ParallelSpec, schedule: str, sync_s: float, transfer_s: float = 0.0) -> float:
    """A step whose products take a second each; the way a timeline goes through it gives the same."""
    machine = cluster(p2p_sync_s=sync_s)
    operators, collectives = FixedOperators({"gemm": 1.0}), FixedCollectives({"pp": transfer_s})
    configuration = Configuration(MODEL, parallel, TrainSpec(1, MICROBATCHES, schedule=schedule))
    step_s = float(Evaluator(machine, operators, collectives).evaluate([configuration]).iteration_time_s[0])  # type: ignore[arg-type]
    projector = Projector(machine, operators, collectives, 0.0)  # type: ignore[arg-type]
    assert projector.project(configuration).iteration_time_s == pytest.approx(step_s)
    return step_s


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_blocking_exchange_takes_as_much_longer_as_its_transfer_would(schedule: str) -> None:
    pipeline = ParallelSpec(pp=4)
    assert seconds(pipeline, schedule, 0.25) == pytest.approx(seconds(pipeline, schedule, 0.0, transfer_s=0.25))
    assert seconds(pipeline, schedule, 0.25) > seconds(pipeline, schedule, 0.0)


def test_interleaved_stages_wait_unless_they_send_beside_their_passes() -> None:
    waiting = ParallelSpec(pp=4, vpp=2)
    assert seconds(waiting, "interleaved", 0.25) > seconds(waiting, "interleaved", 0.0)
    beside = ParallelSpec(pp=4, vpp=2, overlap_p2p=True)
    assert seconds(beside, "interleaved", 0.25) == seconds(beside, "interleaved", 0.0)


@pytest.mark.parametrize("parallel", [ParallelSpec(pp=4, batch_p2p=False), ParallelSpec(dp=4)])
def test_nothing_waits_without_batched_exchanges(parallel: ParallelSpec) -> None:
    """DeepSpeed's engine sends and receives one by one; a single stage exchanges nothing."""
    assert seconds(parallel, "1f1b", 0.25) == seconds(parallel, "1f1b", 0.0)


def test_zero_bubble_schedules_do_not_wait() -> None:
    assert seconds(ParallelSpec(pp=4), "zb-h1", 0.25) == seconds(ParallelSpec(pp=4), "zb-h1", 0.0)
