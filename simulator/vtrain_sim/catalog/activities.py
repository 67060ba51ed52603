"""What each rank of a captured step did, as the critical path needs it: kernels, or spans where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import duckdb

from vtrain_schemas.views import KERNEL_NAME
from vtrain_schemas.words import TRACES
from vtrain_sim.catalog.path_walk import COMMUNICATION, COMPUTE, COPY, Activity, Arrival, CallKey, RankLine
from vtrain_sim.catalog.rows import dictionaries
from vtrain_sim.results import Row

# Spans that are communication where a call was waited for inside.
_WAITING = ("p2p", "grad_sync", "param_sync")
_REDUCTIONS = ("all_reduce", "reduce_scatter")
# No device has so many streams: with its device's number, a stream has one of its own.
_STREAMS = 1 << 32
_KINDS = {"communication": COMMUNICATION, "memory": COPY}
_KEY = "hash(CASE WHEN op IN ('send', 'recv') THEN 'p2p' ELSE op END, group_ranks)"
_OF_STEP = "run_id = $run AND step = $step"


@dataclass(frozen=True)
class CapturedStep:
    """One step of one run in a catalog. on_device: its kernels are known."""

    connection: duckdb.DuckDBPyConnection
    run_id: str
    step: int
    on_device: bool

    @property
    def _source(self) -> str:
        """Calls as the device saw them beside kernels, else as whoever watched the host did."""
        imported = f"run_id IN (SELECT run_id FROM runs WHERE source IN {TRACES})"
        return f"source IN {TRACES}" if self.on_device else f"(source NOT IN {TRACES} OR {imported})"

    def _rows(self, query: str, **values: object) -> list[Row]:
        return dictionaries(self.connection.execute(query, {"run": self.run_id, "step": self.step, **values}))

    def ends(self) -> dict[int, tuple[int, int]]:
        """Begin and end of the step on each rank, ns: the end of its last kernel where that is later."""
        last = f"SELECT rank, max(start_ns + duration_ns) AS last_ns FROM kernels WHERE {_OF_STEP} GROUP BY rank"
        rows = self._rows(
            f"SELECT rank, start_ns, greatest(start_ns + duration_ns, coalesce(last_ns, 0)) AS end_ns "
            f"FROM steps LEFT JOIN ({last}) USING (rank) WHERE {_OF_STEP} ORDER BY rank"
        )
        return {row["rank"]: (row["start_ns"], row["end_ns"]) for row in rows}

    def arrivals(self) -> dict[CallKey, Arrival]:
        """Who came last to each call of which several ranks were seen: the one that waited least. Where nobody knows
        the end, the one that was blocked least in a point-to-point call, or that began last by the clocks."""
        rows = self._rows(
            f"""
            WITH calls AS (
                SELECT {_KEY} AS key, sequence, rank, start_ns, duration_ns, exposed_ns, op IN ('send', 'recv') AS p2p
                FROM collectives WHERE {_OF_STEP} AND {self._source} AND len(group_ranks) > 1
            )
            SELECT key, sequence,
                CASE WHEN count(duration_ns) = count(*) THEN min(duration_ns) END AS transfer_ns,
                CASE WHEN count(duration_ns) = count(*) THEN arg_min([rank, start_ns], [duration_ns, rank])
                    WHEN bool_and(p2p) THEN arg_min([rank, start_ns], [exposed_ns, rank])
                    ELSE arg_max([rank, start_ns], [start_ns, -rank]) END AS last
            FROM calls GROUP BY key, sequence HAVING count(DISTINCT rank) > 1
            """
        )
        return {
            (row["key"], row["sequence"]): Arrival(row["last"][0], row["last"][1], row["transfer_ns"])
            for row in rows
            if row["last"] is not None
        }

    def calls(self, rank: int) -> list[Row]:
        """Calls of one rank; key: None where the group is not known."""
        return self._rows(
            f"SELECT CASE WHEN group_ranks IS NOT NULL THEN {_KEY} END AS key, sequence, op, role, span_id, stream, "
            f"start_ns, duration_ns, exposed_ns FROM collectives "
            f"WHERE {_OF_STEP} AND rank = $rank AND {self._source} ORDER BY start_ns",
            rank=rank,
        )

    def line(self, rank: int, begin_ns: int, end_ns: int) -> RankLine:
        """What a rank did between begin and end of its step."""
        # "unknown" is what traces without a host were given once.
        query = "SELECT nullif(host, 'unknown') FROM ranks WHERE run_id = ? AND rank = ?"
        (host,) = self.connection.execute(query, [self.run_id, rank]).fetchone() or (None,)
        if self.on_device:
            return RankLine(begin_ns, end_ns, self._kernels(rank), True, host)
        return RankLine(begin_ns, end_ns, _innermost(self._intervals(rank), begin_ns, end_ns), False, host)

    def _kernels(self, rank: int) -> list[Activity]:
        calls = {(call["start_ns"], call["duration_ns"]): call for call in self.calls(rank)}
        # Tuples: a rank has many kernels.
        stream = f"coalesce(device, 0)::BIGINT * {_STREAMS} + coalesce(stream, -1)"
        rows = self.connection.execute(
            f"SELECT kind, {KERNEL_NAME}, start_ns, duration_ns, {stream}, launch_ns, operator "
            f"FROM kernels WHERE {_OF_STEP} AND rank = $rank AND duration_ns > 0",
            {"run": self.run_id, "step": self.step, "rank": rank},
        ).fetchall()
        found = []
        for kind, name, start_ns, duration_ns, on_stream, launch_ns, operator in rows:
            call = calls.get((start_ns, duration_ns)) if kind == "communication" else None
            label = name if call is None else _call_name(call)
            word, key, end_ns = _KINDS.get(kind, COMPUTE), _call_key(call), start_ns + duration_ns
            found.append(Activity(start_ns, end_ns, word, label, "", on_stream, launch_ns, key, operator or ""))
        return found

    def _intervals(self, rank: int) -> list[tuple[int, Activity]]:
        """Spans and blocking calls with their depth: of those that are open at a time, the deepest is what runs."""
        spans = self._rows(
            f"SELECT span_id, parent_id, name, kind, phase, start_ns, duration_ns FROM spans "
            f"WHERE {_OF_STEP} AND rank = $rank AND stream IS NULL AND duration_ns > 0",
            rank=rank,
        )
        calls = self.calls(rank)
        parents = {span["span_id"]: span["parent_id"] for span in spans}

        @cache
        def depth(span_id: int) -> int:
            parent = parents.get(span_id)
            return 0 if parent is None or parent not in parents else depth(parent) + 1

        of_spans = [(depth(span["span_id"]), _span(span, _waited_for(span, calls))) for span in spans]
        blocking = [c for c in calls if c["duration_ns"] and c["exposed_ns"] and c["stream"] is None]
        # Nothing of the rank's own runs inside a call that blocks it.
        deepest = 1 + max((level for level, _ in of_spans), default=0)
        return of_spans + [(deepest, _call(call)) for call in blocking]


def _call_key(call: Row | None) -> CallKey | None:
    return None if call is None or call["key"] is None else (call["key"], call["sequence"])


def _call_name(call: Row) -> str:
    return f"{call['op']} {call['role']}"


def _span(span: Row, call: Row | None) -> Activity:
    kind = COMPUTE if call is None else COMMUNICATION
    # The path of a module begins with its layers: its last word says what it is.
    name = span["name"].rpartition(".")[2] if call is None else _call_name(call)
    return Activity(
        span["start_ns"], span["start_ns"] + span["duration_ns"], kind, name, span["phase"], call=_call_key(call)
    )


def _call(call: Row) -> Activity:
    end_ns = call["start_ns"] + call["duration_ns"]
    return Activity(call["start_ns"], end_ns, COMMUNICATION, _call_name(call), call=_call_key(call))


def _waited_for(span: Row, calls: list[Row]) -> Row | None:
    """The asynchronous call that a span waits for, for most of its time; None where it does not."""
    if span["kind"] not in _WAITING:
        return None
    begin_ns, end_ns = span["start_ns"], span["start_ns"] + span["duration_ns"]
    waiting = [c for c in calls if c["duration_ns"] is None and c["exposed_ns"]]
    inside = [c for c in waiting if begin_ns <= c["start_ns"] < end_ns]
    # Buckets of gradients are issued in the backward pass: what is waited for at its end is the last one.
    buckets = [c for c in waiting if c["start_ns"] < begin_ns and c["role"].endswith("dp") and c["op"] in _REDUCTIONS]
    last = buckets[-1] if buckets and span["kind"] == "grad_sync" else None
    chosen = max(inside, key=lambda c: int(c["exposed_ns"]), default=last)
    if chosen is None or span["kind"] == "p2p":
        return chosen
    return chosen if 2 * chosen["exposed_ns"] >= span["duration_ns"] else None


def _innermost(intervals: list[tuple[int, Activity]], begin_ns: int, end_ns: int) -> list[Activity]:
    """The deepest interval at each moment, as activities that follow one another without overlapping."""
    moments = sorted(
        [(activity.start_ns, 1, number) for number, (_, activity) in enumerate(intervals)]
        + [(activity.end_ns, 0, number) for number, (_, activity) in enumerate(intervals)]
    )
    running: set[int] = set()
    found: list[Activity] = []
    since_ns = begin_ns
    for at_ns, begins, number in moments:
        if running and at_ns > since_ns:
            deepest = max(running, key=lambda n: (intervals[n][0], intervals[n][1].start_ns))
            activity = intervals[deepest][1]
            found.append(Activity(since_ns, at_ns, activity.kind, activity.name, activity.phase, call=activity.call))
        since_ns = max(since_ns, at_ns)
        running.add(number) if begins else running.discard(number)
    return [activity for activity in found if activity.start_ns < end_ns]
