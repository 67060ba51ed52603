"""A captured step beside the simulated one: in all, layer by layer, and operator by operator."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from vtrain_schemas.operators import Operator
from vtrain_schemas.words import TRACES
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.measured import MeasuredOperators, canonical, load_operators
from vtrain_sim.errors import UserError
from vtrain_sim.model import Compute, build_step, layers_of
from vtrain_sim.simulate.estimates import EstimatedProgram
from vtrain_sim.simulate.evaluation import LAYER_KINDS
from vtrain_sim.simulate.projection import WAITING, Projection, Projector
from vtrain_sim.specs import Configuration

SCHEMA = "vtrain.comparison/1"
OTHER = "other"
_COMMUNICATES = " communication"
_FORWARD, _BACKWARD, _ONCE = "forward", "backward", "once a step"


@dataclass(frozen=True)
class PartRow:
    """One part of the model in one direction: seconds of a step on a rank that holds it. None: not there."""

    part: str
    direction: str
    captured_s: float | None
    simulated_s: float | None


@dataclass(frozen=True)
class OperatorRow:
    """One operator at one shape: calls of a step on one rank, and the mean time of a call."""

    operator: Operator
    captured_calls: float
    simulated_calls: float
    captured_s: float | None
    simulated_s: float | None
    provenance: str


@dataclass(frozen=True)
class Comparison:
    """One run compared. captured_step_s: middle over the steps of the slowest rank's time."""

    run_id: str
    steps: int
    ranks: int
    captured_step_s: float
    projection: Projection
    parts: tuple[PartRow, ...]
    operators: tuple[OperatorRow, ...]
    remarks: tuple[str, ...]

    @property
    def error(self) -> float:
        """Simulated over captured, less one."""
        return self.projection.iteration_time_s / self.captured_step_s - 1

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable result."""
        return {
            "schema": SCHEMA,
            "run": self.run_id,
            "steps": self.steps,
            "ranks": self.ranks,
            "captured_step_s": self.captured_step_s,
            "iteration_time_s": self.projection.iteration_time_s,
            "iteration_time_low_s": self.projection.iteration_time_low_s,
            "iteration_time_high_s": self.projection.iteration_time_high_s,
            "error": self.error,
            "parts": [vars(p) for p in self.parts],
            "operators": [{**vars(o), "operator": vars(o.operator)} for o in self.operators],
            "remarks": list(self.remarks),
        }


def compare(catalog: Catalog, run_id: str, projector: Projector, configuration: Configuration) -> Comparison:
    """Simulate a run's configuration and put it beside what was captured. Raises `UserError`."""
    projection = projector.project(configuration)
    with catalog.reading() as connection:
        source = _source(connection, run_id)
        step_s, steps, ranks = _captured_step(connection, run_id, source)
        captured = _captured_parts(connection, run_id, source)
        measured = load_operators(connection, [run_id])
        calls = _captured_calls(connection, run_id, source, steps * ranks)
    simulated = _simulated_parts(projector, configuration, projection.iteration_time_s)
    # A trace that marks no layers has its compute in one heap: so has then the simulation.
    if source in TRACES and not any(part.startswith("layer ") for part, _ in captured):
        simulated = _heaped(simulated)
        captured = _heaped(captured)
    if all(role == "world" for role in _roles(captured)):
        # The trace does not tell its groups apart.
        captured, simulated = _one_communication(captured), _one_communication(simulated)
    parts = tuple(
        PartRow(part, direction, captured.get((part, direction)), simulated.get((part, direction)))
        for part, direction in sorted(captured.keys() | simulated.keys(), key=_place)
    )
    operators, unmatched = _operators(projector, configuration, measured, calls)
    remarks = _remarks(source, configuration, ranks, unmatched, measured)
    return Comparison(run_id, steps, ranks, step_s, projection, parts, operators, remarks)


def _source(connection: duckdb.DuckDBPyConnection, run_id: str) -> str:
    rows = connection.execute("SELECT source FROM runs WHERE run_id = ?", [run_id]).fetchall()
    if not rows:
        raise UserError(f"there is no run {run_id!r} in the catalog")
    return str(rows[0][0])


def _captured_step(connection: duckdb.DuckDBPyConnection, run_id: str, source: str) -> tuple[float, int, int]:
    # A profiler marks steps on the host, which runs ahead of the device: from end to end they are as long.
    time = "coalesce(interval_ns, duration_ns)" if source in TRACES else "duration_ns"
    found = connection.execute(
        f"""
        SELECT median(ns) / 1e9, count(*), max(ranks)
        FROM (SELECT max({time}) AS ns, count(DISTINCT rank) AS ranks FROM steps WHERE run_id = ? GROUP BY step)
        """,
        [run_id],
    ).fetchall()[0]
    if not found[0]:
        raise UserError(f"run {run_id!r} has no steps: there is nothing to compare with")
    return float(found[0]), int(found[1]), int(found[2])


_PLACES = """
    CASE WHEN layer_number IS NOT NULL THEN 'layer ' || layer_number
         WHEN kind = 'embedding' THEN 'embedding'
         WHEN kind IN ('output_layer', 'loss', 'norm', 'linear') THEN 'head'
         WHEN kind IN ('optimizer', 'zero_grad', 'grad_sync', 'param_sync') THEN 'optimizer'
         ELSE 'other' END
"""
_DIRECTIONS = """
    CASE WHEN phase = 'update' THEN 'once a step' WHEN phase = 'forward' THEN 'forward' ELSE 'backward' END
"""
_OF_SPANS = f"""
    SELECT rank, step, {_PLACES} AS part, {_DIRECTIONS} AS direction, self_ns
    FROM spans WHERE run_id = $run
"""
# Operators carry the device's time; a backward one belongs where its forward operator does.
_OF_OPERATORS = f"""
    WITH placed AS (
        SELECT rank, span_id, any_value(kind) AS kind, {_PLACES} AS part FROM spans WHERE run_id = $run
        GROUP BY rank, span_id, layer_number, kind
    ),
    called AS (
        SELECT o.rank, o.step, o.phase, o.self_ns, o.sequence_number, coalesce(p.part, 'other') AS part
        FROM operators o LEFT JOIN placed p USING (rank, span_id)
        WHERE o.run_id = $run AND o.kind <> 'communication'
    ),
    forward AS (
        -- Without gradients autograd does not count on: a number that several layers share says nothing.
        SELECT rank, sequence_number, min(part) AS part FROM called
        WHERE phase IN ('forward', 'recompute') AND sequence_number IS NOT NULL AND part <> 'other'
        GROUP BY ALL HAVING min(part) = max(part)
    )
    SELECT c.rank, c.step, CASE WHEN c.part = 'other' THEN coalesce(f.part, c.part) ELSE c.part END AS part,
           {_DIRECTIONS} AS direction, c.self_ns
    FROM called c LEFT JOIN forward f
        ON f.rank = c.rank AND f.sequence_number = c.sequence_number AND c.phase <> 'forward'
"""
_COMMUNICATION = """
    SELECT role, avg(ns) / 1e9 FROM (
        SELECT role, rank,
               sum(exposed_ns) / (SELECT count(DISTINCT step) FROM steps WHERE run_id = $run AND step >= 0) AS ns
        FROM collectives
        WHERE run_id = $run AND source = $source AND step >= 0
        GROUP BY role, rank
    ) GROUP BY role
"""


def _captured_parts(connection: duckdb.DuckDBPyConnection, run_id: str, source: str) -> dict[tuple[str, str], float]:
    """Seconds of a step by part and direction, on the mean of the ranks that have it."""
    inner = _OF_OPERATORS if source in TRACES else _OF_SPANS
    rows = connection.execute(
        f"""
        SELECT part, direction, avg(ns) / 1e9 FROM (
            SELECT part, direction, rank, sum(self_ns) / count(DISTINCT step) AS ns
            FROM ({inner}) WHERE step >= 0 GROUP BY ALL
        ) GROUP BY part, direction
        """,
        {"run": run_id},
    ).fetchall()
    found = {(str(part), str(direction)): float(seconds) for part, direction, seconds in rows}
    for (part, direction), seconds in list(found.items()):
        # Work outside the layers that is neither: the host's own, counted once.
        if part == OTHER:
            del found[part, direction]
            found[OTHER, ""] = found.get((OTHER, ""), 0.0) + seconds
        if part == "optimizer" and direction != _ONCE:
            del found[part, direction]
            found[part, _ONCE] = found.get((part, _ONCE), 0.0) + seconds
    recorded_by = source if source in TRACES else "hook"
    for role, seconds in connection.execute(_COMMUNICATION, {"run": run_id, "source": recorded_by}).fetchall():
        name = WAITING if role == "pp" else f"{role}{_COMMUNICATES}"
        if seconds:
            found[name, ""] = float(seconds)
    return found


def _simulated_parts(
    projector: Projector, configuration: Configuration, iteration_s: float
) -> dict[tuple[str, str], float]:
    """Seconds of a step by part and direction; what the slowest stage leaves to the others is the bubble."""
    evaluator, pp, vpp = projector.evaluator, configuration.parallel.pp, configuration.parallel.vpp
    parts, count = evaluator.parts(configuration), configuration.num_microbatches
    found: dict[tuple[str, str], float] = {}

    def add(name: str, program: EstimatedProgram) -> None:
        for direction, tallies in ((_FORWARD, (program.forward,)), (_BACKWARD, (program.backward, program.weight))):
            compute = sum(t.category.get(c, 0.0) for t in tallies for c in ("forward", "backward", "recompute"))
            found[name, direction] = compute * count

    number = 0
    for slot in range(pp * vpp):
        for kind in layers_of(configuration, slot):
            number += 1
            program = parts.layers[LAYER_KINDS.index(kind)]
            if program is not None:
                add(f"layer {number}", program)
    add("embedding", parts.embedding)
    add("head", parts.head)
    own = sum(t.seconds for t in (parts.microbatch.forward, parts.microbatch.backward, parts.microbatch.weight))
    totals: dict[str, float] = defaultdict(float)
    for stage in range(pp):
        tally = projector.stage_tally(configuration, stage)
        for category, seconds in tally.category.items():
            totals[category] += seconds / pp
        totals[WAITING] += max(0.0, iteration_s - tally.seconds) / pp
    found["optimizer", _ONCE] = totals.pop("optimizer", 0.0)
    found[OTHER, ""] = own * count * vpp + totals.pop("step overhead", 0.0)
    for category, seconds in totals.items():
        if category == WAITING or category.endswith(_COMMUNICATES):
            found[category, ""] = found.get((category, ""), 0.0) + seconds
    return {key: seconds for key, seconds in found.items() if seconds > 0}


def _heaped(parts: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """All layers, embedding, head and the rest as one part; what happens once a step, and communication, apart."""
    found: dict[tuple[str, str], float] = {}
    for (part, direction), seconds in parts.items():
        kept = direction == _ONCE or part.endswith(_COMMUNICATES) or part == WAITING
        key = (part, direction) if kept else ("all layers", "")
        found[key] = found.get(key, 0.0) + seconds
    return found


def _roles(parts: dict[tuple[str, str], float]) -> list[str]:
    return [part.removesuffix(_COMMUNICATES) for part, _ in parts if part.endswith(_COMMUNICATES)]


def _one_communication(parts: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """The communication of all roles together."""
    found: dict[tuple[str, str], float] = {}
    for (part, direction), seconds in parts.items():
        key = ("communication", "") if part.endswith(_COMMUNICATES) else (part, direction)
        found[key] = found.get(key, 0.0) + seconds
    return found


def _place(key: tuple[str, str]) -> tuple[int, int, str, str]:
    part, direction = key
    order = {"embedding": 0, "all layers": 1, "head": 2, "optimizer": 3, OTHER: 5}
    if part.startswith("layer "):
        return 1, int(part.split()[1]), part, (direction != _FORWARD and "b") or "a"
    return order.get(part, 4), 0, part, (direction != _FORWARD and "b") or "a"


def _captured_calls(
    connection: duckdb.DuckDBPyConnection, run_id: str, source: str, rank_steps: int
) -> dict[Any, float]:
    """Calls of each shape in a step of a rank, by identity."""
    rows = connection.execute(
        """
        SELECT kind, phase, coalesce(m, 0), coalesce(n, 0), coalesce(k, 0), coalesce(batch, 1), coalesce(seq_q, 0),
               coalesce(seq_kv, 0), coalesce(heads, 0), coalesce(kv_heads, 0), coalesce(head_dim, 0),
               coalesce(dtype, ''), coalesce(fused, ''), count(*)
        FROM operators WHERE run_id = ? AND source = ? AND flops IS NOT NULL AND step >= 0
        GROUP BY ALL
        """,
        [run_id, source if source in TRACES else "module"],
    ).fetchall()
    found: dict[Any, float] = defaultdict(float)
    for *shape, count in rows:
        found[canonical(Operator(*shape))] += count / rank_steps
    return found


def _operators(
    projector: Projector, configuration: Configuration, measured: MeasuredOperators, calls: dict[Any, float]
) -> tuple[tuple[OperatorRow, ...], list[tuple[Operator, float]]]:
    """Operators of the program beside those captured; and the captured ones that the program has not."""
    counts: dict[Any, tuple[Operator, float]] = {}
    for operator, count in _program_calls(configuration):
        key = canonical(operator)
        counts[key] = (operator, counts.get(key, (operator, 0.0))[1] + count)
    rows, used = [], set()
    for key, (operator, count) in counts.items():
        estimate = projector.evaluator.estimator.operators.estimate(operator)
        halves = (
            [replace(operator, phase=phase) for phase in ("dgrad", "wgrad")] if operator.phase == "backward" else []
        )
        found = measured.get(operator)
        seconds, seen = (found.seconds, calls.get(key, 0.0)) if found is not None else (None, 0.0)
        used.add(key)
        parts = [measured.get(h) for h in halves]
        if found is None and halves and all(p is not None for p in parts):
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
        for item in (*stage.before, *stage.update):
            if isinstance(item, Compute):
                yield item.operator, share
        for chunk in stage.chunks:
            for program, count in chunk:
                for item in (*program.forward, *program.backward, *program.weight):
                    if isinstance(item, Compute):
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
            f"{len(unmatched)} captured shapes ({time:.3g} s a step) are not in the simulated step, for example "
            f"{listed}"
        )
    return tuple(remarks)


def typical_error(rows: Iterable[PartRow]) -> float | None:
    """Middle of |simulated / captured - 1| over the parts that have both."""
    errors = [abs(r.simulated_s / r.captured_s - 1) for r in rows if r.captured_s and r.simulated_s]
    return statistics.median(errors) if errors else None
