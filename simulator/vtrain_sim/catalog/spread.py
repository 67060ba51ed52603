"""What many ranks and steps have in common, and which of them stand out: counts, quantiles, the slowest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from vtrain_sim.results import Row

# Rows that fit on a screen: of more, their spread says more than they do.
MOST_ROWS = 32
# Ranks, and of many steps the longest, that are named.
_NAMED = 5
# Runs of consecutive numbers that a text lists.
_LISTED = 8
_COORDINATES = ("tp_rank", "pp_rank", "dp_rank", "cp_rank", "ep_rank")
_PARTS = ("window", "compute", "exposed_communication", "overlapped_communication", "exposed_memory", "idle")


def as_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as text: "0-3, 8"; of many runs of consecutive ones the first."""
    runs = groupby(enumerate(sorted(set(numbers))), key=lambda item: item[1] - item[0])
    bounds = [[number for _, number in run] for _, run in runs]
    more = [f"... {bounds[-1][-1]}"] if len(bounds) > _LISTED else []
    return ", ".join([*(f"{b[0]}-{b[-1]}" if len(b) > 1 else str(b[0]) for b in bounds[:_LISTED]), *more])


def rank_spread(ranks: Sequence[Row]) -> list[Row]:
    """What values there are: of rank, host and each coordinate that is known. ranks: rows of the ranks table."""
    values: dict[str, str] = {"ranks": f"{len(ranks):,}: {as_ranges(row['rank'] for row in ranks)}"}
    hosts = sorted({row["host"] for row in ranks if row["host"] is not None})
    if hosts:
        values["hosts"] = f"{len(hosts):,}: {hosts[0]}" + (f" to {hosts[-1]}" if len(hosts) > 1 else "")
    for name in _COORDINATES:
        known = {row[name] for row in ranks if row[name] is not None}
        if len(known) > 1:
            values[name] = as_ranges(known)
    return [{"of": name, "values": text} for name, text in values.items()]


def step_spread(steps: Sequence[Row]) -> list[Row]:
    """Durations of each step over its ranks, ns, and the rank that took longest; of many steps, all together and the
    longest. steps: rows of the steps table."""
    by_step: defaultdict[int, list[Row]] = defaultdict(list)
    for row in steps:
        by_step[row["step"]].append(row)
    spread = [_spread_of(f"{step}", rows) for step, rows in sorted(by_step.items())]
    if len(spread) <= MOST_ROWS:
        return spread
    longest = sorted(spread, key=lambda row: -int(row["longest_ns"]))[:_NAMED]
    return [_spread_of(f"all {len(spread):,}", steps), *longest]


def _spread_of(step: str, rows: Sequence[Row]) -> Row:
    slowest = max(rows, key=lambda row: int(row["duration_ns"]))
    shortest, median, most = _quantiles([row["duration_ns"] for row in rows])
    peaks = [row["peak_allocated_bytes"] for row in rows if row["peak_allocated_bytes"]]
    return {
        "step": step,
        "ranks": len({row["rank"] for row in rows}),
        "shortest_ns": shortest,
        "median_ns": median,
        "p90_ns": most,
        "longest_ns": slowest["duration_ns"],
        "longest_rank": slowest["rank"],
        "peak_allocated_bytes": max(peaks, default=None),
    }


def _quantiles(values: Sequence[int]) -> tuple[int, int, int]:
    """Least, median and ninth decile."""
    least, median, most = np.quantile(np.array(values, dtype=np.int64), (0.0, 0.5, 0.9))
    return round(least), round(median), round(most)


def slowest_ranks(steps: Sequence[Row], ranks: Sequence[Row]) -> list[Row]:
    """The ranks that took longest: how much over the median of the ranks, mean of their steps; nothing for one rank."""
    durations: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for row in steps:
        durations[row["step"]][row["rank"]] = row["duration_ns"]
    over: defaultdict[int, list[float]] = defaultdict(list)
    for of_step in durations.values():
        median = float(np.median(list(of_step.values())))
        for rank, duration in of_step.items():
            over[rank].append(duration / median - 1 if median else 0.0)
    if len(over) < 2:
        return []
    known = {row["rank"]: row for row in ranks}
    means = sorted((-float(np.mean(values)), rank) for rank, values in over.items())
    return [
        {
            "rank": rank,
            "host": known.get(rank, {}).get("host"),
            "pp_rank": known.get(rank, {}).get("pp_rank"),
            "steps": len(over[rank]),
            "over_median": -less,
        }
        for less, rank in means[:_NAMED]
    ]


def device_spread(devices: Sequence[Row]) -> list[Row]:
    """Each part of the devices' time, ns, and the rank that has most of it. devices: rows of gpu_breakdown."""
    spread = []
    for part in _PARTS:
        most_of = max(devices, key=lambda row: int(row[f"{part}_ns"]))
        least, median, most = _quantiles([row[f"{part}_ns"] for row in devices])
        spread.append(
            {
                "part": part,
                "least_ns": least,
                "median_ns": median,
                "p90_ns": most,
                "most_ns": most_of[f"{part}_ns"],
                "most_rank": most_of["rank"],
            }
        )
    return spread
