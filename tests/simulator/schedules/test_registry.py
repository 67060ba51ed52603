"""Schedules by name, and one that comes from outside of the package."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib import metadata

import numpy as np
import pytest

from simulator.schedules.cases import NAMES
from vtrain_sim import extensions
from vtrain_sim.errors import UserError
from vtrain_sim.schedules import (
    Pass,
    PassTimes,
    PipelineShape,
    Placement,
    Schedule,
    get,
    names,
    register,
    registry,
    run,
)
from vtrain_sim.schedules.gpipe import GPipe


class OneAtATime(Schedule):
    """A microbatch passes the whole pipeline forward and backward before the next one starts."""

    name = "one-at-a-time"

    def placement(self, stages: int, chunks: int) -> Placement:
        return Placement.in_turn(stages, chunks)

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        order = [Pass(kind, 0, i) for i in range(shape.microbatches) for kind in "FB"]
        return [order] * shape.stages


class BlockingOneAtATime(OneAtATime):
    name = "blocking-one-at-a-time"
    blocking = True


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry._schedules, "_items", dict(registry._schedules._items))
    monkeypatch.setattr(extensions, "load_extensions", cache(extensions.load_extensions.__wrapped__))


@pytest.mark.parametrize("schedule", [OneAtATime(), BlockingOneAtATime()])
def test_a_schedule_with_an_order_alone_runs(schedule: Schedule) -> None:
    register(schedule)
    stages, microbatches = 3, 4
    shape = PipelineShape(stages, 1, microbatches)
    times = PassTimes.single(shape, [1.0] * 3, [2.0] * 3, transfer_s=[0.5, 0.25, 0.0])
    result = run([get(schedule.name)], times)
    # Forward and back through all stages and over both boundaries, one microbatch after the other.
    around = 3 * (1.0 + 2.0) + 2 * 0.75
    last = result.end_s[0]
    assert last == pytest.approx(microbatches * around)
    assert result.gradients_s[2] == pytest.approx((microbatches - 1) * around + 3.0 + 0.75 + 2.0)
    assert get(schedule.name).in_flight(shape).tolist() == [[1.0, 1.0, 1.0]]


def test_it_mixes_with_others() -> None:
    toy = register(OneAtATime())
    shape = PipelineShape(2, 1, 3)
    one = PassTimes.single(shape, [1.0] * 2, [2.0] * 2)
    batch = PassTimes(*(np.concatenate([getattr(one, c)] * 3) for c in PassTimes.__dataclass_fields__))
    ends = run([toy, get("1f1b"), toy], batch).end_s.reshape(3, 2)
    assert list(ends[0]) == list(ends[2]) == [18.0, 16.0]
    assert list(ends[1]) == list(get("1f1b").ends(one).end_s)


def test_entry_points_are_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("toy", f"{__name__}:OneAtATime", registry.ENTRY_POINTS)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == "vtrain.schedules" else [])
    assert names() == (*NAMES, "one-at-a-time")
    assert isinstance(get("one-at-a-time"), Schedule)


def test_names_and_what_they_say() -> None:
    assert set(NAMES) <= set(names())
    for name in NAMES:
        assert get(name).name == name
        assert get(name).title
        assert get(name).source


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(UserError, match=r"--schedule is 'dualpip' \(did you mean 'dualpipe'\?\): there are 1f1b, dual"):
        get("dualpip")


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="there is a schedule 'gpipe' already"):
        register(GPipe())


def test_importing_schedules_and_a_small_run_load_no_compiler() -> None:
    code = (
        "import sys; from vtrain_sim.schedules import *\n"
        "s = get('interleaved'); s.ends(PassTimes.single(PipelineShape(4, 2, 8), [1.0] * 8, [2.0] * 8))\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
