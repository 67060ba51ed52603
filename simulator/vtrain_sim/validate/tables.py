"""Projections against published or the user's end-to-end measurements, row by row.

The table's columns are named after Megatron's flags (`validate.columns`); one row is one measured configuration.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vtrain_sim.calibration.tuning import Sample, check_informative
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.simulate.memory import MemoryVerdict
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import Projection
from vtrain_sim.specs import ClusterSpec
from vtrain_sim.text_file import read_text
from vtrain_sim.validate.cells import Cells
from vtrain_sim.validate.columns import NEEDED, is_documented
from vtrain_sim.validate.figures import FileResult, summarise
from vtrain_sim.validate.row_cluster import cluster_name, cluster_of, has_cluster, known_clusters, where
from vtrain_sim.validate.rows import Row
from vtrain_sim.validate.table_row import Described, configuration_of, described_by, described_by_recipe

SCHEMA = "vtrain.validation/1"
_TIME, _MEMORY = "iteration_time_s", "peak_memory_gb"
# Seconds, or GB.
_LEAST, _MOST = 1e-9, 1e9
# Rows that a message names by their ids.
_NAMED_ROWS = 5
# What rows of one group have in common: one model, on as many GPUs, with one batch.
_GROUP = (
    *("gpu", "model", "num_layers", "hidden_size", "num_attention_heads", "seq_length"),
    *("num_gpus", "global_batch_size"),
)
# What sources call a GB, bytes; others mean GiB. Zero Bubble's code divides by a million, and nvidia-smi, which
# BigScience's chronicles quote, shows MiB: 80 GB of an A100 with 79.3 GiB are 80,000 of these.
_MEMORY_UNITS = {"Zero Bubble": 10**9, "BigScience": 1000 << 20}
Projectors = dict[tuple[str, ...], Projector]


def validate(
    paths: Sequence[Path],
    cluster: tuple[ClusterSpec, Surfaces] | None = None,
    progress: Progress = unwatched,
) -> list[FileResult]:
    """Project every row of every file; raises `UserError` for a file that is not such a table.

    cluster: where all rows were measured; None: the preset with each row's GPU and network.
    progress: called with the rows projected, all rows, and their share.
    """
    projectors: Projectors = {}
    results = []
    tables = [(path, read_table(path)) for path in paths]
    done, total = 0, sum(len(values) for _, values in tables)
    for path, values in tables:
        rows = []
        for one in values:
            rows.append(_project(one, projectors, cluster))
            done += 1
            progress(done, total, done / total)
        unread = [name for name in values[0] if not is_documented(name) and any(row.get(name) for row in values)]
        lacking = cluster is None and not all(map(has_cluster, values))
        known = known_clusters() if lacking else ()
        results.append(replace(summarise(path.name, rows), unread=tuple(unread), known_clusters=known))
    return results


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a validation table."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        rows, columns = list(reader), reader.fieldnames or ()
    except csv.Error:
        raise UserError(f"{path} is not a CSV table") from None
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise UserError(f"{path} is not a validation table: it has no column {', '.join(missing)}")
    if not rows:
        raise UserError(f"{path} has no rows: it ends after the names of the columns")
    for row in rows:
        if None in row or None in row.values():
            # Cells would stand below the names of others, or be taken for empty ones.
            raise UserError(f"{path}, row {row['id']}: it has more or fewer cells than the table has columns")
    return rows


def _measured(row: Mapping[str, str], name: str) -> float | None:
    """A measurement, None for an empty cell of one that a row may lack. Raises `UserError` for one that cannot be:
    errors are relative to it."""
    text = row.get(name) or ""
    if not text and name not in NEEDED:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Squares of errors must be numbers too.
    if not _LEAST <= value <= _MOST:
        raise UserError(f"{name} is {text!r}, it takes a positive number ({_LEAST:g} to {_MOST:g})")
    return value


def samples_of(path: Path, priors: str, report: Callable[[str], None] = lambda line: None) -> list[Sample]:
    """The rows of a table to tune to (`vtrain_sim.calibration.tuning`): those that can be simulated and say something.

    priors: prior file. report: called with a sentence for each reason to leave rows out.
    """
    samples = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for row in read_table(path):
        try:
            cluster = cluster_name(row)
            configuration = configuration_of(row)
            check_informative(configuration, cluster, priors)
            seconds = _measured(row, _TIME) or math.nan
        except UserError as error:
            left_out[str(error)].append(row["id"])
            continue
        size = f"{row['num_layers']} x {row['hidden_size']}"
        samples.append(Sample(configuration, cluster, seconds, path.name, size))
    for reason, rows in left_out.items():
        report(f"{path.name}: {_counted(rows)} left out: {reason}")
    return samples


def _counted(rows: Sequence[str]) -> str:
    """Rows by their ids, the first few of many."""
    first = ", ".join(rows[:_NAMED_ROWS]) + (", ..." if len(rows) > _NAMED_ROWS else "")
    return f"row {first} is" if len(rows) == 1 else f"{len(rows)} rows ({first}) are"


def _project(values: Mapping[str, str], projectors: Projectors, given: tuple[ClusterSpec, Surfaces] | None) -> Row:
    group = tuple(values.get(name) or "" for name in _GROUP)
    row = Row(values["id"], None, None, group, gpu=values.get("gpu") or "", family="dense")
    try:
        row = replace(row, measured_s=_measured(values, _TIME), measured_memory_gb=_measured(values, _MEMORY))
        if Cells(values).number("num_experts"):
            row = replace(row, family="mixture of experts")
        place = where(values)
        if place not in projectors:
            projectors[place] = Projector.modelled(*(given or cluster_of(values)))
        return _projected(row, values, described_by(values), projectors[place])
    except UserError as error:
        return replace(row, reason=str(error))


def _projected(row: Row, values: Mapping[str, str], described: Described, projector: Projector) -> Row:
    """The row with the projection of the configuration that it describes; of several, the fastest that fits."""
    projections = [projector.project(configuration) for configuration in described.configurations]
    place = min(range(len(projections)), key=lambda n: _preference(projections[n]))
    projection = projections[place]
    fits = _may_run(projection)
    full = None
    recipe = None if fits else described_by_recipe(values)
    if recipe is not None and recipe.configurations != described.configurations:
        # It ran, so that its columns contradict each other.
        other = _projected(row, {**values, "recipe_match": ""}, recipe, projector)
        if other.fits:
            return other
    if values.get("recompute_granularity") == "unknown":
        most = described.configurations[place]
        most = replace(most, train=replace(most.train, recompute_granularity="full"))
        evaluated = projector.evaluate([most])
        full, fits = float(evaluated.iteration_time_s[0]), fits or bool(evaluated.fits[0] or evaluated.tight[0])
    several = len(projections) > 1
    return replace(
        row,
        predicted_s=projection.iteration_time_s,
        low_s=min(p.iteration_time_low_s for p in projections),
        high_s=max(p.iteration_time_high_s for p in projections),
        bracket_low_s=min(p.iteration_time_s for p in projections) if several else None,
        bracket_high_s=max(p.iteration_time_s for p in projections) if several else None,
        full_recompute_s=full,
        predicted_memory_gb=_memory(values, projection.memory),
        fits=fits,
        approximated=described.approximated,
    )


def _preference(projection: Projection) -> tuple[bool, float]:
    """Published runs are tuned: of what fits in memory, the fastest."""
    return (not _may_run(projection), projection.iteration_time_s)


def _may_run(projection: Projection) -> bool:
    """Whether it fits, if need be with nothing to spare."""
    return projection.memory.fits or projection.memory.tight


def _memory(values: Mapping[str, str], verdict: MemoryVerdict) -> float:
    """Memory of the fullest stage, as the row's source counts it and in its unit: logs of the device show the whole
    process, the Zero Bubble paper what tensors take."""
    source = values.get("source", "")
    unit = next((nbytes for word, nbytes in _MEMORY_UNITS.items() if word in source), 1 << 30)
    if "Zero Bubble" in source:
        return max(s.allocated_bytes for s in verdict.stages) / unit
    return verdict.worst.peak_bytes / unit
