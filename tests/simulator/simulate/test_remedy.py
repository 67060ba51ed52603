"""What is said to make a configuration fit does so when it is followed."""

from __future__ import annotations

import re

import pytest

from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.simulate.projection import Projector


def projector() -> Projector:
    machine = presets.cluster("dgx-h100")
    surfaces = Surfaces.from_dict(presets.cluster_surfaces("dgx-h100"))
    return Projector(machine, OperatorCosts(DeviceSurface(machine.device, surfaces)), CollectiveCosts(machine))


def settings(words: str) -> dict[str, list[str]]:
    """Values of each flag of a command line."""
    flags: dict[str, list[str]] = {}
    for flag, *values in (part.split() for part in re.split(r"(?:^|\s)(?=--)", words) if part):
        flags[flag] = values
    return flags


@pytest.mark.parametrize(
    ("model", "gpus", "flags", "needed"),
    [
        (
            "deepseek-v3",
            512,
            "--micro-batch-size 1 --global-batch-size 512 --use-distributed-optimizer --expert-model-parallel-size 64",
            "--tensor-model-parallel-size 4 --sequence-parallel --recompute-granularity full "
            "--recompute-method uniform --recompute-num-layers 1",
        ),
        (
            "gpt3-175b",
            128,
            "--micro-batch-size 1 --global-batch-size 64 --tensor-model-parallel-size 8 --sequence-parallel "
            "--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 12 "
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            "--pipeline-model-parallel-size 16 --num-layers-per-virtual-pipeline-stage 3",
        ),
        (
            "gpt3-6.7b",
            8,
            "--micro-batch-size 1 --global-batch-size 64",
            "--use-distributed-optimizer",
        ),
        (
            "gpt3-6.7b",
            8,
            "--micro-batch-size 32 --global-batch-size 256 --use-distributed-optimizer",
            None,
        ),
    ],
)
def test_the_remedy_fits_when_followed(model: str, gpus: int, flags: str, needed: str | None) -> None:
    had = settings(flags + " --bf16")
    machine = projector()

    def verdict(given: dict[str, list[str]]) -> tuple[bool, str]:
        words = [word for flag, values in given.items() for word in (flag, *values)]
        memory = machine.project(configuration_from_flags(words, None, gpus, presets.model(model))).memory
        return memory.fits, memory.remedy

    fits, remedy = verdict(had)
    assert not fits
    named = settings(remedy.partition(" would fit")[0].partition(" (")[0])
    assert named
    assert needed is None or named == settings(needed)
    assert not [flag for flag, values in named.items() if had.get(flag) == values]
    assert verdict({**had, **named})[0]


def test_a_change_that_leaves_little_is_named_where_no_other_fits() -> None:
    """671 billion parameters in bf16 with gradients and optimizer on 256 GPUs of 80 GiB: no change leaves 6%."""
    words = (
        "--bf16 --micro-batch-size 1 --global-batch-size 256 --use-distributed-optimizer --expert-model-parallel-size "
        "64"
    )
    machine = projector()
    memory = machine.project(configuration_from_flags(words.split(), None, 256, presets.model("deepseek-v3"))).memory
    flags, _, rest = memory.remedy.partition(" would fit tightly")
    assert rest
    followed = machine.project(
        configuration_from_flags([*words.split(), *flags.split()], None, 256, presets.model("deepseek-v3"))
    ).memory
    assert (followed.fits, followed.tight) == (False, True)
