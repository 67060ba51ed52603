"""Bubbles and memory that the papers state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from simulator.schedules.cases import equal_case
from vtrain_sim.schedules import PipelineShape, get
from vtrain_sim.schedules.replay import replay


def bubble(name: str, stages: int, microbatches: int, seconds: tuple[float, float, float] = (1, 1, 1)) -> float:
    """What the slowest stage needs beyond its work, seconds."""
    case = equal_case(name, stages, microbatches, seconds)
    work = replay(case.schedule, case.shape, case.times).busy_s
    return float(max(case.schedule.ends(case.times).end_s) - work[0])


def in_flight(name: str, stages: int, chunks: int, microbatches: int) -> np.ndarray:
    """[stages] microbatches, all chunks together."""
    counts = get(name).in_flight(PipelineShape(stages, chunks, microbatches))
    return counts.reshape(len(counts), -1, stages).sum(axis=1).max(axis=0)


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 8), (8, 32)])
def test_textbook_bubbles(stages: int, microbatches: int) -> None:
    """(p - 1) (F + B) for GPipe and 1F1B, and that of one chunk when interleaved (Narayanan et al., section 2.2)."""
    for name in ("gpipe", "1f1b", "interleaved"):
        assert bubble(name, stages, microbatches, (1, 2, 0)) == pytest.approx(3 * (stages - 1))


@pytest.mark.parametrize(("stages", "microbatches"), [(4, 8), (8, 32), (16, 48)])
def test_zero_bubble_schedules_keep_the_papers_promise(stages: int, microbatches: int) -> None:
    """With equal parts ZB-H1 (p - 1 in the paper, where the order is made by hand) idles for not much more than
    half of what 1F1B does; ZB-H2 and ZB-V not at all once the first microbatch has come down (Qi et al., table 1)."""
    assert stages - 1 <= bubble("zb-h1", stages, microbatches) < 0.6 * 3 * (stages - 1)
    for name in ("zb-h2", "zb-v"):
        case = equal_case(name, stages, microbatches)
        ends = case.schedule.ends(case.times).end_s
        work = replay(case.schedule, case.shape, case.times).busy_s[0]
        assert max(ends - np.arange(stages)) == pytest.approx(work)


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 8), (4, 20), (8, 20), (16, 64)])
@pytest.mark.parametrize("seconds", [(1, 1, 1), (2, 2, 2)])
def test_dualpipe_bubble_is_the_published_one(
    stages: int, microbatches: int, seconds: tuple[float, float, float]
) -> None:
    """(PP / 2 - 1) (F&B + B - 3 W), B a full backward pass, PP virtual stages (README of DualPipe)."""
    f, b, w = seconds
    unit = (f + b + w) + (b + w) - 3 * w
    assert bubble("dualpipe", stages, microbatches, seconds) == pytest.approx((stages / 2 - 1) * unit)
    assert bubble("dualpipev", stages, microbatches * 2, seconds) == pytest.approx((stages - 1) * unit)


def test_dualpipev_waits_where_the_published_figure_does() -> None:
    """4 stages, 10 microbatches: 66 cells, and device 0 idles in cells 20 to 22 for the first time."""
    case = equal_case("dualpipev", 4, 10)
    timeline = replay(case.schedule, case.shape, case.times)
    assert max(timeline.end_s) == 66
    spans = [s for s in timeline.spans if s.stage == 0]
    gaps = [(one.end_s, two.start_s) for one, two in itertools.pairwise(spans) if two.start_s > one.end_s]
    assert gaps[0] == (20, 23)


def test_published_peaks_of_activations() -> None:
    """In microbatches of one chunk: 1F1B p; ZB-H2 2p - 1; ZB-V as 1F1B (2p halves); DualPipe p + 1, DualPipeV
    2p + 1 (both PP + 1 for PP virtual stages)."""
    for p in (2, 4, 8):
        m = 4 * p
        assert list(in_flight("1f1b", p, 1, m)) == list(range(p, 0, -1))
        assert set(in_flight("gpipe", p, 1, m)) == {m}
        assert set(in_flight("zb-h1", p, 1, m)) == {p}
        assert set(in_flight("zb-h2", p, 1, m)) == {2 * p - 1}
        assert set(in_flight("zb-v", p, 2, m)) == {2 * p}
        assert set(in_flight("dualpipe", p, 1, m)) == {p + 1}
        assert set(in_flight("dualpipev", p, 2, m)) == {2 * p + 1}
        assert list(in_flight("interleaved", p, 2, m)) == [2 * (p - s - 1) + p + 1 for s in range(p)]
