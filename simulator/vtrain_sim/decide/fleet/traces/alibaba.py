"""Alibaba's GPU traces of 2020 (Weng et al., NSDI 2022) and 2023 (Weng et al., USENIX ATC 2023)."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.decide.fleet.traces.base import (
    EMPTY,
    FAILED,
    FRACTION,
    UNSTARTED,
    WITHOUT_GPUS,
    Recorded,
    Recording,
    TraceFormat,
    number,
    rows_of,
)

_TASKS = ["job_name", "task_name", "inst_num", "status", "start_time", "end_time"]
_TASKS += ["plan_cpu", "plan_mem", "plan_gpu", "gpu_type"]


class Alibaba2020(TraceFormat):
    """``pai_task_table.csv``, which has no line of columns (with one, it is recognised by it).

    A job is all tasks of one job_name: its GPUs are those of all instances of all tasks, its duration is from the first
    start of a task to the last end, and it comes with the first start (when it was submitted is in another table).
    Jobs with a task that did not end as Terminated are left out, and those with an instance on a part of a GPU.
    """

    name = "alibaba-2020"
    title = "Alibaba's PAI of 2020"
    source = "github.com/alibaba/clusterdata, cluster-trace-gpu-v2020, pai_task_table.csv"
    columns = frozenset(_TASKS)

    def read(self, path: Path) -> Recording:
        """The jobs of a table of tasks."""
        with open(path, encoding="utf-8", errors="replace") as stream:
            headed = self.recognises(stream.readline())
        tasks: dict[str, list[dict[str, str | None]]] = {}
        for row in rows_of(path, _TASKS, None if headed else _TASKS):
            tasks.setdefault(row["job_name"] or "", []).append(row)
        recording = Recording(self.title)
        for name, rows in tasks.items():
            self._add(recording, f"{path}, job {name}", name, rows)
        return recording

    def _add(self, recording: Recording, where: str, name: str, rows: list[dict[str, str | None]]) -> None:
        each = [number(where, "plan_gpu", row["plan_gpu"] or 0) / 100 for row in rows]
        counts = [number(where, "inst_num", row["inst_num"] or 0) for row in rows]
        if not any(each):
            recording.dropped[WITHOUT_GPUS] += 1
        elif any(row["status"] != "Terminated" for row in rows):
            recording.dropped[FAILED] += 1
        elif any(gpus != int(gpus) for gpus in each):
            recording.dropped[FRACTION] += 1
        elif any(not row["start_time"] or not row["end_time"] for row in rows):
            recording.dropped[EMPTY] += 1
        else:
            begin = min(number(where, "start_time", row["start_time"]) for row in rows)
            end = max(number(where, "end_time", row["end_time"]) for row in rows)
            gpus = int(sum(g * n for g, n in zip(each, counts, strict=True)))
            recording.add(Recorded(name, begin, gpus, end - begin))


class Alibaba2023(TraceFormat):
    """``openb_pod_list_*.csv``: a pod is a job; it lasts from scheduled_time to deletion_time.

    Phases Running and Succeeded are jobs, Failed and Pending are left out, and pods on a part of a GPU.
    """

    name = "alibaba-2023"
    title = "Alibaba's OpenB of 2023"
    source = "github.com/alibaba/clusterdata, cluster-trace-gpu-v2023, csv/openb_pod_list_*.csv"
    columns = frozenset({"name", "num_gpu", "gpu_milli", "pod_phase", "creation_time", "deletion_time"})

    def read(self, path: Path) -> Recording:
        """The pods of a list."""
        recording = Recording(self.title)
        for row in rows_of(path, [*sorted(self.columns), "scheduled_time"]):
            where = f"{path}, pod {row['name']}"
            gpus = int(number(where, "num_gpu", row["num_gpu"]))
            if gpus < 1:
                recording.dropped[WITHOUT_GPUS] += 1
            elif row["pod_phase"] == "Failed":
                recording.dropped[FAILED] += 1
            elif row["pod_phase"] == "Pending" or not row["scheduled_time"]:
                recording.dropped[UNSTARTED] += 1
            elif number(where, "gpu_milli", row["gpu_milli"]) < 1000:
                recording.dropped[FRACTION] += 1
            else:
                times = [number(where, n, row[n]) for n in ("creation_time", "scheduled_time", "deletion_time")]
                recording.add(Recorded(str(row["name"]), times[0], gpus, times[2] - times[1]))
        return recording
