"""A step as a chart of its pipeline stages."""

from __future__ import annotations

from collections import defaultdict

from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.tables import duration
from vtrain_sim.results import Row
from vtrain_sim.simulate.spans import PASSES, Timeline, TimelineSpan

_EXCHANGE = "data parallel exchange"
_ONCE = "once per step"
TONES = {
    "forward": "forward",
    "backward": "backward",
    "full backward": "backward",
    "input gradients": "backward",
    "weight gradients": "recompute",
    _EXCHANGE: "communication",
    _ONCE: "optimizer",
}


@pages.register(Timeline)
def page_of_timeline(timeline: Timeline) -> Page:
    """The passes of each stage, and how long each is idle."""
    figures = (Figure("Iteration time", duration(timeline.iteration_time_s), "modelled"),)
    return Page("timeline", "A training step", "", figures, timeline_sections(timeline))


def timeline_sections(timeline: Timeline) -> tuple[Section, ...]:
    """The chart, and each stage's busy and idle time where all microbatches are there."""
    rows = [row for span in timeline.spans if (row := _row(span)) is not None]
    kept = {span.microbatch for span in timeline.spans if span.microbatch is not None}
    whole = len(kept) == timeline.configuration.num_microbatches
    lead = (
        "Each row is a pipeline stage; a block is a pass of one microbatch, a thin one below it an exchange between "
        f"data parallel replicas. The step takes {duration(timeline.iteration_time_s)}."
    )
    if not whole:
        count = timeline.configuration.num_microbatches
        lead += f" {len(kept)} of {count:,} microbatches are shown: the first and the last."
    chart = {
        "draw": "gantt",
        "row": "stage",
        "start": "start_s",
        "end": "end_s",
        "what": "what",
        "thin": _EXCHANGE,
        "tones": {kind: TONES.get(kind, "other") for kind in dict.fromkeys(str(row["what"]) for row in rows)},
        "hover": ["stage", "microbatch", "chunk", "start_s", "time_s"],
        "rows": "stage",
    }
    sections = [Section("Pipeline", lead, rows, chart, "simulated; times modelled", folded=True)]
    if whole:
        sections.append(_idle(timeline, rows))
    return tuple(sections)


def _row(span: TimelineSpan) -> Row | None:
    """A pass, an exchange, or what is done once per step; None for waits and messages."""
    if span.track == PASSES:
        what = span.name
    elif span.track == "dp":
        what = _EXCHANGE
    elif span.track == "compute" and span.microbatch is None:
        what = _ONCE
    else:
        return None
    return {
        "stage": span.stage,
        "what": what,
        "microbatch": span.microbatch,
        "chunk": span.chunk,
        "start_s": span.start_s,
        "end_s": span.end_s,
        "time_s": span.end_s - span.start_s,
    }


def _idle(timeline: Timeline, rows: list[Row]) -> Section:
    busy: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        if row["what"] != _EXCHANGE:
            busy[row["stage"]][row["what"]] += row["time_s"]
    kinds = list(dict.fromkeys(kind for parts in busy.values() for kind in parts))
    total = timeline.iteration_time_s
    table: list[Row] = []
    for stage, parts in sorted(busy.items()):
        idle = max(0.0, total - sum(parts.values()))
        table.append(
            {"stage": stage, **{f"{k}_s": parts.get(k, 0.0) for k in kinds}, "idle_s": idle, "idle_share": idle / total}
        )
    longest = max(table, key=lambda row: float(row["idle_s"]))
    return Section(
        "Busy and idle time of each stage",
        f"Stage {longest['stage']} is idle longest: {longest['idle_share']:.1%} of the step. Idle time is the bubble, "
        "messages between stages, and what of the gradient exchange nothing hides.",
        table,
        {
            "draw": "bars",
            "category": "stage",
            "values": [*(f"{kind}_s" for kind in kinds), "idle_s"],
            "stacked": True,
            "tones": {**{f"{kind}_s": TONES.get(kind, "other") for kind in kinds}, "idle_s": "idle"},
            "hover": ["idle_share"],
        },
        "simulated; times modelled",
        folded=True,
    )
