"""SenseTime's Helios (Hu et al., SC 2021) and Shanghai AI Laboratory's Acme (Hu et al., NSDI 2024): one row per job.

The duration is that from start_time to end_time: the column ``duration`` of Acme's cluster Kalos counts the time in the
queue too.
"""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.decide.fleet.traces.base import (
    FAILED,
    UNSTARTED,
    Recorded,
    Recording,
    TraceFormat,
    number,
    rows_of,
    seconds,
)

# How a job ended that had what it wanted of its GPUs: also one that its user stopped.
_ENDED = ("COMPLETED", "CANCELLED")
_NEEDED = ["job_id", "gpu_num", "state", "submit_time", "start_time", "end_time"]


class _JobsOfSlurm(TraceFormat):
    """tenant_column: whose jobs they are."""

    tenant_column: str

    def read(self, path: Path) -> Recording:
        """The jobs of a file; those that ended in another state than COMPLETED and CANCELLED are left out."""
        recording = Recording(self.title)
        for row in rows_of(path, [*_NEEDED, self.tenant_column]):
            where = f"{path}, job {row['job_id']}"
            gpus = number(where, "gpu_num", row["gpu_num"])
            submitted = seconds(where, "submit_time", row["submit_time"])
            begin = seconds(where, "start_time", row["start_time"])
            end = seconds(where, "end_time", row["end_time"])
            if gpus >= 1 and row["state"] not in _ENDED:
                recording.dropped[FAILED] += 1
            elif gpus >= 1 and (submitted is None or begin is None or end is None):
                recording.dropped[UNSTARTED] += 1
            else:
                lasted = (end or 0.0) - (begin or 0.0)
                tenant = row[self.tenant_column] or ""
                recording.add(Recorded(str(row["job_id"]), submitted or 0.0, int(gpus), lasted, tenant))
        return recording


class Helios(_JobsOfSlurm):
    """``cluster_log.csv`` of a cluster; the tenant of a job is its virtual cluster."""

    name = "helios"
    title = "SenseTime's Helios"
    source = "github.com/S-Lab-System-Group/HeliosData, data/*/cluster_log.csv"
    columns = frozenset({*_NEEDED, "vc", "node_num", "queue"})
    tenant_column = "vc"


class Acme(_JobsOfSlurm):
    """``trace_seren.csv`` and ``trace_kalos.csv``; the tenant of a job is its type (Pretrain, SFT, Evaluation, ...)."""

    name = "acme"
    title = "Shanghai AI Laboratory's Acme"
    source = "github.com/InternLM/AcmeTrace, data/job_trace/trace_*.csv"
    columns = frozenset({*_NEEDED, "type", "gpu_time"})
    tenant_column = "type"
