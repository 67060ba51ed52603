"""A captured run: its steps, its layers, and its communication."""

from __future__ import annotations

from vtrain_sim.catalog.results import RunDetail, RunProfile
from vtrain_sim.catalog.spread import MOST_ROWS, device_spread, step_spread
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.page.parts.bandwidth import bandwidth_section
from vtrain_sim.report.run_words import configuration
from vtrain_sim.report.tables import counted, duration, gib
from vtrain_sim.results import Row

_MEASURED = "measured"
_PHASES = ("forward", "backward", "recompute")


@pages.register(RunDetail)
def page_of_run(result: RunDetail) -> Page:
    """The run's figures, its steps with their memory, and the tables of the catalog."""
    run, steps = result.summary(), result.rows()
    longest = max((step["duration_ns"] for step in steps), default=None)
    peak = max((step["peak_allocated_bytes"] or 0 for step in steps), default=0)
    figures = [Figure("GPUs", f"{run.get('world_size') or '-'}", str(run.get("device_name") or ""))]
    if longest is not None:
        figures.append(Figure("Captured", counted(len({step["step"] for step in steps}), "steps"), _ranks(result)))
        figures.append(Figure("Longest step", duration(longest / 1e9), "of any rank; measured"))
    if peak:
        figures.append(Figure("Peak memory", gib(peak), "in use, of any rank; measured"))
    sections = (*_steps(steps), *_device(result))
    appendix = (
        Section("Configuration", "As the run recorded it.", _configuration(result), folded=True),
        Section("Tables", "Files of the profile.", result.tables().get("tables", []), folded=True),
    )
    problems = tuple(f"Problem: {problem.what}" for problem in result.detail["problems"])
    return Page("captured run", f"Run {result.run_id}", _layout(run), tuple(figures), sections, problems, appendix)


def _ranks(result: RunDetail) -> str:
    return f"on {counted(len({step['rank'] for step in result.rows()}), 'ranks')}; {result.summary().get('source', '')}"


def _layout(run: dict[str, object]) -> str:
    names = {
        "tp": "tensor_model_parallel_size",
        "pp": "pipeline_model_parallel_size",
        "dp": "data_parallel_size",
        "micro batch": "micro_batch_size",
        "global batch": "global_batch_size",
        "layers": "num_layers",
        "hidden size": "hidden_size",
    }
    return ", ".join(f"{short} {run[name]}" for short, name in names.items() if run.get(name))


def _configuration(result: RunDetail) -> list[Row]:
    return [{"argument": name, "value": str(value)} for name, value in configuration(result.summary()).items()]


def _steps(steps: list[Row]) -> list[Section]:
    if not steps:
        return []
    if len(steps) > MOST_ROWS:
        lead = "Duration of each step over the ranks: of many steps, all together and the longest."
        chart = {"draw": "bars", "category": "step", "values": ["longest_ns", "p90_ns", "median_ns"], "choose": True}
        return [Section("Steps", lead, step_spread(steps), chart, _MEASURED, folded=True)]
    kept = ("rank", "step", "duration_ns", "num_microbatches", "tokens", "peak_allocated_bytes", "peak_reserved_bytes")
    rows = [
        {"step and rank": f"step {row['step']}, rank {row['rank']}", **{k: row.get(k) for k in kept}} for row in steps
    ]
    values = [
        name for name in ("duration_ns", "peak_allocated_bytes", "peak_reserved_bytes") if any(r[name] for r in rows)
    ]
    chart = {"draw": "bars", "category": "step and rank", "values": values, "choose": True}
    return [
        Section("Steps", "Duration and peak memory of each step on each rank.", rows, chart, _MEASURED, folded=True)
    ]


def _device(result: RunDetail) -> list[Section]:
    rows = [row for row in result.detail["gpu"] if row.get("window_ns")]
    if not rows:
        return []
    several = len({row["rank"] for row in rows}) < len(rows)
    if several:
        rows = [{"rank and device": f"rank {row['rank']}, device {row['device']}", **row} for row in rows]
    if len(rows) > MOST_ROWS:
        lead = "Parts of the devices' time: the least, the median, the ninth decile and the most of them."
        chart = {"draw": "bars", "category": "part", "values": ["median_ns", "most_ns", "p90_ns"], "choose": True}
        return [Section("Time on the device", lead, device_spread(rows), chart, _MEASURED, folded=True)]
    parts = ("compute_ns", "exposed_communication_ns", "exposed_memory_ns", "idle_ns")
    chart = {
        "draw": "bars",
        "category": "rank and device" if several else "rank",
        "values": list(parts),
        "stacked": True,
        "tones": dict(zip(parts, ("forward", "communication", "host", "idle"), strict=True)),
    }
    lead = "Each rank's device time: compute, communication and copies that nothing hides, and idle time."
    return [Section("Time on the device", lead, rows, chart, _MEASURED, folded=True)]


@pages.register(RunProfile)
def page_of_profile(result: RunProfile) -> Page:
    """Time of each layer, and the rates that collectives reach."""
    return Page("captured run", result.run_id, sections=(*_layers(result), *_collectives(result)))


def _layers(result: RunProfile) -> list[Section]:
    if not result.layers:
        return []
    phases = [phase for phase in _PHASES if any(row.get(f"{phase}_ns") for row in result.layers)]
    chart = {
        "draw": "bars",
        "category": "layer",
        "values": [f"{phase}_ns" for phase in phases],
        "stacked": True,
        "tones": {f"{phase}_ns": phase for phase in _PHASES},
    }
    lead = f"Median time of one microbatch in each of {counted(len(result.layers), 'layers')}, by direction."
    return [Section("Time of each layer", lead, result.layers, chart, _MEASURED, folded=True)]


def _collectives(result: RunProfile) -> list[Section]:
    if not result.collectives:
        return []
    lead = (
        f"Bus bandwidth by payload, waiting for slower ranks left out. The lines are one fit to all: latency "
        f"{duration(result.latency_s)} and {result.bandwidth / 1e9:,.3g} GB/s."
    )
    return [bandwidth_section(result.collectives, lead)]
