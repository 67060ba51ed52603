"""What the reader of an indexed run should know: missing ranks, steps that differ, clocks, damaged files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import duckdb

from vtrain_schemas.rank_choice import parse_ranks
from vtrain_schemas.views import quote
from vtrain_sim.catalog.files import GONE, Changes, changes, recorded
from vtrain_sim.catalog.indexing import copies
from vtrain_sim.catalog.integrity import damages
from vtrain_sim.catalog.scan import ProfileFile

# Share of a rank's operator time with launch gaps in it that is worth a sentence.
_MUCH_HOST_BOUND = 0.2
# By how much of its duration the parts of a step may exceed it: what rounding and clocks leave.
_MOST_EXCESS = 0.02
# Ranks that a sentence lists.
_LISTED_RANKS = 8
# Sources of runs where one process plays or measures for all ranks.
_ONE_PROCESS = ("rank", "ops")


@dataclass(frozen=True)
class Problem:
    """Something about an indexed run that its reader should know."""

    run_id: str
    rank: int | None
    what: str


def find_problems(connection: duckdb.DuckDBPyConnection, deep: bool, run: str | None = None) -> list[Problem]:
    """All problems of the indexed runs, or of one. deep: read every page of every file and count its rows."""
    files = [f for f in recorded(connection) if run in (None, f.run_id)]
    changed = changes(files)
    problems = list(file_problems(files, changed, connection if deep else None))
    chosen = "true" if run is None else f"run_id = {quote(run)}"
    of_ranks = partial(rank_problems, files=files, gone=changed.gone)
    for check in (of_ranks, step_problems, sum_problems, launch_problems):
        problems += _unless_damaged(partial(check, chosen=chosen), connection)
    return problems


def _unless_damaged(
    check: Callable[[duckdb.DuckDBPyConnection], Iterable[Problem]], connection: duckdb.DuckDBPyConnection
) -> list[Problem]:
    """What a check finds; nothing where it reads a damaged file, which is named where all files are read."""
    try:
        return list(check(connection))
    except duckdb.Error:
        return []


def file_problems(
    files: Sequence[ProfileFile], found: Changes, connection: duckdb.DuckDBPyConnection | None
) -> Iterator[Problem]:
    """Files that are not usable, or not what was indexed.

    found: what became of them. connection: reads them in full; None: their sizes, times and footers have to do.
    """
    yield from _gone(files, found.gone)
    altered = {f.path: f for f in found.altered}
    gone = {f.path for f in found.gone}
    unchanged = [f for f in files if f.path not in gone and f.path not in altered]
    sound = [f for f in unchanged if f.problem in ("", GONE)]
    reasons = {
        **(damages(connection, sound) if connection is not None else {}),
        **{f.path: f.problem for f in unchanged if f.problem not in ("", GONE)},
        **{f.path: _difference(f, altered[f.path]) for f in files if f.path in altered},
    }
    yield from of_files((f, reasons.get(f.path, "")) for f in files)
    for copy in copies(f for f in files if f.path not in gone and f.path not in reasons):
        yield Problem(copy.run_id, copy.rank, f"{copy.second}: {copy.problem}")


def of_files(reasons: Iterable[tuple[ProfileFile, str]]) -> Iterator[Problem]:
    """Problems of files, what is wrong with each given; one for all files of a run with which the same is wrong."""
    alike: dict[tuple[str, str, str], list[ProfileFile]] = defaultdict(list)
    for file, reason in reasons:
        if reason:
            alike[file.run_id, file.run_directory, reason].append(file)
    for (run_id, _, reason), members in alike.items():
        if len(members) == 1:
            yield Problem(run_id, members[0].rank, f"{members[0].path}: {reason}")
        else:
            first = min(f.path for f in members)
            yield Problem(run_id, None, f"{len(members):,} files, first {first}: {reason}")


def _gone(files: Sequence[ProfileFile], gone: Sequence[ProfileFile]) -> Iterator[Problem]:
    """One problem per run, as all files of a run tend to go together."""
    total = Counter(f.run_id for f in files)
    for run_id, members in groupby(sorted(gone, key=lambda f: (f.run_id, f.path)), key=lambda f: f.run_id):
        paths = [f.path for f in members]
        yield Problem(
            run_id,
            None,
            f"{len(paths)} of {total[run_id]} files are gone, first {paths[0]}: add the run again where they are back, "
            "or bring the index to what is there with vtrain-catalog repair (which finds what they were merged into); "
            f"vtrain-catalog remove {run_id} takes the run off",
        )


def _difference(before: ProfileFile, now: ProfileFile) -> str:
    """What a file is now that was another one when it was added."""
    if now.problem:
        return now.problem
    if before.rows != now.rows:
        what = f"has {now.rows:,} rows, had {before.rows:,}"
    elif before.bytes != now.bytes:
        what = f"has {now.bytes:,} bytes, had {before.bytes:,}"
    else:
        what = "was written again"
    return f"changed since it was added ({what}): add it again"


def rank_problems(
    connection: duckdb.DuckDBPyConnection, chosen: str, files: Sequence[ProfileFile], gone: Sequence[ProfileFile]
) -> Iterator[Problem]:
    """Runs without a row of their own, and ranks that wrote nothing.

    chosen: SQL that chooses runs. files: of these. gone: those of them that are.
    """
    runs = connection.execute(
        f"SELECT run_id, world_size, devices_per_host, chosen_ranks, source FROM runs WHERE {chosen}"
    ).fetchall()
    worlds = {}
    for run_id, size, per_host, listed, source in runs:
        expected = set[int]()
        try:
            expected = parse_ranks(listed or "").of_world(size or 0, per_host or 1)
        except ValueError as error:
            yield Problem(run_id, None, f"chosen_ranks of its runs table: {error}")
        worlds[run_id] = expected, source
    captured: dict[str, set[int]] = {}
    for run_id, rank in connection.execute(f"SELECT run_id, rank FROM ranks WHERE {chosen}").fetchall():
        captured.setdefault(run_id, set()).add(rank)
    # Of a run without any file it is said that they are gone.
    for run_id in sorted({f.run_id for f in set(files) - set(gone)}):
        if run_id not in worlds:
            yield Problem(run_id, None, "its runs table is missing: no rank wrote one")
            continue
        expected, source = worlds[run_id]
        missing = sorted(expected - captured.get(run_id, set()))
        if missing and source not in _ONE_PROCESS:
            some = ", ".join(map(str, missing[:_LISTED_RANKS])) + (", ..." if len(missing) > _LISTED_RANKS else "")
            yield Problem(run_id, None, f"{len(missing)} of {len(expected)} ranks are missing: {some}")


def sum_problems(connection: duckdb.DuckDBPyConnection, chosen: str) -> Iterator[Problem]:
    """Steps whose parts add up to more than their duration."""
    for run_id, rank, step, excess, steps in connection.execute(
        f"""
        SELECT run_id, rank, arg_max(step, -other_ns / duration_ns), max(-other_ns / duration_ns), count(*)
        FROM step_breakdown WHERE {chosen} AND other_ns < -$most * duration_ns GROUP BY ALL ORDER BY ALL
        """,
        {"most": _MOST_EXCESS},
    ).fetchall():
        more = f" ({steps} of its steps do)" if steps > 1 else ""
        yield Problem(
            run_id,
            rank,
            f"the parts of step {step} add up to {1 + excess:.0%} of its duration{more}: something is counted twice",
        )


def launch_problems(connection: duckdb.DuckDBPyConnection, chosen: str) -> Iterator[Problem]:
    """Ranks on which the device waited for launches during much of the operators' time."""
    for run_id, rank, share in connection.execute(
        f"""
        SELECT run_id, rank, sum(duration_ns) FILTER (host_bound) / sum(duration_ns) AS share FROM operators
        WHERE {chosen} AND source = 'module' AND kind NOT IN ('microbatch', 'step_overhead')
        GROUP BY ALL HAVING share > $most ORDER BY ALL
        """,
        {"most": _MUCH_HOST_BOUND},
    ).fetchall():
        yield Problem(
            run_id,
            rank,
            f"the device may have waited for launches in {share:.0%} of the operators' time: the host was not done "
            "with launching them when the device began",
        )


def step_problems(connection: duckdb.DuckDBPyConnection, chosen: str) -> Iterator[Problem]:
    """Ranks that captured other steps than most, and steps that do not start together."""
    for run_id, rank, steps, usual in connection.execute(
        f"""
        WITH p AS (SELECT run_id, rank, list(step ORDER BY step) AS steps FROM steps WHERE {chosen} GROUP BY ALL)
        SELECT run_id, rank, steps, mode(steps) OVER (PARTITION BY run_id) AS usual
        FROM p QUALIFY steps <> usual
        """
    ).fetchall():
        yield Problem(run_id, rank, f"has steps {steps}, other ranks have {usual}")
    # Wall-clock starts of one step on one host agree within the step itself.
    for run_id, step, spread, longest in connection.execute(
        f"""
        SELECT run_id, step, max(start_ns) - min(start_ns) AS spread, max(duration_ns) AS longest
        FROM steps WHERE {chosen} GROUP BY ALL HAVING spread > longest AND count(*) > 1
        """
    ).fetchall():
        yield Problem(
            run_id,
            None,
            f"step {step} starts {spread / 1e9:.3f} s apart on different ranks, longer than the step "
            f"({longest / 1e9:.3f} s): clocks are not synchronised, compare durations only",
        )
