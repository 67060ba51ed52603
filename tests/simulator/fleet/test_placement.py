"""Gangs on nodes: which nodes, how fast, and what is left free."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.fleet.cases import by_job
from vtrain_sim.api.machine import machine_of
from vtrain_sim.api.schedule_conditions import projectors_of
from vtrain_sim.decide.fleet import Conditions, Job, SpeedTable, placement, policies, project_speeds, simulate
from vtrain_sim.decide.fleet.checkpoints import Checkpoints
from vtrain_sim.decide.fleet.outcome import nodes_text
from vtrain_sim.decide.fleet.placement import Gang, Nodes, Placement
from vtrain_sim.decide.fleet.placement.fragments import Fragment, fragmented, of_segments
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.specs import ClusterSpec, NetworkLevel

# 4 GPUs in one node 1 s, in two 2 s, in four 3 s.
TABLE = SpeedTable((2, 4, 8), (2.0, 1.0, 0.5), ((Fragment(2), (2.0, 2.0, 1.0)), (Fragment(1), (5.0, 3.0, 1.5))))
ONE = {("x", 1): TABLE}


def on(name: str, migrate: bool = False, restart_s: float = 0.0) -> Conditions:
    return Conditions(Checkpoints(restart_s), placement.get(name), 4, migrate=migrate)


def take(nodes: Nodes, name: str, gpus: int) -> Gang | None:
    chosen = placement.get(name)
    assert chosen is not None
    return chosen.place(nodes, gpus)


def test_packed_by_hand() -> None:
    """The fullest node that is enough; whole nodes; then the largest chunks that fit."""
    nodes = Nodes(16, 4)
    assert take(nodes, "packed", 3) == Gang(((0, 0b111),), 3)
    assert take(nodes, "packed", 1) == Gang(((0, 0b1000),), 1)
    assert take(nodes, "packed", 6) == Gang(((1, 0b1111), (2, 0b11)), 4)
    assert nodes.holds(4)
    assert not nodes.holds(5 + 4)
    assert take(nodes, "packed", 3) == Gang(((3, 0b111),), 3)
    # Two GPUs are free on one node, one on another.
    assert take(nodes, "consolidated", 3) is None
    assert take(nodes, "packed", 3) == Gang(((2, 0b1100), (3, 0b1000)), 2)
    assert take(nodes, "packed", 1) is None


def test_spread_by_hand() -> None:
    """One GPU on each node, from the emptiest on; larger chunks where nodes are too few."""
    nodes = Nodes(16, 4)
    assert take(nodes, "spread", 3) == Gang(((0, 1), (1, 1), (2, 1)), 1)
    assert take(nodes, "spread", 2) == Gang(((3, 1), (0, 2)), 1)
    assert take(nodes, "spread", 8) == Gang(((1, 0b110), (2, 0b110), (3, 0b110), (0, 0b1100)), 2)


def test_racks_hold_a_gang_together() -> None:
    """Racks of two nodes: a gang of two goes where two are free."""
    nodes = Nodes(16, 4, 8)
    assert take(nodes, "packed", 4) == Gang(((0, 15),), 4)
    assert take(nodes, "packed", 8) == Gang(((2, 15), (3, 15)), 4)
    one = take(nodes, "packed", 4)
    assert one == Gang(((1, 15),), 4)
    nodes.release(Gang(((0, 15),), 4))
    nodes.release(Gang(((2, 15),), 4))
    assert take(nodes, "packed", 8) == Gang(((0, 15), (2, 15)), 4, scattered=True)


@given(st.integers(1, 40), st.sampled_from([2, 3, 4, 8]), st.lists(st.integers(1, 40), max_size=12), st.data())
def test_what_is_placed_is_free_before_and_not_after(
    capacity: int, size: int, gangs: list[int], data: st.DataObject
) -> None:
    nodes = Nodes(capacity, min(size, capacity))
    held: list[Gang] = []
    for gpus in gangs:
        if held and data.draw(st.booleans()):
            nodes.release(held.pop(data.draw(st.integers(0, len(held) - 1))))
        name = data.draw(st.sampled_from(placement.names()))
        free, fits = int(nodes.free.sum()), nodes.holds(gpus)
        gang = take(nodes, name, gpus)
        # Whatever fits is placed, but only on as few nodes as hold it where that is asked.
        assert (gang is not None) == (fits if name == "consolidated" else gpus <= free)
        if gang is not None:
            assert gang.gpus == gpus
            assert int(nodes.free.sum()) == free - gpus
            held.append(gang)
            if fits and name != "spread":
                assert gang.chunk == min(gpus, nodes.size)
        slots = [(node, slot) for g in held for node, mask in g.nodes for slot in range(size) if mask >> slot & 1]
        assert len(slots) == len(set(slots)) == capacity - int(nodes.free.sum())


def test_a_gang_on_more_nodes_is_slower_by_hand() -> None:
    """Two jobs of two GPUs and one of four on two nodes of four."""
    jobs = [Job(f"s{n}", 0.0, "x", 1, 100, 2) for n in range(2)] + [Job("g", 0.0, "x", 1, 10, 4)]
    spread = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=on("spread"))
    assert spread.finished_s["g"] == pytest.approx(20.0)
    assert spread.to_dict(1.0)["fragmented_share"] == 1.0
    packed = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=on("packed"))
    assert packed.finished_s["g"] == pytest.approx(10.0)
    assert packed.to_dict(1.0)["fragmented_share"] == 0.0
    assert {s.job_id: nodes_text(s.gang) for s in packed.stretches if s.gang} == {"g": "0:4", "s0": "1:2", "s1": "1:2"}


def leftovers() -> list[Job]:
    """Two GPUs stay free on each of two nodes when the short jobs end; then a gang of four comes."""
    early = [Job(name, 0.0, "x", 1, 500 if name in "ac" else 5, 2) for name in "abcd"]
    return [*early, Job("g", 20.0, "x", 1, 100, 4)]


def test_free_gpus_that_no_gang_can_use_are_stranded() -> None:
    consolidated = simulate(leftovers(), ONE, 8, policies.get("fifo"), conditions=on("consolidated"))
    # a and b share a node, c and d the other: b and d end, and leave two GPUs on each.
    assert consolidated.finished_s["g"] == pytest.approx(1000.0 + 100.0)
    figures = consolidated.to_dict(1.0)
    assert figures["stranded_share"] == pytest.approx(4 * 980 / (8 * 1100))
    packed = simulate(leftovers(), ONE, 8, policies.get("fifo"), conditions=on("packed"))
    assert packed.finished_s["g"] == pytest.approx(20.0 + 200.0)
    assert packed.to_dict(1.0)["stranded_share"] == 0.0


def test_a_gang_moves_where_it_pays() -> None:
    """A gang on two nodes moves to one that becomes free, unless that costs more than it saves."""
    jobs = [replace(j, iterations=20) if j.job_id == "c" else j for j in leftovers()]
    moved = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=on("packed", True, 5.0))
    first, second = by_job(moved)["g"]
    assert (first.gang.chunk, second.gang.chunk) == (2, 4)
    assert (first.end_s, second.resume_s) == (40.0, 45.0)
    assert moved.finished_s["g"] == pytest.approx(45.0 + 90.0)
    assert moved.to_dict(1.0)["migrations"] == 1
    dear = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=on("packed", True, 80.0))
    assert len(by_job(dear)["g"]) == 1


def test_a_preemption_that_finds_no_nodes_is_not_made() -> None:
    """Stopping a job of two GPUs frees half a node: a gang of four that must be on one waits, and the job goes on."""
    jobs = [replace(j, priority=5) for j in leftovers()[:4]]
    jobs += [Job("low", 12.0, "x", 1, 100, 2, priority=-1), Job("g", 20.0, "x", 1, 10, 4)]
    kept = simulate(jobs, ONE, 8, policies.get("priority"), conditions=on("consolidated"))
    assert [(s.start_s, s.end_s) for s in by_job(kept)["low"]] == [(12.0, 212.0)]
    assert kept.finished_s["g"] == pytest.approx(1010.0)
    # On any nodes, it gives way.
    packed = simulate(jobs, ONE, 8, policies.get("priority"), conditions=on("packed"))
    assert [(s.start_s, s.end_s) for s in by_job(packed)["low"]] == [(12.0, 20.0), (40.0, 232.0)]


def test_a_gang_goes_before_those_later_in_the_order() -> None:
    """The two jobs that run leave half of each node: the later one of them moves, for a gang of larger priority."""
    jobs = [replace(j, priority=1 if j.job_id == "a" else 0) for j in leftovers()[:4]]
    jobs.append(Job("g", 20.0, "x", 1, 10, 4, priority=2))
    outcome = simulate(jobs, ONE, 8, policies.get("priority"), conditions=on("consolidated", restart_s=5.0))
    assert outcome.finished_s["g"] == pytest.approx(30.0)
    assert {s.job_id: nodes_text(s.gang) for s in outcome.stretches if s.gang and s.start_s == 20.0} == {
        "c": "0:2",
        "g": "1:4",
    }
    assert outcome.finished_s["c"] == pytest.approx(1000.0 + 5.0)
    assert outcome.finished_s["a"] == pytest.approx(1000.0)
    # First in, first out takes nothing from a job that runs.
    fifo = simulate(jobs, ONE, 8, policies.get("fifo"), conditions=on("consolidated", restart_s=5.0))
    assert fifo.finished_s["g"] == pytest.approx(1010.0)


def test_whole_nodes_are_promised_at_the_speed_of_any_racks() -> None:
    """A job whose deadline leaves no time for another rack is not admitted by a policy that promises deadlines."""
    table = SpeedTable((8,), (1.0,), ((Fragment(4, True), (1.5,)),))
    racks = replace(on("packed"), rack_gpus=8)
    jobs = [Job("a", 0.0, "x", 1, 10, 8, 14.0), Job("b", 0.0, "x", 1, 10, 8, 15.0)]
    outcome = simulate(jobs, {("x", 1): table}, 16, policies.get("elastic-plans"), conditions=racks)
    assert outcome.rejected == ("a",)
    # In one rack it is faster than it was promised.
    assert outcome.finished_s == {"b": 10.0}


def test_a_fragment_of_a_cluster() -> None:
    """Nodes of fewer GPUs, with their part of the node's network; racks keep their number of nodes."""
    dgx = presets.cluster("dgx-a100-80gb")
    half = fragmented(dgx, Fragment(4))
    assert half.gpus_per_node == 4
    assert half.inter_node.node_bandwidth == dgx.inter_node.node_bandwidth / 2
    assert half.inter_node.bandwidth == dgx.inter_node.bandwidth
    spine = NetworkLevel("spine", 5e9, 1e-5, node_bandwidth=6.4e11)
    levels = [*dgx.levels[:1], NetworkLevel("leaf", 2e10, 1e-5, gpus=64), spine]
    racked = ClusterSpec.of_levels("racked", dgx.device, levels)
    assert fragmented(racked, Fragment(2)).inter_node.gpus == 16
    # Jobs of several NVLink domains of 72 GPUs take 64 of each, whose links the level above has.
    nvl72 = of_segments(presets.cluster("gb200-nvl72"))
    assert (nvl72.gpus_per_node, nvl72.intra_node.segment) == (64, 0)
    assert nvl72.inter_node == presets.cluster("gb200-nvl72").inter_node
    assert of_segments(dgx) is dgx
    scattered = fragmented(racked, Fragment(8, True))
    assert (scattered.inter_node.name, scattered.outer) == ("spine", ())
    # An eighth of what the eight nodes of a rack share, and half of that for half a node.
    assert (scattered.inter_node.bandwidth, scattered.inter_node.node_bandwidth) == (5e9, 8e10)
    assert fragmented(racked, Fragment(4, True)).inter_node.node_bandwidth == 4e10


def test_projected_speeds_fall_with_racks() -> None:
    """Under a slow spine scattered gangs are slower; smaller parts of nodes in one rack are not as slow as those."""
    dgx = presets.cluster("dgx-a100-80gb")
    leaf = replace(dgx.inter_node, name="leaf", gpus=32)
    spine = NetworkLevel("spine", 2e9, 1e-4, node_bandwidth=8e9)
    racked = ClusterSpec.of_levels("racked", dgx.device, [dgx.levels[0], leaf, spine])
    machine = replace(machine_of("dgx-a100-80gb"), cluster=racked)
    conditions = Conditions(placement=placement.get("packed"), gpus_per_node=8, rack_gpus=32)
    kind = ("gpt3-6.7b", 64)
    fragments = conditions.fragments(64)
    assert Fragment(8, True) in fragments
    table = project_speeds({kind: (16,)}, machine.projector, fragments=projectors_of(machine, fragments)).best[kind]
    together, scattered = table.seconds_on(16, Fragment(4)), table.seconds_on(16, Fragment(8, True))
    assert table.seconds[0] <= together < scattered <= table.seconds_on(16, Fragment(4, True))


def test_on_nvlink_domains_gangs_are_as_fast_as_planned() -> None:
    """A gang of two segments of 64 GPUs."""
    machine = machine_of("gb200-nvl72")
    kind = ("gpt3-6.7b", 128)
    whole = project_speeds({kind: (64, 128)}, machine.projector).best[kind]
    near = pytest.approx(whole.seconds, rel=0.005)
    segments = replace(machine, cluster=of_segments(machine.cluster))
    assert project_speeds({kind: (64, 128)}, segments.projector).best[kind].seconds == near


def test_projected_speeds_fall_with_the_parts_of_nodes() -> None:
    """Tensor parallelism of 13 billion parameters on four GPUs, two by two and one by one."""
    machine = machine_of("dgx-a100-80gb")
    conditions = Conditions(placement=placement.get("packed"), gpus_per_node=8)
    kind = ("gpt3-13b", 64)
    speeds = project_speeds(
        {kind: (4, 16)}, machine.projector, fragments=projectors_of(machine, conditions.fragments(16))
    )
    table = speeds.best[kind]
    for gpus in (4, 16):
        rates = [table.seconds_on(gpus, Fragment(chunk)) for chunk in (8, 4, 2, 1)]
        assert rates == sorted(rates)
    assert table.seconds_on(4, Fragment(4)) == table.seconds[0]
    assert table.seconds_on(4, Fragment(1)) > 1.2 * table.seconds[0]
    # bf16 parameters, 32-bit main parameters and two moments.
    assert speeds.state_bytes[kind] == pytest.approx(12.85e9 * 14, rel=0.01)


def test_names() -> None:
    assert placement.get("ideal") is None
    with pytest.raises(UserError, match=r"--placement is 'paked'.*it takes ideal, packed, consolidated, spread"):
        placement.get("paked")
    with pytest.raises(ValueError, match="there is a placement 'packed' already"):
        placement.register(Placement("packed", "another", lambda nodes, gpus: None))
    with pytest.raises(UserError, match="--migrate needs --placement"):
        Conditions(migrate=True).check(8)
