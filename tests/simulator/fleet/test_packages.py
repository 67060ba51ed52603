"""Another package brings a policy, a placement and a format of traces."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from vtrain_sim import extensions
from vtrain_sim.decide.fleet import ClusterPolicy, Conditions, Job, SpeedTable, placement, policies, simulate, traces
from vtrain_sim.decide.fleet.placement import Placement
from vtrain_sim.decide.fleet.placement.gangs import packed
from vtrain_sim.decide.fleet.policies.in_order import Preempting
from vtrain_sim.decide.fleet.traces import Recorded, Recording, TraceFormat


class LargestFirst(Preempting):
    """Who requests most."""

    def key(self, r):
        return -r.requested, r.job.job_id


class Lines(TraceFormat):
    """A job a line: GPUs and seconds."""

    name = "lines"
    title = "nobody"
    source = "a test"

    def recognises(self, head: str) -> bool:
        return head.startswith("# lines")

    def read(self, path: Path) -> Recording:
        recording = Recording(self.title)
        for number, line in enumerate(path.read_text().splitlines()[1:]):
            gpus, lasted = line.split()
            recording.add(Recorded(str(number), 0.0, int(gpus), float(lasted)))
        return recording


LARGEST = ClusterPolicy("largest", "largest first", "a test", LargestFirst)
MINE = Placement("mine", "as packed", packed)


@pytest.mark.parametrize(
    ("where", "name", "attribute"),
    [(policies, "largest", "LARGEST"), (placement, "mine", "MINE"), (traces, "lines", "Lines")],
)
def test_entry_points_are_found(
    where: ModuleType, name: str, attribute: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group = where.registry.ENTRY_POINTS
    entry = metadata.EntryPoint(name, f"{__name__}:{attribute}", group)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == where.registry.ENTRY_POINTS else [])
    extensions.load_extensions.cache_clear()
    registry = where.register.__self__
    try:
        assert where.get(name).name == name
        assert where.names()[-1] == name
        if where is policies:
            jobs = [Job("a", 0.0, "x", 1, 10, 1), Job("b", 0.0, "x", 1, 10, 2)]
            outcome = simulate(jobs, {("x", 1): SpeedTable((1, 2), (2.0, 1.0))}, 2, LARGEST, 0.0)
            assert outcome.finished_s == {"b": 10.0, "a": 30.0}
        elif where is placement:
            jobs = [Job("a", 0.0, "x", 1, 10, 2)]
            conditions = Conditions(placement=MINE, gpus_per_node=2)
            assert simulate(jobs, {("x", 1): SpeedTable((2,), (1.0,))}, 4, policies.get("fifo"), conditions=conditions)
        else:
            (tmp_path / "t").write_text("# lines\n4 100\n0 3\n")
            found = traces.detect(tmp_path / "t")
            assert found is not None
            assert found.read(tmp_path / "t").jobs == [Recorded("0", 0.0, 4, 100.0)]
    finally:
        registry._items.pop(name)
        extensions.load_extensions.cache_clear()
