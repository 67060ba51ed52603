"""What no kernel table tells about mixtures of experts, searched for in published training steps, and left out by model.

    cd tests && python -m benchmarks.expert_coefficients TABLE

TABLE is a validation table with the columns of docs/validation-tables.md. Rows count by groups (model, GPU, precision,
graphs, dispatcher, overlap), each with the mean of its errors, so that no recipe counts twice for being published
twice. Four factors multiply the bundled coefficients of every GPU: 1 means that these are where the search ends.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration
from vtrain_sim.validate.row_cluster import cluster_of
from vtrain_sim.validate.table_row import configuration_of
from vtrain_sim.validate.tables import read_table

# Found in other rows, see docs/accuracy.md.
_LAUNCH = "overlap_launch"
FACTORS = ("permute", "chunk_scan/backward", "host", "host of Grace")
# Older containers, and recipes that are only near those of the table, are other software than what the rest tell.
OLDER, STEPS, MOST = ("25.", "26.02-"), (0.6, 0.8, 0.9, 1.1, 1.25, 1.5), 0.2
Row = Mapping[str, str]
Group = tuple[str, ...]


def samples(path: Path) -> list[tuple[Row, Configuration]]:
    """Rows of mixtures of experts that count."""
    return [
        (row, configuration_of(row))
        for row in read_table(path)
        if float(row.get("num_experts") or 0)
        and not row["id"].removeprefix("bridge-").startswith(OLDER)
        and row.get("recipe_match") == "exact"
    ]


def scaled(surfaces: Surfaces, factors: Sequence[float], grace: bool) -> Surfaces:
    """The coefficients with these factors on them."""
    permute, scan, host, of_grace = factors
    share = host * (of_grace if grace else 1.0)
    efficiency = dict(surfaces.efficiency)
    efficiency["permute"] *= permute
    efficiency["chunk_scan/backward"] *= scan
    host_s = {name: (1.0 if name == _LAUNCH else share) * value for name, value in surfaces.host_s.items()}
    host_each_s = {name: share * value for name, value in surfaces.host_each_s.items()}
    return replace(surfaces, efficiency=efficiency, host_s=host_s, host_each_s=host_each_s)


def group_errors(rows: Sequence[tuple[Row, Configuration]], factors: Sequence[float]) -> dict[Group, float]:
    """Mean logarithm of projected over measured time of each group."""
    projectors: dict[str, Projector] = {}
    errors: dict[Group, list[float]] = defaultdict(list)
    names = ("model", "gpu", "precision", "cuda_graph_impl", "moe_dispatcher", "moe_a2a_overlap")
    for row, configuration in rows:
        cluster, surfaces = cluster_of(row)
        if cluster.name not in projectors:
            grace = row["gpu"].startswith("GB")
            projectors[cluster.name] = Projector.modelled(cluster, scaled(surfaces, factors, grace))
        projected = projectors[cluster.name].project(configuration).iteration_time_s
        group = tuple(row.get(name) or "" for name in names)
        errors[group].append(math.log(projected / float(row["iteration_time_s"])))
    return {group: mean(values) for group, values in errors.items()}


def loss(rows: Sequence[tuple[Row, Configuration]], factors: Sequence[float]) -> float:
    """Mean size of the groups' errors; one that is far off counts as `MOST`: another mechanism, or other software."""
    return mean(min(abs(error), MOST) for error in group_errors(rows, factors).values())


def search(rows: Sequence[tuple[Row, Configuration]], rounds: int = 2) -> list[float]:
    """Factors that make the loss small, one coordinate after the other."""
    factors = [1.0] * len(FACTORS)
    best = loss(rows, factors)
    for _ in range(rounds):
        for at in range(len(FACTORS)):
            for step in STEPS:
                tried = [*factors[:at], factors[at] * step, *factors[at + 1 :]]
                value = loss(rows, tried)
                if value < best - 1e-5:
                    best, factors = value, tried
    return factors


def main(path: Path) -> None:
    """Print the errors of groups, where the search ends, and each model's error where it was left out."""
    rows = samples(path)
    for group, error in sorted(group_errors(rows, [1.0] * len(FACTORS)).items()):
        print(f"{' '.join(group):75} {error:+.1%}")
    print(f"mean of {len(rows)} rows' groups: {loss(rows, [1.0] * len(FACTORS)):.1%}")
    print("search ends at", dict(zip(FACTORS, (round(f, 2) for f in search(rows)), strict=True)))
    for model in sorted({row["model"] for row, _ in rows}):
        factors = search([pair for pair in rows if pair[0]["model"] != model], rounds=1)
        errors = group_errors([pair for pair in rows if pair[0]["model"] == model], factors).values()
        print(f"without {model:20} {mean(map(abs, errors)):.1%} (bias {mean(errors):+.1%}) at {factors}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
