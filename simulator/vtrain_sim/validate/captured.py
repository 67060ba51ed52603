"""A captured step beside the simulated one: in all, layer by layer, and operator by operator."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from vtrain_schemas.operators import Operator
from vtrain_schemas.words import TRACES
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.capture_cost import capture_cost
from vtrain_sim.costs.measured import MeasuredOperators, canonical, load_operators
from vtrain_sim.model import build_step, operators_of
from vtrain_sim.model.chunks import contents_of
from vtrain_sim.simulate.cost_model import TimedProgram
from vtrain_sim.simulate.passes import compute_seconds
from vtrain_sim.simulate.projection import WAITING, Projector
from vtrain_sim.specs import Configuration
from vtrain_sim.validate.captured_step import (
    BACKWARD,
    COMMUNICATES,
    FORWARD,
    ONCE,
    OTHER,
    Calls,
    Identity,
    Parts,
    captured_calls,
    captured_parts,
    captured_step,
    source_of,
)
from vtrain_sim.validate.comparison import Comparison, OperatorRow, PartRow


def compare(catalog: Catalog, run_id: str, projector: Projector, configuration: Configuration) -> Comparison:
    """Simulate a run's configuration and put it beside what was captured. Raises `UserError`."""
    projection = projector.project(configuration)
    with catalog.reading() as connection:
        source = source_of(connection, run_id)
        step_s, steps, ranks = captured_step(connection, run_id, source)
        cost_s = capture_cost(connection, run_id).step_s
        captured = captured_parts(connection, run_id, source)
        measured = load_operators(connection, [run_id])
        calls = captured_calls(connection, run_id, source, steps * ranks)
    simulated = _simulated_parts(projector, configuration, projection.iteration_time_s)
    # A trace that marks no layers has the compute of all of them together: then so has the simulation.
    if source in TRACES and not any(part.startswith("layer ") for part, _ in captured):
        simulated = _all_layers_together(simulated)
        captured = _all_layers_together(captured)
    if all(role == "world" for role in _roles(captured)):
        # The trace does not tell its groups apart.
        captured, simulated = _one_communication(captured), _one_communication(simulated)
    parts = tuple(
        PartRow(part, direction, captured.get((part, direction)), simulated.get((part, direction)))
        for part, direction in sorted(captured.keys() | simulated.keys(), key=_place)
    )
    operators, unmatched = _operators(projector, configuration, measured, calls)
    remarks = _remarks(source, configuration, ranks, unmatched, measured)
    if cost_s > 0:
        share = cost_s / step_s
        remarks += (f"the capture itself takes {cost_s:.3g} s of a step ({share:.1%}): taken off all but the parts",)
    return Comparison(run_id, steps, ranks, step_s - cost_s, projection, parts, operators, remarks)


def _simulated_parts(projector: Projector, configuration: Configuration, iteration_s: float) -> Parts:
    """Seconds of a step by part and direction; what the slowest stage leaves to the others is the bubble."""
    pp, count = configuration.parallel.pp, configuration.num_microbatches
    contents, timer = contents_of(configuration.pipeline), projector.evaluator.layouts(configuration).timer
    parts: Parts = {}

    def add(name: str, program: TimedProgram) -> None:
        parts[name, FORWARD] = compute_seconds(program.forward) * count
        parts[name, BACKWARD] = (compute_seconds(program.backward) + compute_seconds(program.weight)) * count

    number, bookkeeping_s = 0, 0.0
    for virtual_stage in range(contents.placement.virtual_stages):
        chunk = contents.of_place(contents.placement.places_of(virtual_stage)[0])
        for program, repeats in timer.runs(chunk):
            part = program.program.name
            if part.startswith("layer"):
                for _ in range(repeats):
                    number += 1
                    add(f"layer {number}", program)
            elif part in ("embedding", "head"):
                add(part, program)
            else:
                bookkeeping_s += compute_seconds(program.forward) + compute_seconds(program.backward)
    totals: dict[str, float] = defaultdict(float)
    for stage in range(pp):
        tally = projector.stage_tally(configuration, stage)
        for category, seconds in tally.category.items():
            totals[category] += seconds / pp
        totals[WAITING] += max(0.0, iteration_s - tally.seconds) / pp
    parts["optimizer", ONCE] = totals.pop("optimizer", 0.0)
    parts[OTHER, ""] = bookkeeping_s / pp * count + totals.pop("step overhead", 0.0)
    for category, seconds in totals.items():
        if category == WAITING or category.endswith(COMMUNICATES):
            parts[category, ""] = parts.get((category, ""), 0.0) + seconds
    return {key: seconds for key, seconds in parts.items() if seconds > 0}


def _all_layers_together(parts: Parts) -> Parts:
    """All layers, embedding, head and the rest as one part; what happens once per step, and communication, apart."""
    together: Parts = {}
    for (part, direction), seconds in parts.items():
        apart = direction == ONCE or part.endswith(COMMUNICATES) or part == WAITING
        key = (part, direction) if apart else ("all layers", "")
        together[key] = together.get(key, 0.0) + seconds
    return together


def _roles(parts: Parts) -> list[str]:
    return [part.removesuffix(COMMUNICATES) for part, _ in parts if part.endswith(COMMUNICATES)]


def _one_communication(parts: Parts) -> Parts:
    """The communication of all roles together."""
    together: Parts = {}
    for (part, direction), seconds in parts.items():
        key = ("communication", "") if part.endswith(COMMUNICATES) else (part, direction)
        together[key] = together.get(key, 0.0) + seconds
    return together


def _place(key: tuple[str, str]) -> tuple[int, int, str, int]:
    part, direction = key
    order = {"embedding": 0, "all layers": 1, "head": 2, "optimizer": 3, OTHER: 5}
    if part.startswith("layer "):
        return 1, int(part.split()[1]), part, int(direction != FORWARD)
    return order.get(part, 4), 0, part, int(direction != FORWARD)


def _operators(
    projector: Projector, configuration: Configuration, measured: MeasuredOperators, calls: Calls
) -> tuple[tuple[OperatorRow, ...], list[tuple[Operator, float]]]:
    """Operators of the program beside those captured; and the captured ones that the program has not."""
    counts: dict[Identity, tuple[Operator, float]] = {}
    for operator, count in _program_calls(configuration):
        key = canonical(operator)
        counts[key] = (operator, counts.get(key, (operator, 0.0))[1] + count)
    rows, used = [], set()
    for key, (operator, count) in counts.items():
        estimate = projector.evaluator.operators.estimate(operator)
        halves = (
            [replace(operator, phase=phase) for phase in ("dgrad", "wgrad")] if operator.phase == "backward" else []
        )
        measurement = measured.get(operator)
        seconds, seen = (measurement.seconds, calls.get(key, 0.0)) if measurement is not None else (None, 0.0)
        used.add(key)
        parts = [measured.get(h) for h in halves]
        if measurement is None and halves and all(p is not None for p in parts):
            seconds = sum(p.seconds for p in parts if p is not None)
            seen = min(calls.get(canonical(h), 0.0) for h in halves)
            used.update(canonical(h) for h in halves)
        rows.append(OperatorRow(operator, seen, count, seconds, estimate.seconds, estimate.provenance))
    rows.sort(key=lambda r: -(r.simulated_calls * (r.simulated_s or 0.0)))
    unmatched = [(o, m.seconds * calls.get(canonical(o), 0.0)) for o, m in measured if canonical(o) not in used]
    return tuple(rows), sorted(unmatched, key=lambda u: -u[1])


def _program_calls(configuration: Configuration) -> Iterable[tuple[Operator, float]]:
    """Operators of a step on a rank, the mean over the stages."""
    step = build_step(configuration)
    for stage in step.stages:
        share = 1.0 / len(step.stages)
        for item in operators_of((*stage.before, *stage.update)):
            yield item.operator, share
        for chunk in stage.chunks:
            for program, count in chunk:
                for item in operators_of((*program.forward, *program.backward, *program.weight)):
                    yield item.operator, share * count * configuration.num_microbatches


def _remarks(
    source: str,
    configuration: Configuration,
    ranks: int,
    unmatched: list[tuple[Operator, float]],
    measured: MeasuredOperators,
) -> tuple[str, ...]:
    remarks = []
    world = configuration.parallel.world_size
    if ranks < world:
        remarks.append(f"{ranks} of {world} ranks were captured: the slowest may not be among them")
    if world > 1:
        remarks.append(
            "captured communication includes waiting for slower ranks, which the simulation has in the bubble"
        )
    if source in TRACES:
        remarks.append("captured compute is the device's time where there is one, without gaps between kernels")
    types = {o.dtype for o, _ in measured if o.kind == "gemm"}
    if types and configuration.train.params_dtype not in types and not configuration.train.fp8:
        remarks.append(
            f"captured products are in {', '.join(sorted(types))}, simulated ones in "
            f"{configuration.train.params_dtype}: say the type that was run (--bf16, --fp16 or --fp32)"
        )
    time = sum(seconds for _, seconds in unmatched)
    if unmatched and time > 0:
        listed = ", ".join(f"{o.kind}/{o.phase} " + "x".join(str(d) for d in o.dims if d > 1) for o, _ in unmatched[:3])
        remarks.append(
            f"{len(unmatched)} captured shapes ({time:.3g} s per step) are not in the simulated step, for example "
            f"{listed}"
        )
    return tuple(remarks)


def typical_error(rows: Iterable[PartRow]) -> float | None:
    """Median of |simulated / captured - 1| over the parts that have both."""
    errors = [abs(r.simulated_s / r.captured_s - 1) for r in rows if r.captured_s and r.simulated_s]
    return statistics.median(errors) if errors else None
