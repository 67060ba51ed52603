"""Operator times from a catalog, by kind, phase, type and shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vtrain_schemas.operators import Operator, UnknownKindError, kind
from vtrain_schemas.operators.columns import READ_CAUSAL, READ_FUSED
from vtrain_schemas.words import TRACES
from vtrain_sim.costs.capture_cost import MOST_OF_OPERATOR, capture_cost
from vtrain_sim.errors import UserError

if TYPE_CHECKING:
    import duckdb

# The recomputed forward pass costs what the forward pass costs.
_SAME_AS = {"recompute": "forward"}


class Group(NamedTuple):
    """Operators that differ in nothing but their sizes: their times follow one curve."""

    kind: str
    phase: str
    dtype: str
    fused: bool
    causal: bool


def group(operator: Operator) -> Group:
    """The group of an operator."""
    phase = _SAME_AS.get(operator.phase, operator.phase)
    return Group(operator.kind, phase, operator.dtype, operator.fused, operator.causal)


def canonical(operator: Operator) -> tuple[Group, tuple[int, ...]]:
    """The identity under which times are looked up."""
    return group(operator), operator.dims


@dataclass(frozen=True)
class Measurement:
    """Duration of one operator at one shape: typical value and spread over calls.

    error: relative standard error that all calls share, which more of them do not lower.
    """

    seconds: float
    spread: float
    calls: int
    error: float = 0.0


class MeasuredOperators:
    """A look-up of measured operators."""

    def __init__(self, entries: Iterable[tuple[Operator, Measurement]] = ()) -> None:
        self._entries: dict[tuple[Group, tuple[int, ...]], tuple[Operator, Measurement]] = {}
        for operator, measurement in entries:
            key = canonical(operator)
            before = self._entries.get(key)
            # The forward pass proper says more of itself than its recomputation does.
            if before is None or before[0].phase == "recompute" or operator.phase != "recompute":
                self._entries[key] = (operator, measurement)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[Operator, Measurement]]:
        return iter(self._entries.values())

    def get(self, operator: Operator) -> Measurement | None:
        """The measurement at exactly this kind, phase, type and shape."""
        entry = self._entries.get(canonical(operator))
        return entry[1] if entry is not None else None

    def merged(self, other: MeasuredOperators) -> MeasuredOperators:
        """These, and where they have nothing the other's."""
        return MeasuredOperators([*other, *self])


_DIMENSIONS = "m, n, k, batch, seq_q, seq_kv, heads, kv_heads, head_dim"
_QUERY = f"""
    WITH called AS (
        SELECT kind, phase, coalesce(dtype, '') AS dtype, {READ_FUSED} AS is_fused, {READ_CAUSAL} AS is_causal,
               coalesce(m, 0) AS m, coalesce(n, 0) AS n, coalesce(k, 0) AS k,
               coalesce(batch, 1) AS batch, coalesce(seq_q, 0) AS seq_q,
               coalesce(seq_kv, 0) AS seq_kv, coalesce(heads, 0) AS heads,
               coalesce(kv_heads, 0) AS kv_heads, coalesce(head_dim, 0) AS head_dim, source = 'module' AS of_capture,
               coalesce(host_bound, false) AS host_bound,
               -- Less what its span costs the capture, which is not all of it (`MOST_OF_OPERATOR`).
               CASE WHEN source = 'module'
                    THEN greatest(duration_ns - $costs[list_position($runs, run_id)], (1 - $most) * duration_ns)
                    ELSE duration_ns END AS duration_ns
        FROM operators
        WHERE list_contains($runs, run_id) AND kind <> 'other' AND name NOT LIKE 'reference%'
          -- Communication inside is another operator of the program.
          AND communication_role IS NULL
          AND (source = 'module'
               -- The time of a microbenchmark that waited for the host is not the device's.
               OR (source = 'microbench' AND NOT coalesce(host_bound, false))
               -- Of an imported trace, what says its shape; batched products are part of something else.
               OR (run_id IN (SELECT run_id FROM runs WHERE list_contains($traces, source))
                   AND flops IS NOT NULL AND (kind <> 'gemm' OR batch = 1)))
    ),
    -- Calls during which the device waited for launches count only where a shape has no others.
    of_device AS (
        SELECT * FROM called
        WINDOW shape AS (PARTITION BY kind, phase, dtype, is_fused, is_causal, {_DIMENSIONS})
        QUALIFY NOT host_bound OR bool_and(host_bound) OVER shape
    ),
    ranked AS (
        SELECT *,
               quantile_disc(duration_ns, 0.1) OVER shape AS low,
               quantile_disc(duration_ns, 0.9) OVER shape AS high
        FROM of_device
        WINDOW shape AS (PARTITION BY kind, phase, dtype, is_fused, is_causal, {_DIMENSIONS})
    )
    SELECT kind, phase, {_DIMENSIONS}, dtype, is_fused, is_causal,
           avg(duration_ns) FILTER (duration_ns BETWEEN low AND high),
           stddev_pop(duration_ns) FILTER (duration_ns BETWEEN low AND high), count(*), bool_or(of_capture)
    FROM ranked
    GROUP BY kind, phase, {_DIMENSIONS}, dtype, is_fused, is_causal
    ORDER BY ALL
"""


def load_operators(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> MeasuredOperators:
    """All operator times of the given runs: of modules, of microbenchmarks, and those with shapes of traces.

    A shape's time is the mean of the middle of its calls (first to ninth decile): a step is the sum
    of its operators, so a mean is needed, and a rare interruption must not count. What a capture itself costs is taken
    off. Raises `UserError` for a kind of operator that is not known here.
    """
    costs = [capture_cost(connection, run_id) for run_id in run_ids]
    error_ns = max((cost.error for cost in costs), default=0.0) * 1e9
    values = {"runs": run_ids, "traces": list(TRACES), "most": MOST_OF_OPERATOR}
    rows = connection.execute(_QUERY, {**values, "costs": [cost.seconds * 1e9 for cost in costs]}).fetchall()
    entries = []
    for *identity, mean, deviation, calls, of_capture in rows:
        if mean is None or mean <= 0:
            continue
        operator = Operator(*identity)
        try:
            kind(operator.kind)
        except UnknownKindError as error:
            raise UserError(f"the runs {', '.join(run_ids)} have operators of an {error}") from None
        shared = error_ns / mean if of_capture else 0.0
        entries.append((operator, Measurement(mean / 1e9, (deviation or 0.0) / mean, calls, shared)))
    return MeasuredOperators(entries)
