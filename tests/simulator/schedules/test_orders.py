"""Orders of passes: Megatron-Core's and PyTorch's own tables, and the papers' figures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.schedules.cases import NAMES, Case, cases, chunks_of
from vtrain_sim.schedules import Message, Pass, PipelineShape, Placement, Receive, ScheduleDeadlock, Send, get
from vtrain_sim.schedules.interleaved import Interleaved
from vtrain_sim.schedules.replay import replay, replay_instructions
from vtrain_sim.schedules.times import PassTimes
from vtrain_sim.specs.checks import SpecError

GROUPS = [(2, 2, 4, 2), (4, 2, 8, 4), (4, 3, 12, 4), (2, 2, 5, 3), (4, 3, 14, 5), (4, 2, 4, 4)]


def text(order: list[Pass]) -> str:
    """``F0``: forward pass of the first chunk; lower case: of the second."""
    letters = [one.kind if one.chunk == 0 else one.kind.lower() for one in order]
    return " ".join(f"{letter}{one.microbatch}" for letter, one in zip(letters, order, strict=True))


@pytest.mark.parametrize(("stages", "chunks", "microbatches", "group"), GROUPS)
def test_interleaved_order_is_megatron_cores(stages: int, chunks: int, microbatches: int, group: int) -> None:
    schedules = pytest.importorskip("megatron.core.pipeline_parallel.schedules", reason="needs megatron-core")
    schedule, shape = Interleaved(group), PipelineShape(stages, chunks, microbatches)
    schedule.check(shape)
    table = schedules.get_schedule_table(microbatches, chunks, group)
    for rank, order in enumerate(schedule.order(shape)):
        pipeline = SimpleNamespace(size=lambda: stages, rank=lambda rank=rank: rank)
        ranks = SimpleNamespace(pp_group=pipeline, virtual_pipeline_model_parallel_size=chunks)
        _, _, warmup, _ = schedules.get_pp_rank_microbatches(microbatches, chunks, group, p2p_communicator=ranks)
        forward = [(one.microbatch, one.chunk) for one in order if one.kind == "F"]
        backward = [(one.microbatch, chunks - 1 - one.chunk) for one in order if one.kind == "B"]
        assert forward == backward == table
        kinds = "".join(one.kind for one in order)
        steady = len(table) - warmup
        assert kinds == "F" * warmup + "FB" * steady + "B" * warmup


@pytest.mark.parametrize("name", ["zb-v", "dualpipev"])
@pytest.mark.parametrize(("stages", "microbatches"), [(1, 2), (2, 4), (2, 7), (4, 8), (4, 10), (4, 20)])
def test_v_shaped_order_is_pytorchs(name: str, stages: int, microbatches: int) -> None:
    pipelining = pytest.importorskip("torch.distributed.pipelining.schedules", reason="needs torch")
    classes = {"zb-v": "ScheduleZBVZeroBubble", "dualpipev": "ScheduleDualPipeV"}
    reference = getattr(pipelining, classes[name], None)
    if reference is None:
        pytest.skip(f"this torch has no {classes[name]}")
    sizes = {"pp_group_size": stages, "num_stages": 2 * stages, "_n_microbatches": microbatches}
    kinds = {"FORWARD": "F", "BACKWARD_INPUT": "B", "BACKWARD_WEIGHT": "W", "FULL_BACKWARD": "BW"}
    for rank, order in enumerate(get(name).order(PipelineShape(stages, 2, microbatches))):
        actions = reference._calculate_single_rank_operations(SimpleNamespace(**sizes), rank)
        expected = [
            Pass(kinds[a.computation_type.name], int(a.stage_index >= stages), a.microbatch_index, paired)
            for action in actions
            if action is not None
            for a, paired in zip(action.sub_actions or (action,), (bool(action.sub_actions), False), strict=False)
        ]
        assert order == expected


def test_1f1b_order_is_the_papers() -> None:
    """Narayanan et al., figure 3 (from 0): 4 stages, 8 microbatches."""
    orders = get("1f1b").order(PipelineShape(4, 1, 8))
    assert text(orders[0]) == "F0 F1 F2 F3 B0 F4 B1 F5 B2 F6 B3 F7 B4 B5 B6 B7"
    assert text(orders[3]) == " ".join(f"F{i} B{i}" for i in range(8))


def test_interleaved_order_is_the_papers() -> None:
    """Narayanan et al., figure 4 (from 0): 4 stages of 2 chunks, 8 microbatches."""
    orders = get("interleaved").order(PipelineShape(4, 2, 8))
    assert text(orders[0]).startswith("F0 F1 F2 F3 f0 f1 f2 f3 F4 F5 F6 b0 F7 b1 f4 b2 f5 b3 f6 B0 f7 B1 B2 B3 b4")
    assert text(orders[3]).startswith("F0 F1 F2 F3 f0 b0 f1 b1 f2 b2 f3 b3 F4 B0 F5 B1")


def test_zero_bubble_warmups_are_the_papers() -> None:
    """Qi et al., ICLR 2024, figures 2 and 3 (from 0): 4 stages, 8 microbatches, until the first input gradient."""
    h1, h2 = (get(name).order(PipelineShape(4, 1, 8)) for name in ("zb-h1", "zb-h2"))
    assert text(h1[0]).startswith("F0 F1 F2 F3 B0")
    assert text(h2[0]).startswith("F0 F1 F2 F3 F4 F5 F6 B0")
    assert text(h2[1]).startswith("F0 F1 F2 F3 F4 B0")
    assert text(h2[2]).startswith("F0 F1 F2 B0")
    assert text(h2[3]).startswith("F0 B0 F1 B1")


def test_dualpipev_order_is_the_published_figure() -> None:
    """github.com/deepseek-ai/DualPipe, images/dualpipev.png: 4 stages, 10 microbatches."""
    orders = get("dualpipev").order(PipelineShape(4, 2, 10))
    assert text(orders[0]).startswith("F0 F1 F2 F3 F4 F5 F6 f0 b0 w0 f1 b1 w1 f2 b2 w2 f3 F7 bw3 f4 BW0 F8 bw4 f5 BW1")
    assert text(orders[0]).endswith("bw8 f9 BW5 bw9 B6 W6 B7 W7 B8 W8 B9 W9")
    assert text(orders[3]).endswith("bw6 BW6 bw7 BW7 b8 B8 b9 B9 w8 W8 w9 W9")


def test_dualpipe_order_is_the_published_figure() -> None:
    """github.com/deepseek-ai/DualPipe, images/dualpipe.png: 8 stages, 10 microbatches each way."""
    orders = get("dualpipe").order(PipelineShape(8, 1, 20))
    down = [text([one for one in order if one.chunk == 0]) for order in orders]
    assert down[0].startswith("F0 F1 F2 F3 F4 F5 F6 F7 BW0 F8 BW1 F9 BW2")
    assert down[0].endswith("BW5 B6 W6 B7 W7 B8 W8 B9 W9")
    assert down[7].startswith("F0 B0 W0 F1 B1 W1 F2 B2 W2 F3 BW3 F4 BW4")
    for stage in range(4):
        up = [one._replace(chunk=0, microbatch=one.microbatch - 10) for one in orders[7 - stage] if one.chunk == 1]
        assert text(up) == down[stage], "the microbatches in the other direction are symmetric"


@settings(max_examples=100, deadline=None)
@given(cases(), st.lists(st.integers(0, 20).map(float), min_size=8, max_size=8).map(np.array))
def test_in_flight_is_what_the_replay_keeps(case: Case, sizes: np.ndarray) -> None:
    """Whatever the chunks keep of a microbatch; sizes: bytes of each."""
    stages = case.shape.stages
    ends = {"W", "BW"} if case.schedule.splits_backward else {"B"}
    moments = case.schedule.in_flight(case.shape).reshape(-1, case.placement.chunks, stages)
    for stage in range(stages):
        held, most = np.zeros(case.placement.chunks), 0.0
        for span in (s for s in replay(case.schedule, case.shape, case.times).spans if s.stage == stage):
            held[span.chunk] += {"F": 1, **dict.fromkeys(ends, -1)}.get(span.kind, 0)
            most = max(most, float(held @ sizes[: len(held)]))
        peak = max(moments[:, :, stage] @ sizes[: len(held)])
        if case.schedule.adaptive:
            # The schedule may keep so many; it does where that keeps it busy.
            assert most <= peak
        else:
            assert peak == most


@pytest.mark.parametrize("name", ["zb-v", "dualpipe", "dualpipev"])
def test_in_flight_of_long_pipelines_is_that_of_shorter_ones(name: str) -> None:
    counts = [get(name).in_flight(PipelineShape(4, chunks_of(name), m)) for m in (10, 16, 18, 100)]
    assert all(np.array_equal(count, counts[0]) for count in counts)


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("gpipe", (4, 2, 8), "--schedule gpipe does not interleave"),
        ("1f1b", (4, 2, 8), "--schedule 1f1b does not interleave"),
        ("zb-h1", (4, 2, 8), "--schedule zb-h1 does not interleave"),
        ("interleaved", (4, 1, 8), "needs --num-layers-per-virtual-pipeline-stage"),
        ("interleaved", (4, 2, 9), "number of microbatches (9) that --pipeline-model-parallel-size (4) divides"),
        ("zb-v", (4, 1, 8), "--schedule zb-v needs 2 model chunks per stage, not 1"),
        ("dualpipe", (3, 1, 8), "needs an even --pipeline-model-parallel-size, not 3: 4 would be"),
        ("dualpipe", (4, 1, 6), "needs at least 8 microbatches on 4 stages, not 6"),
        ("dualpipe", (4, 1, 9), "needs an even number of microbatches, not 9"),
        ("dualpipe", (4, 2, 8), "--schedule dualpipe does not interleave"),
        ("dualpipev", (4, 2, 7), "needs at least 8 microbatches on 4 stages, not 7"),
        ("dualpipev", (4, 3, 8), "needs 2 model chunks per stage, not 3"),
    ],
)
def test_a_shape_that_cannot_run_is_refused(name: str, shape: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(SpecError) as error:
        get(name).check(PipelineShape(*shape))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("group", "microbatches", "valid"), [(5, 14, True), (5, 12, False), (3, 12, False), (5, 4, False)]
)
def test_groups_that_megatron_core_refuses(group: int, microbatches: int, valid: bool) -> None:
    """4 stages: a group has at least as many microbatches as there are stages, the last one too."""
    shape = PipelineShape(4, 2, microbatches)
    if valid:
        Interleaved(group).check(shape)
    else:
        with pytest.raises(SpecError, match="--microbatch-group-size-per-virtual-pipeline-stage is"):
            Interleaved(group).check(shape)


def test_circular_waiting_is_an_error() -> None:
    a, b = Message("F", 0, 0, 0), Message("F", 1, 0, 0)
    times = PassTimes.single(PipelineShape(2, 2, 1), [1.0] * 4, [1.0] * 4)
    with pytest.raises(ScheduleDeadlock, match="stage 0 waits for ever"):
        replay_instructions([[Receive(b), Send(a)], [Receive(a), Send(b)]], Placement.in_turn(2, 2), times)


@pytest.mark.parametrize("name", NAMES)
def test_placement_is_a_path_through_the_stages(name: str) -> None:
    placement = get(name).placement(4, chunks_of(name))
    copies = get(name).parameter_copies
    assert [len(placement.places_of(v)) for v in range(placement.virtual_stages)] == [copies] * placement.virtual_stages
    for place, following in enumerate(placement.next_place):
        if following >= 0:
            assert placement.virtual_stage[following] == placement.virtual_stage[place] + 1
            assert placement.previous_place[following] == place
            assert placement.next_stage[place] == following % 4
        else:
            assert placement.virtual_stage[place] == placement.virtual_stages - 1
            assert placement.next_stage[place] == -1


def test_placements_of_both_directions_and_of_the_v() -> None:
    assert get("zb-v").placement(3, 2).virtual_stage == (0, 1, 2, 5, 4, 3)
    assert get("zb-v").placement(3, 2).next_stage == (1, 2, 2, -1, 0, 1)
    assert get("dualpipe").placement(4, 1).virtual_stage == (0, 1, 2, 3, 3, 2, 1, 0)
    assert get("dualpipe").placement(4, 1).next_stage == (1, 2, 3, -1, -1, 0, 1, 2)
    with pytest.raises(ValueError, match="3 places for 2 stages x 2 chunks"):
        Placement(2, 2, (0, 1, 2))
    with pytest.raises(ValueError, match="are not 0 to their count"):
        Placement(2, 1, (0, 2))
