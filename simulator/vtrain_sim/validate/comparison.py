"""The result of comparing a captured run with its simulation."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import Operator
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.result import Projection

SCHEMA = "vtrain.comparison/1"


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


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """A captured run beside its simulation, part by part and operator by operator; times in seconds.

    captured_step_s: median over the steps of the slowest rank's time.

    >>> import vtrain as vt
    >>> comparison = vt.validate(run="base", catalog="vtrain.duckdb")
    >>> comparison.captured_step_s > 0 and -1 < comparison.error
    True
    """

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
        """Simulated over captured time of a step, less one; positive where the simulation is slower.

        >>> import vtrain as vt
        >>> comparison = vt.validate_run(vt.job.from_run("vtrain.duckdb", "base"))
        >>> comparison.error == comparison.projection.iteration_time_s / comparison.captured_step_s - 1
        True
        """
        return self.projection.iteration_time_s / self.captured_step_s - 1

    def to_dict(self) -> Document:
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

    def summary(self) -> dict[str, object]:
        """Captured and simulated step."""
        return {
            "run": self.run_id,
            "steps": self.steps,
            "ranks": self.ranks,
            "captured_step_s": self.captured_step_s,
            "iteration_time_s": self.projection.iteration_time_s,
            "error": self.error,
        }

    def rows(self) -> list[Row]:
        """One row per part and direction; seconds of a step on a rank that holds it."""
        return [vars(p) for p in self.parts]

    def tables(self) -> dict[str, list[Row]]:
        """By part, and by operator."""
        operators = [
            {
                "kind": o.operator.kind,
                "phase": o.operator.phase,
                **{k: v for k, v in vars(o).items() if k != "operator"},
            }
            for o in self.operators
        ]
        return {"by part": self.rows(), "by operator": operators}
