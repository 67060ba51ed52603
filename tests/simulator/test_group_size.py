"""--microbatch-group-size-per-virtual-pipeline-stage decides the order, and with it time and memory."""

from __future__ import annotations

import pytest

from vtrain_sim.api.machine import machine_of
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.schedules import PipelineShape
from vtrain_sim.specs import Configuration

FLAG = "--microbatch-group-size-per-virtual-pipeline-stage"
GPT = "--num-layers 16 --hidden-size 512 --num-attention-heads 8 --seq-length 256 --vocab-size 1000"
INTERLEAVED = "--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2"


def configuration(flags: str, layout: str = INTERLEAVED, microbatches: int = 14) -> Configuration:
    step = f"--micro-batch-size 1 --global-batch-size {microbatches}"
    return configuration_from_flags(f"{GPT} {step} {layout} {flags}".split())


@pytest.mark.parametrize("flag", [FLAG, "--microbatch-group-size-per-vp-stage"])
@pytest.mark.parametrize(("microbatches", "group"), [(14, 5), (12, 6), (12, 12), (10, 5)])
def test_the_schedule_that_runs_has_megatron_cores_order(flag: str, microbatches: int, group: int) -> None:
    reference = pytest.importorskip("megatron.core.pipeline_parallel.schedules", reason="needs megatron-core")
    schedule = configuration(f"{flag} {group}", microbatches=microbatches).pipeline.schedule
    for order in schedule.order(PipelineShape(4, 2, microbatches)):
        forward = [(one.microbatch, one.chunk) for one in order if one.kind == "F"]
        assert forward == reference.get_schedule_table(microbatches, 2, group)


def test_larger_groups_hold_more_activations() -> None:
    """Both from one projector: nothing that is kept for one group size serves another."""
    small, large = (configuration(f"{FLAG} {group}", microbatches=12) for group in (4, 12))
    projector = machine_of("dgx-h100").projector
    together = projector.evaluate([small, large])
    activations = together.stage_memory["activations"]
    assert activations[0] < activations[4]
    for number, alone in enumerate((small, large)):
        fresh = machine_of("dgx-h100").projector.evaluate([alone])
        assert fresh.stage_memory["activations"].tolist() == activations[4 * number : 4 * number + 4].tolist()
        assert fresh.iteration_time_s[0] == together.iteration_time_s[number]


def test_a_group_of_as_many_as_stages_is_the_default() -> None:
    given, default = (configuration(flags, microbatches=12) for flags in (f"{FLAG} 4", ""))
    times = machine_of("dgx-h100").projector.evaluate([given, default]).iteration_time_s
    assert times[0] == times[1]


@pytest.mark.parametrize(
    ("flags", "layout", "word"),
    [
        (f"{FLAG} 3", INTERLEAVED, "is 3: it must be from 4"),
        (f"{FLAG} 15", INTERLEAVED, "is 15: it must be from 4"),
        (f"{FLAG} 6", INTERLEAVED, "leaves 2 of 14"),
        (f"{FLAG} -1", INTERLEAVED, "0 or more"),
        (f"{FLAG} five", INTERLEAVED, "whole number"),
        (f"{FLAG} 5", "--pipeline-model-parallel-size 4", "needs interleaving"),
        (f"{FLAG} 5 --schedule zb-v", INTERLEAVED, "zb-v has no groups"),
    ],
)
def test_what_megatron_core_refuses_is_refused(flags: str, layout: str, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        configuration(flags, layout)
    assert FLAG in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_chunks_the_group_of_a_base_is_gone() -> None:
    base = configuration(f"{FLAG} 5")
    assert configuration_from_flags(["--pipeline-model-parallel-size", "1"], base).parallel.microbatch_group_size == 0
