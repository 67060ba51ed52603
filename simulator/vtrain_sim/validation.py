"""Projections against published or own end-to-end measurements, row by row.

The table's columns are named after Megatron's flags; one row is one measured configuration.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.projection import Projector
from vtrain_sim.specs import ClusterSpec, Configuration, ModelSpec, ParallelSpec, TrainSpec, presets

SCHEMA = "vtrain.validation/1"
# Two measurements closer than this are a tie: which is faster says nothing.
TIE = 0.05
_NEEDED = ("id", "num_gpus", "num_layers", "hidden_size", "micro_batch_size", "global_batch_size", "iteration_time_s")
_PRECISION = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
# Cluster preset by GPU, and the inter-node bandwidth of a node that it describes, Gb/s.
_CLUSTERS = {"A100-SXM4-80GB": ("dgx-a100-80gb", 1600.0)}


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
    reason: str = ""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_s is None else self.predicted_s / self.measured_s - 1

    def to_dict(self) -> dict[str, Any]:
        """The row of the machine-readable result."""
        names = ("id", "measured_s", "predicted_s", "low_s", "high_s", "measured_memory_gb", "predicted_memory_gb")
        return {name: getattr(self, name) for name in names} | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True)
class FileResult:
    """One file's rows and figures; fractions, not per cent. A figure without rows is None."""

    file: str
    rows: tuple[Row, ...]
    mape: float | None
    median_ape: float | None
    bias: float | None
    p90: float | None
    r2: float | None
    pairwise_order: float | None
    regret: float | None
    coverage: float | None
    memory_mape: float | None

    def to_dict(self) -> dict[str, Any]:
        """The file's figures."""
        figures = {n: getattr(self, n) for n in self.__dataclass_fields__ if n not in ("file", "rows")}
        simulated = sum(r.predicted_s is not None for r in self.rows)
        return {"file": self.file, "rows": len(self.rows), "simulated": simulated, **figures}


def validate(paths: Sequence[Path]) -> list[FileResult]:
    """Project every row of every file; raises `UserError` for a file that is not such a table."""
    projectors: dict[tuple[str, str, str], Projector] = {}
    results = []
    for path in paths:
        rows = [_project(values, projectors) for values in read_table(path)]
        results.append(summarise(path.name, rows))
    return results


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
    """The cluster of a row: its GPU's preset, with the row's network. Raises `UserError`."""
    if gpu not in _CLUSTERS:
        raise UserError(f"no calibrated surfaces for {gpu or 'an unnamed GPU'}: known are {', '.join(_CLUSTERS)}")
    name, preset_gbps = _CLUSTERS[gpu]
    cluster = presets.cluster(name)
    share = float(node_gbps) / preset_gbps if node_gbps else 1.0
    network = cluster.inter_node
    node_bandwidth = network.node_bandwidth * share
    slower = replace(network, node_bandwidth=node_bandwidth, bandwidth=min(network.bandwidth, node_bandwidth))
    cluster = replace(cluster, gpus_per_node=int(gpus_per_node or 8), inter_node=slower)
    return cluster, Surfaces.from_dict(presets.cluster_surfaces(name))


def configuration_of(row: dict[str, str]) -> Configuration:
    """The configuration that a row describes; raises `UserError` where Megatron or vtrain has none such."""

    def number(name: str, default: int = 0) -> int:
        text = row.get(name, "") or ""
        try:
            return int(float(text)) if text else default
        except ValueError:
            raise UserError(f"{name} is {text!r}, not a number") from None

    precision = row.get("precision", "bf16")
    if precision not in _PRECISION:
        raise UserError(f"precision {precision} is not simulated")
    recompute = row.get("recompute_granularity") or "none"
    schedule = row.get("pipeline_schedule") or "1f1b"
    vpp = max(1, number("virtual_pipeline_chunks", 1))
    gated = bool(number("swiglu"))
    model = ModelSpec(
        num_layers=number("num_layers"), hidden_size=number("hidden_size"),
        num_attention_heads=number("num_attention_heads"), seq_length=number("seq_length"),
        vocab_size=number("vocab_size"), ffn_hidden_size=number("ffn_hidden_size"),
        num_query_groups=number("num_query_groups"), swiglu=gated, add_bias_linear=not gated,
        normalization="RMSNorm" if gated else "LayerNorm",
        position_embedding_type="rope" if gated else "learned_absolute",
        num_experts=number("num_experts"), moe_router_topk=number("moe_router_topk"),
    )  # fmt: skip
    parallel = ParallelSpec(
        tp=number("tensor_model_parallel_size", 1), pp=number("pipeline_model_parallel_size", 1), vpp=vpp,
        cp=number("context_parallel_size", 1), ep=number("expert_model_parallel_size", 1),
        dp=number("data_parallel_size", 1),
        sequence_parallel=bool(number("sequence_parallel")) and number("tensor_model_parallel_size", 1) > 1,
        distributed_optimizer=bool(number("distributed_optimizer")), overlap_p2p=vpp > 1,
    )  # fmt: skip
    train = TrainSpec(
        number("micro_batch_size"), number("global_batch_size"), params_dtype=_PRECISION[precision],
        attention_kernel=row.get("attention_kernel") or "flash",
        recompute_granularity="none" if recompute == "unknown" else recompute,
        schedule=schedule if vpp == 1 else "auto",
    )  # fmt: skip
    return Configuration(model, parallel, train)


def _project(values: dict[str, str], projectors: dict[tuple[str, str, str], Projector]) -> Row:
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
            cluster, surfaces = cluster_of(*where)
            projectors[where] = Projector(
                cluster, OperatorCosts(DeviceSurface(cluster.device, surfaces)), CollectiveCosts(cluster)
            )
        answer = projectors[where].project(configuration_of(values))
    except UserError as error:
        return replace(row, reason=str(error))
    return replace(
        row, predicted_s=answer.iteration_time_s, low_s=answer.iteration_time_low_s,
        high_s=answer.iteration_time_high_s, predicted_memory_gb=answer.memory.worst.peak_bytes / 2**30,
    )  # fmt: skip


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
