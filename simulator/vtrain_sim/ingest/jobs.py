"""Which of the traces in one place are of one job: by what they say of it, by when they ran, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np

from vtrain_sim.ingest.kineto_values import TimeScale
from vtrain_sim.ingest.notes import Notes
from vtrain_sim.ingest.nsys_export import Export, whole

# What all ranks of a job have in common: libraries, and the names that schedulers give it.
_OF_JOB = ("cuda_runtime_version", "hip_runtime_version", "mast_job_name", "tw_job", "job_name", "job_id")
_OF_WORLD = ("backend", "nccl_version")
# Ranks of one job begin to record within this: their first steps may be as far apart as clocks and loading are.
_APART_NS = 600 * 10**9
# Clocks of hosts are this much apart at most, where it is known until when a trace lasts.
_CLOCKS_NS = 60 * 10**9
_TIME = re.compile(rb'"ts"\s*:\s*"?(\d{1,20}(?:\.\d{1,9})?)')
RANK = re.compile(r"(?:rank|worker|proc|gpu|node|report)[-_.]?(\d+)|[._-]r(\d+)(?=[._-])|^(\d+)(?=\.)", re.IGNORECASE)

SAID, WHEN, NAMED = "what they say of their job", "when they ran", "their names"


class Dated(Protocol):
    """What there is to tell the job of a trace by.

    job: what it says. began_ns, ended_ns: since 1970; None where it does not say them.
    """

    @property
    def rank(self) -> int | None: ...
    @property
    def file_name(self) -> str: ...
    @property
    def job(self) -> tuple[str, ...]: ...
    @property
    def began_ns(self) -> int | None: ...
    @property
    def ended_ns(self) -> int | None: ...


_Trace = TypeVar("_Trace", bound=Dated)


def job_of(metadata: Mapping[str, object]) -> tuple[str, ...]:
    """What a Kineto trace says of its job that is the same on all its ranks."""
    distributed = metadata.get("distributedInfo")
    distributed = distributed if isinstance(distributed, dict) else {}
    return (*(str(metadata.get(n, "")) for n in _OF_JOB), *(str(distributed.get(n, "")) for n in _OF_WORLD))


def time_within(metadata: Mapping[str, object], head: bytes, where: str) -> int | None:
    """A time at the begin of a Kineto trace, ns since 1970, from the first events of its text; None if unknown.

    Raises `UserError` for a base time that is none.
    """
    scale = TimeScale(metadata, where, Notes())
    times, good = scale.times([found.decode() for found in _TIME.findall(head)])
    base_ns = scale.base_ns()
    if base_ns is None or not good.any():
        return None
    # The middle one: labels, which come first, have no time of their own, and damage may make any.
    return int(np.sort(times[good])[good.sum() // 2]) + base_ns


def session_times(export: Export) -> tuple[int | None, int | None]:
    """Begin and end of an Nsight Systems session, ns since 1970; None where the report does not say them."""
    began = whole(export.value("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"))
    # Its startTime and stopTime are of the machine's own clock.
    lasted = whole(export.value("ANALYSIS_DETAILS", "duration"))
    if not 0 < began < 1 << 61:
        return None, None
    return began, began + lasted if 0 <= lasted < 1 << 61 else None


def by_job(traces: Sequence[_Trace]) -> tuple[list[list[_Trace]], list[str]]:
    """The traces of each job, and what told the jobs apart; traces that may be of one job stay together."""
    jobs: list[list[_Trace]] = [list(traces)]
    reasons = []
    for split, reason in ((_by_word, SAID), (_by_time, WHEN), (_by_name, NAMED), (_by_round, WHEN)):
        parts = [part for job in jobs for part in split(job)]
        if len(parts) > len(jobs):
            reasons.append(reason)
        jobs = parts
    return jobs, list(dict.fromkeys(reasons))


def _partition(traces: Sequence[_Trace], key: Callable[[_Trace], Hashable]) -> list[list[_Trace]]:
    parts: dict[Hashable, list[_Trace]] = {}
    for trace in traces:
        parts.setdefault(key(trace), []).append(trace)
    return list(parts.values())


def _by_word(traces: list[_Trace]) -> list[list[_Trace]]:
    """Apart where they contradict each other; what does not say a word that tells others apart is of another job."""
    telling = [len({word for word in words if word}) > 1 for words in zip(*(t.job for t in traces), strict=True)]
    return _partition(traces, lambda trace: tuple(w for w, tells in zip(trace.job, telling, strict=True) if tells))


def _by_time(traces: list[_Trace]) -> list[list[_Trace]]:
    """Apart where nothing ran for too long; then those that do not say when they ran are of another job, too."""
    ordered = _in_time([trace for trace in traces if trace.began_ns is not None])
    if not ordered:
        return [traces]
    parts = [[ordered[0]]]
    last_ns = _last_ns(ordered[0])
    for trace in ordered[1:]:
        if (trace.began_ns or 0) > last_ns:
            parts.append([])
        parts[-1].append(trace)
        last_ns = max(last_ns, _last_ns(trace))
    undated = [trace for trace in traces if trace.began_ns is None]
    return [traces] if len(parts) == 1 else [*parts, undated] if undated else parts


def _in_time(traces: Sequence[_Trace]) -> list[_Trace] | None:
    """In the order in which they began; None where that is not known of each."""
    if any(trace.began_ns is None for trace in traces):
        return None
    return sorted(traces, key=lambda trace: (trace.began_ns or 0, trace.rank or 0, trace.file_name))


def _last_ns(trace: Dated) -> int:
    """Until when another trace of the same job may begin, ns since 1970."""
    return trace.ended_ns + _CLOCKS_NS if trace.ended_ns is not None else (trace.began_ns or 0) + _APART_NS


def _repeats(traces: Sequence[Dated]) -> bool:
    ranks = [trace.rank for trace in traces]
    return None not in ranks and len(set(ranks)) < len(ranks)


def _by_name(traces: list[_Trace]) -> list[list[_Trace]]:
    """Ranks that are there several times: apart where the names without the rank differ, if that leaves one of each."""
    if not _repeats(traces):
        return [traces]
    matches = [(trace, RANK.search(trace.file_name)) for trace in traces]
    if any(m is None or trace.rank != int(next(g for g in m.groups() if g)) for trace, m in matches):
        return [traces]
    parts = _partition(traces, lambda trace: RANK.sub("", trace.file_name, count=1))
    return [traces] if any(map(_repeats, parts)) or max(map(len, parts)) == 1 else parts


def _by_round(traces: list[_Trace]) -> list[list[_Trace]]:
    """Ranks that are there several times: apart where each rank begins anew well after all ranks had begun."""
    ordered = _in_time(traces) if _repeats(traces) else None
    if ordered is None:
        return [traces]
    rounds: list[list[_Trace]] = [[]]
    for trace in ordered:
        if trace.rank in {other.rank for other in rounds[-1]}:
            rounds.append([])
        rounds[-1].append(trace)
    spans = [((r[0].began_ns or 0), (r[-1].began_ns or 0)) for r in rounds]
    spread = max(last - first for first, last in spans)
    complete = len({frozenset(t.rank for t in r) for r in rounds}) == 1 and len(rounds[0]) > 1
    apart = all(following[0] - before[1] > spread for before, following in pairwise(spans))
    return rounds if complete and apart else [traces]
