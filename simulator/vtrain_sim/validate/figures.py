"""The figures of a validation table, over the rows that could be simulated."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from vtrain_sim.results import Document
from vtrain_sim.validate.rows import Row

# Two measurements closer than this are a tie: which is faster says nothing.
TIE = 0.05
_NOT_FIGURES = ("file", "rows", "unread", "known_clusters")


@dataclass(frozen=True)
class FamilyFigures:
    """Figures of the rows of one family on one GPU; see `FileResult`."""

    gpu: str
    family: str
    rows: int
    simulated: int
    mape: float | None
    median_ape: float | None
    bias: float | None
    coverage: float | None

    @classmethod
    def of(cls, gpu: str, family: str, rows: Sequence[Row]) -> FamilyFigures:
        """Of these rows."""
        errors = [row.error for row in rows if row.error is not None]
        absolute = [abs(error) for error in errors]
        median = statistics.median(absolute) if absolute else None
        return cls(gpu, family, len(rows), len(errors), _mean(absolute), median, _mean(errors), coverage(rows))

    def to_dict(self) -> Document:
        """The figures."""
        return dict(vars(self))


@dataclass(frozen=True)
class FileResult:
    """One file's rows and figures; fractions, not per cent. A figure without rows is None.

    unread: columns with values that nothing reads: the rows were projected as if they were not there.
    known_clusters: where a row has none, the GPUs and bandwidths that have one.
    """

    file: str
    rows: tuple[Row, ...]
    unread: tuple[str, ...]
    known_clusters: tuple[str, ...]
    mape: float | None
    median_ape: float | None
    bias: float | None
    p90: float | None
    r2: float | None
    pairwise_order: float | None
    regret: float | None
    coverage: float | None
    memory_mape: float | None

    @property
    def families(self) -> list[FamilyFigures]:
        """Figures by GPU and family of models, where a file has several."""
        kinds = sorted({(row.gpu, row.family) for row in self.rows})
        if len(kinds) < 2:
            return []
        return [FamilyFigures.of(*k, [row for row in self.rows if (row.gpu, row.family) == k]) for k in kinds]

    def to_dict(self) -> Document:
        """The file's figures."""
        figures = {n: getattr(self, n) for n in self.__dataclass_fields__ if n not in _NOT_FIGURES}
        simulated = sum(r.predicted_s is not None for r in self.rows)
        return {
            "file": self.file,
            "rows": len(self.rows),
            "simulated": simulated,
            **figures,
            "families": [family.to_dict() for family in self.families],
            "unread_columns": list(self.unread),
            "known_clusters": list(self.known_clusters),
        }


def summarise(file: str, rows: Sequence[Row]) -> FileResult:
    """A file's figures over the rows that could be simulated."""
    done = [(r, r.pair) for r in rows if r.pair is not None]
    errors = [predicted / measured - 1 for _, (measured, predicted) in done]
    absolute = sorted(abs(e) for e in errors)
    memory = [
        abs(r.predicted_memory_gb / r.measured_memory_gb - 1)
        for r in rows
        if r.measured_memory_gb and r.predicted_memory_gb
    ]
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for row, pair in done:
        groups[row.group].append(pair)
    return FileResult(
        file=file,
        rows=tuple(rows),
        unread=(),
        known_clusters=(),
        mape=_mean(absolute),
        median_ape=statistics.median(absolute) if absolute else None,
        bias=_mean(errors),
        p90=absolute[min(len(absolute) - 1, int(0.9 * len(absolute)))] if absolute else None,
        r2=_r2([pair for _, pair in done]),
        pairwise_order=_order(groups.values()),
        regret=_mean([_regret(g) for g in groups.values() if len(g) > 1]),
        coverage=coverage(rows),
        memory_mape=_mean(memory),
    )


def coverage(rows: Iterable[Row]) -> float | None:
    """Share of the rows that could be simulated whose measurement lies in the band."""
    bands = [(r.low_s, r.pair[0], r.high_s) for r in rows if r.pair and r.low_s is not None and r.high_s is not None]
    return _mean([float(low <= measured <= high) for low, measured, high in bands])


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _r2(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 2:
        return None
    mean = statistics.fmean(m for m, _ in pairs)
    total = sum((m - mean) ** 2 for m, _ in pairs)
    return 1 - sum((m - p) ** 2 for m, p in pairs) / total if total else None


def _order(groups: Iterable[Sequence[tuple[float, float]]]) -> float | None:
    """Share of pairs of one group that are measurably apart and projected in the right order."""
    right = [
        (a[0] < b[0]) == (a[1] < b[1])
        for group in groups
        for a, b in combinations(group, 2)
        if abs(a[0] - b[0]) > TIE * min(a[0], b[0])
    ]
    return sum(right) / len(right) if right else None


def _regret(group: Sequence[tuple[float, float]]) -> float:
    """How much slower the plan projected to be fastest is than the fastest one."""
    chosen = min(group, key=lambda pair: pair[1])[0]
    return chosen / min(measured for measured, _ in group) - 1
