"""The operators of a captured step beside those of the simulator's program for the same run."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from vtrain_sim.catalog import Catalog
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.model import build_step, operators_of

# Kind, phase and dimensions of an operator -> how often it runs in a step.
Operators: TypeAlias = Counter[tuple[object, ...]]
ONCE = ("zero_grad", "grad_prepare", "grad_norm", "grad_clip", "optimizer")


def captured_operators(catalog: Catalog, step: int) -> dict[int, Operators]:
    """By rank, those of a step that modules are."""
    with catalog.reading() as connection:
        captured: dict[int, Operators] = {
            rank: Counter() for (rank,) in connection.execute("SELECT rank FROM ranks").fetchall()
        }
        for rank, *identity in connection.execute(
            """
            SELECT rank, kind, phase, coalesce(m, 0), coalesce(n, 0), coalesce(k, 0), batch,
                   coalesce(seq_q, 0), coalesce(seq_kv, 0), coalesce(heads, 0), coalesce(kv_heads, 0),
                   coalesce(head_dim, 0)
            FROM operators WHERE step = $step AND source = 'module' AND kind NOT IN ('microbatch', 'step_overhead')
            """,
            {"step": step},
        ).fetchall():
            captured[rank][tuple(identity)] += 1
    return captured


def of_passes(operators: Operators) -> Operators:
    """Without those that run once per step."""
    return Counter({key: count for key, count in operators.items() if key[0] not in ONCE})


def program_operators(catalog: Catalog, run_id: str) -> dict[int, Operators]:
    """By rank, those that the program of a run says that its passes are."""
    shown = catalog.show(run_id)
    configuration = configuration_from_run(shown["run"])
    stages = build_step(configuration).stages
    expected: dict[int, Operators] = {}
    for rank in shown["ranks"]:
        counts: Operators = Counter()
        for chunk in stages[rank["pp_rank"]].chunks:
            for part, count in chunk:
                for item in operators_of((*part.forward, *part.backward)):
                    # A gradient's accumulation is recorded within the product of its weight.
                    if item.operator.kind not in ("microbatch", "grad_accumulate"):
                        o = item.operator
                        counts[(o.kind, o.phase, *o.dims)] += count * configuration.num_microbatches
        expected[rank["rank"]] = counts
    return expected
