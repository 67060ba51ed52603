"""Microsoft's Philly (Jeon et al., USENIX ATC 2019): ``cluster_job_log`` of github.com/msr-fiddle/philly-traces."""

from __future__ import annotations

from pathlib import Path

import msgspec

from vtrain_sim.decide.fleet.traces.base import FAILED, RUNNING, UNSTARTED, Recorded, Recording, TraceFormat, seconds
from vtrain_sim.errors import UserError
from vtrain_sim.text_file import check_kind


class _Machine(msgspec.Struct):
    gpus: list[str] = []


class _Attempt(msgspec.Struct):
    start_time: str | None = None
    end_time: str | None = None
    detail: list[_Machine] = []


class _Job(msgspec.Struct):
    status: str
    vc: str
    jobid: str
    submitted_time: str
    attempts: list[_Attempt] = []


class Philly(TraceFormat):
    """A JSON list of jobs with their attempts. A job has the GPUs of its first attempt, and lasts as long as all its
    attempts together; its tenant is its virtual cluster. Status Failed is left out; Pass and Killed are jobs."""

    name = "philly"
    title = "Microsoft's Philly"
    source = "github.com/msr-fiddle/philly-traces, cluster_job_log"

    def recognises(self, head: str) -> bool:
        """By the names of its entries."""
        return head.lstrip().startswith("[") and '"jobid"' in head and '"attempts"' in head

    def read(self, path: Path) -> Recording:
        """The jobs of a ``cluster_job_log``."""
        check_kind(path)
        try:
            jobs = msgspec.json.decode(path.read_bytes(), type=list[_Job])
        except (OSError, msgspec.MsgspecError) as error:
            raise UserError(f"{path} is not a cluster_job_log of Philly: {error}") from None
        recording = Recording(self.title)
        for job in jobs:
            where = f"{path}, job {job.jobid}"
            if job.status == "Failed":
                recording.dropped[FAILED] += 1
            elif not job.attempts or all(attempt.start_time in (None, "None") for attempt in job.attempts):
                recording.dropped[UNSTARTED] += 1
            elif seconds(where, "end_time", job.attempts[-1].end_time) is None:
                recording.dropped[RUNNING] += 1
            else:
                gpus = sum(len(machine.gpus) for machine in job.attempts[0].detail)
                lasted = sum(_lasted(where, attempt) for attempt in job.attempts)
                submitted = seconds(where, "submitted_time", job.submitted_time)
                if submitted is None:
                    raise UserError(f"{where}: submitted_time is empty")
                recording.add(Recorded(job.jobid, submitted, gpus, lasted, job.vc))
        return recording


def _lasted(where: str, attempt: _Attempt) -> float:
    """Seconds of an attempt; 0 where its beginning or its end was not recorded."""
    begin = seconds(where, "start_time", attempt.start_time)
    end = seconds(where, "end_time", attempt.end_time)
    return max(0.0, end - begin) if begin is not None and end is not None else 0.0
