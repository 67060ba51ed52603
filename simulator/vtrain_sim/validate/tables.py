"""Projections against published or the user's end-to-end measurements, row by row.

The table's columns are named after Megatron's flags; one row is one measured configuration.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from vtrain_sim.calibration.tuning import Sample, check_informative
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.results import Document
from vtrain_sim.simulate.memory import MemoryVerdict
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ClusterSpec
from vtrain_sim.validate.table_row import configuration_of

SCHEMA = "vtrain.validation/1"
# Rows that a message names by their ids.
_NAMED_ROWS = 5
# Two measurements closer than this are a tie: which is faster says nothing.
TIE = 0.05
_NEEDED = ("id", "num_gpus", "num_layers", "hidden_size", "micro_batch_size", "global_batch_size", "iteration_time_s")
# Columns about the measurement, not about what was measured.
_ASIDE = frozenset({"confidence"})
# Cluster presets by GPU and inter-node bandwidth of a node, Gb/s; "" where a source does not say.
_CLUSTERS = {
    ("A100-SXM4-80GB", "1600"): "dgx-a100-80gb",
    ("A100-SXM4-80GB", "800"): "a100-80gb-4x200",
    ("A100-SXM4-80GB", "400"): "a100-80gb-4x100",
    ("A100-SXM4-80GB", ""): "a100-80gb-4x200",
    ("H100-SXM5-80GB", "3200"): "dgx-h100",
    ("H100-SXM5-80GB", ""): "dgx-h100",
}


@dataclass(frozen=True)
class Row:
    """One measured configuration, and what was projected for it (or why it was not)."""

    id: str
    measured_s: float
    measured_memory_gb: float | None
    group: tuple[str, ...]
    predicted_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    predicted_memory_gb: float | None = None
    # Where the source does not say whether it recomputed: the projection with full recomputation.
    full_recompute_s: float | None = None
    reason: str = ""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_s is None else self.predicted_s / self.measured_s - 1

    def to_dict(self) -> Document:
        """The row of the machine-readable result."""
        names = ("id", "measured_s", "predicted_s", "low_s", "high_s", "measured_memory_gb", "predicted_memory_gb")
        document = {name: getattr(self, name) for name in names}
        if self.full_recompute_s is not None:
            document["full_recompute_s"] = self.full_recompute_s
        return document | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True)
class FileResult:
    """One file's rows and figures; fractions, not per cent. A figure without rows is None.

    unread: columns with values that nothing reads: the rows were projected as if they were not there.
    """

    file: str
    rows: tuple[Row, ...]
    unread: tuple[str, ...]
    mape: float | None
    median_ape: float | None
    bias: float | None
    p90: float | None
    r2: float | None
    pairwise_order: float | None
    regret: float | None
    coverage: float | None
    memory_mape: float | None

    def to_dict(self) -> Document:
        """The file's figures."""
        figures = {n: getattr(self, n) for n in self.__dataclass_fields__ if n not in ("file", "rows", "unread")}
        simulated = sum(r.predicted_s is not None for r in self.rows)
        return {
            "file": self.file,
            "rows": len(self.rows),
            "simulated": simulated,
            **figures,
            "unread_columns": list(self.unread),
        }


def validate(paths: Sequence[Path], cluster: tuple[ClusterSpec, Surfaces] | None = None) -> list[FileResult]:
    """Project every row of every file; raises `UserError` for a file that is not such a table.

    cluster: where all rows were measured; None: the preset with each row's GPU and network.
    """
    projectors: dict[tuple[str, str, str], Projector] = {}
    results = []
    for path in paths:
        values = read_table(path)
        read: set[str] = set()
        rows = [_project(_Watched(one, read), projectors, cluster) for one in values]
        unread = [name for name in values[0] if name not in read | _ASIDE and any(row.get(name) for row in values)]
        results.append(replace(summarise(path.name, rows), unread=tuple(unread)))
    return results


class _Watched(Mapping[str, str]):
    """A row that notes the names of the columns that are asked for."""

    def __init__(self, row: Mapping[str, str], read: set[str]) -> None:
        self._row = row
        self._read = read

    def __getitem__(self, name: str) -> str:
        self._read.add(name)
        return self._row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a validation table."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is not a CSV table") from None
    missing = [name for name in _NEEDED if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{path} is not a validation table: it has no column {', '.join(missing)}")
    return rows


def cluster_of(gpu: str, gpus_per_node: str, node_gbps: str) -> tuple[ClusterSpec, Surfaces]:
    """The cluster of a row: the preset with its GPU and network. Raises `UserError`."""
    name = cluster_name(gpu, node_gbps)
    cluster = presets.cluster(name)
    return replace(cluster, gpus_per_node=int(gpus_per_node or 8)), Surfaces.from_dict(presets.cluster_surfaces(name))


def cluster_name(gpu: str, node_gbps: str) -> str:
    """The cluster preset with this GPU and inter-node bandwidth per node, Gb/s. Raises `UserError`."""
    name = _CLUSTERS.get((gpu, node_gbps))
    if name is None:
        known = ", ".join(f"{g} with {b or 'unknown'} Gb/s per node" for g, b in _CLUSTERS)
        raise UserError(
            f"no calibrated cluster has {gpu or 'an unnamed GPU'} with {node_gbps or 'unknown'} Gb/s per node: "
            f"known are {known}"
        )
    return name


def samples_of(path: Path, report: Callable[[str], None] = lambda line: None) -> list[Sample]:
    """The rows of a table to tune to (`vtrain_sim.calibration.tuning`): those that can be simulated and say something.

    report: called with a sentence for each reason to leave rows out.
    """
    samples = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for row in read_table(path):
        try:
            cluster = cluster_name(row.get("gpu", ""), row.get("inter_node_gbps_per_node", ""))
            configuration = configuration_of(row)
            check_informative(configuration, cluster)
        except UserError as error:
            left_out[str(error)].append(row["id"])
            continue
        size = f"{row['num_layers']} x {row['hidden_size']}"
        samples.append(Sample(configuration, cluster, float(row["iteration_time_s"]), path.name, size))
    for reason, rows in left_out.items():
        report(f"{path.name}: {_counted(rows)} left out: {reason}")
    return samples


def _counted(rows: Sequence[str]) -> str:
    """Rows by their ids, the first few of many."""
    first = ", ".join(rows[:_NAMED_ROWS]) + (", ..." if len(rows) > _NAMED_ROWS else "")
    return f"row {first} is" if len(rows) == 1 else f"{len(rows)} rows ({first}) are"


def _project(
    values: Mapping[str, str],
    projectors: dict[tuple[str, str, str], Projector],
    given: tuple[ClusterSpec, Surfaces] | None,
) -> Row:
    sizes = ("num_layers", "hidden_size", "num_attention_heads", "seq_length", "num_gpus", "global_batch_size")
    try:
        measured = float(values["iteration_time_s"])
        memory = float(values["peak_memory_gb"]) if values.get("peak_memory_gb") else None
    except ValueError:
        raise UserError(f"row {values['id']}: a measurement is not a number") from None
    row = Row(values["id"], measured, memory, tuple(values.get(s, "") for s in sizes))
    where = (values.get("gpu", ""), values.get("gpus_per_node", ""), values.get("inter_node_gbps_per_node", ""))
    try:
        if where not in projectors:
            projectors[where] = Projector.modelled(*(given or cluster_of(*where)))
        configuration = configuration_of(values)
        projection = projectors[where].project(configuration)
        full = None
        if values.get("recompute_granularity") == "unknown":
            most = replace(configuration, train=replace(configuration.train, recompute_granularity="full"))
            full = float(projectors[where].evaluate([most]).iteration_time_s[0])
    except UserError as error:
        return replace(row, reason=str(error))
    return replace(
        row,
        predicted_s=projection.iteration_time_s,
        low_s=projection.iteration_time_low_s,
        high_s=projection.iteration_time_high_s,
        full_recompute_s=full,
        predicted_memory_gb=_memory(values, projection.memory) / 2**30,
    )


def _memory(values: Mapping[str, str], verdict: MemoryVerdict) -> float:
    """Bytes of the fullest stage, as the row's source counts them: logs of the device show the whole
    process, the Zero Bubble paper what tensors take."""
    if "Zero Bubble" in values.get("source", ""):
        return max(s.allocated_bytes for s in verdict.stages)
    return verdict.worst.peak_bytes


def summarise(file: str, rows: Sequence[Row]) -> FileResult:
    """A file's figures over the rows that could be simulated."""
    done = [(r, r.predicted_s) for r in rows if r.predicted_s is not None]
    errors = [p / r.measured_s - 1 for r, p in done]
    absolute = sorted(abs(e) for e in errors)
    inside = [
        r for r, _ in done if r.low_s is not None and r.high_s is not None and r.low_s <= r.measured_s <= r.high_s
    ]
    memory = [
        abs(r.predicted_memory_gb / r.measured_memory_gb - 1)
        for r in rows
        if r.measured_memory_gb and r.predicted_memory_gb
    ]
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for row, predicted in done:
        groups[row.group].append((row.measured_s, predicted))
    return FileResult(
        file=file,
        rows=tuple(rows),
        unread=(),
        mape=_mean(absolute),
        median_ape=statistics.median(absolute) if absolute else None,
        bias=_mean(errors),
        p90=absolute[min(len(absolute) - 1, int(0.9 * len(absolute)))] if absolute else None,
        r2=_r2([(r.measured_s, p) for r, p in done]),
        pairwise_order=_order(groups.values()),
        regret=_mean([_regret(g) for g in groups.values() if len(g) > 1]),
        coverage=len(inside) / len(done) if done else None,
        memory_mape=_mean(memory),
    )


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
