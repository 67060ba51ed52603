"""The SQL views: queries that everybody needs, with a comment on each view and each column.

A view is a file in ``views/``: comment lines say what a row is, ``-- @column NAME: TEXT`` lines
say what each column is, and the query follows. The comments become DuckDB comments and the
reference documentation. Words in braces stand for what is defined elsewhere: ``{matrix_products}`` lists the operator
kinds that are matrix products, ``{traces}`` the sources of runs that are traces of other profilers, ``{kernel_name}``
is a kernel's name without its arguments, ``{bus_factor}`` the bus factor of ``op`` in a group of ``group_size`` ranks,
``{two_runs: KEYS}`` the comparison of runs by these columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from vtrain_schemas.operators import kinds
from vtrain_schemas.words import ONE_PASS, RING_PASSES, TRACES

# A view may use the ones before it.
VIEW_ORDER = (
    "collective_transfers",
    "exposed_communication",
    "step_breakdown",
    "layer_summary",
    "operator_times",
    "operator_roofline",
    "pipeline_bubble",
    "run_comparison",
    "operator_comparison",
    "kernel_comparison",
    "gpu_windows",
    "gpu_breakdown",
    "gpu_step_breakdown",
    "kernel_times",
    "kernel_sequences",
    "gpu_gaps",
    "launches",
    "launch_summary",
    "memory_timeline",
    "collective_bandwidth",
    "collective_delays",
    "stragglers",
)

# SQL over the kernels table: a kernel's name without template and call arguments; copies and fills have none.
KERNEL_NAME = """CASE WHEN kind = 'memory' THEN name ELSE regexp_replace(
    split_part(split_part(replace(name, '(anonymous namespace)::', ''), '<', 1), '(', 1), '^void ', ''
) END"""


# SQL behind ``captured`` (run_id, steps) and ``totals`` (run_id, keys, calls, ns): each run beside each other one, with
# what only one of them has.
_TWO_RUNS = """per_step AS (
    SELECT run_id, {keys}, calls / steps AS calls, (ns / steps)::BIGINT AS ns FROM totals JOIN captured USING (run_id)
),
known AS (
    SELECT run_id FROM runs UNION SELECT run_id FROM captured
),
pairs AS (
    SELECT b.run_id AS base_run, r.run_id FROM known b JOIN known r ON b.run_id <> r.run_id
),
sides AS (
    SELECT base_run, pairs.run_id, {keys}, calls AS base_calls, ns AS base_ns, NULL::DOUBLE AS run_calls,
        NULL::BIGINT AS run_ns
    FROM pairs JOIN per_step ON per_step.run_id = base_run
    UNION ALL
    SELECT base_run, pairs.run_id, {keys}, NULL, NULL, calls, ns
    FROM pairs JOIN per_step ON per_step.run_id = pairs.run_id
),
both_sides AS (
    SELECT base_run, run_id, {keys}, max(base_calls) AS base_calls, max(run_calls) AS run_calls,
        max(base_ns) AS base_ns, max(run_ns) AS run_ns
    FROM sides GROUP BY base_run, run_id, {keys}
)
SELECT *, run_ns - base_ns AS difference_ns, run_ns / nullif(base_ns, 0) AS ratio
FROM both_sides"""
_KEYS = re.compile(r"\{two_runs: ([a-z_, ]+)\}")


@dataclass(frozen=True)
class View:
    """One view: what a row is, what its columns are, and its query."""

    name: str
    doc: str
    columns: dict[str, str]
    query: str


@cache
def load_view(name: str) -> View:
    """Read and parse ``views/NAME.sql``."""
    text = (files("vtrain_schemas") / "views" / f"{name}.sql").read_text(encoding="utf-8")
    return parse_view(name, text)


def parse_view(name: str, text: str) -> View:
    """Split a view file into documentation and query."""
    doc: list[str] = []
    columns: dict[str, str] = {}
    query: list[str] = []
    for line in text.splitlines():
        comment = line.removeprefix("--").strip() if line.startswith("--") and not query else None
        if comment is None:
            query.append(line)
        elif comment.startswith("@column "):
            column, _, meaning = comment.removeprefix("@column ").partition(":")
            columns[column.strip()] = meaning.strip()
        elif columns:
            last = next(reversed(columns))
            columns[last] += " " + comment
        else:
            doc.append(comment)
    text = _KEYS.sub(lambda keys: _TWO_RUNS.format(keys=keys[1]), "\n".join(query).strip().rstrip(";"))
    for word, meaning in _words().items():
        text = text.replace("{" + word + "}", meaning)
    return View(name, " ".join(doc).strip(), columns, text)


@cache
def _words() -> dict[str, str]:
    """What the words in braces stand for."""
    passes = " ".join(
        f"WHEN {quote(op)} THEN {count:.1f} * (group_size - 1) / group_size" for op, count in RING_PASSES.items()
    )
    return {
        "matrix_products": ", ".join(quote(kind.name) for kind in kinds() if kind.matrix_product),
        "traces": ", ".join(map(quote, TRACES)),
        "kernel_name": KERNEL_NAME,
        "bus_factor": f"CASE op {passes} {' '.join(f'WHEN {quote(op)} THEN 1.0' for op in ONE_PASS)} END",
    }


def views() -> list[View]:
    """All views, in the order in which they must be created."""
    return [load_view(name) for name in VIEW_ORDER]


def create_statements(view: View, temporary: bool = False) -> list[str]:
    """SQL that creates a view and its comments."""
    kind = "TEMPORARY VIEW" if temporary else "VIEW"
    statements = [f"CREATE OR REPLACE {kind} {view.name} AS {view.query}"]
    if not temporary:
        statements.append(f"COMMENT ON VIEW {view.name} IS {quote(view.doc)}")
        statements += [
            f"COMMENT ON COLUMN {view.name}.{column} IS {quote(meaning)}" for column, meaning in view.columns.items()
        ]
    return statements


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
