"""A study: the best plans of many models on many clusters, unit by unit, here or on a Ray cluster.

Every unit (one model, cluster and global batch) is one file in the output directory, written whole when
it is done: a study that was interrupted goes on where it stopped, and who ran a unit does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.decide.objective import RANKINGS
from vtrain_sim.decide.plan import plan
from vtrain_sim.decide.request import Request
from vtrain_sim.decide.search.bounds import Bounds
from vtrain_sim.decide.search_space import Workload
from vtrain_sim.errors import UserError
from vtrain_sim.file_table import FileList, FileTable
from vtrain_sim.inputs import spec_file
from vtrain_sim.inputs.lookup import find_cluster
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs.checks import one_of
from vtrain_sim.whole_file import write_file

SCHEMA = "vtrain.study/1"
EXECUTORS = ("local", "ray")
_BATCHES = "global_batch_sizes"
_KNOWN = ("models", "clusters", _BATCHES, "num_gpus", "max_gpus", "train_tokens", "rank_by", "top")
# A worker may die as often before its unit is given up.
RETRIES = 5


@dataclass(frozen=True)
class Unit:
    """One search of a study. num_gpus: exact counts; max_gpus: all up to it.

    model: what the study calls it. preset, flags: what that means, where it is the name of a job and not of a model.
    """

    model: str
    cluster: str
    global_batch_size: int
    num_gpus: tuple[int, ...]
    max_gpus: int
    train_tokens: float
    rank_by: str
    top: int
    preset: str = ""
    flags: tuple[str, ...] = ()

    @property
    def workload(self) -> Workload:
        """The model, and what is fixed of its training step."""
        return Workload(self.preset, self.flags) if self.preset or self.flags else Workload(self.model)

    def to_dict(self) -> Document:
        """The unit in its result: what decides it."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("preset", "flags")}

    @property
    def name(self) -> str:
        """File name of the result: readable, and another one for any other unit."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:10]
        return f"{_label(self.model)}-{_label(self.cluster)}-{self.global_batch_size}-{digest}.json"


def _label(name: str) -> str:
    """The name of a preset as it is (it may have a point in it), of a file without folder and ending."""
    path = Path(name)
    name = path.stem if path.suffix in (".json", ".toml", ".yaml", ".yml", ".sh") else path.name
    return name.replace(":", "-")


@dataclass(frozen=True, repr=False)
class StudyResult(Result):
    """Results of all units of a study, in their order: plans (at most `Unit.top`), or a reason.

    >>> import vtrain as vt
    >>> result = vt.study("study.toml", out="results")
    >>> result.rows()[0]["model"]
    'gpt3-1.3b'
    """

    results: tuple[Document, ...]

    def summary(self) -> dict[str, object]:
        """Units, and how many have a plan."""
        return {"units": len(self.results), "planned": sum(bool(r.get("plans")) for r in self.results)}

    def rows(self) -> list[Row]:
        """The best plan of each unit; times in seconds, cost in US dollars."""
        return [_best_row(result) for result in self.results]

    def to_dict(self) -> Document:
        """All results, each of schema vtrain.study/1."""
        return {"schema": SCHEMA, "results": list(self.results)}

    def document(self) -> object:
        """The list of results."""
        return list(self.results)


_COLUMNS = ("num_gpus", "tp", "pp", "vpp", "dp", "mbs", "recompute", "iteration_time_s", "days", "cost_usd", "mfu")


def _best_row(result: Document) -> Row:
    unit, best = result["unit"], (result.get("plans") or [{}])[0]
    return {
        **{name: unit[name] for name in ("model", "cluster", "global_batch_size")},
        **{name: best.get(name) for name in _COLUMNS},
        "reason": result.get("reason", ""),
    }


def of_models(names: Iterable[str]) -> dict[str, Workload]:
    """What names mean that are presets or ``config.json`` files. Raises `UserError` for others."""
    read = {name: Workload(name) for name in names}
    for workload in read.values():  # a misspelt name is found before hours of work
        workload.space(Bounds())
    return read


def read_study(path: Path, read: Callable[[Iterable[str]], Mapping[str, Workload]] = of_models) -> list[Unit]:
    """Units of a study file (TOML or YAML): models, clusters and global_batch_sizes (lists), num_gpus (a
    list) or max_gpus, train_tokens, rank_by and top. Without global_batch_sizes each job has its own.

    read: what the names of models mean. Raises `UserError`."""
    table = spec_file.load(path)
    for name in table:
        if name not in _KNOWN:
            raise UserError(f"{path}: unknown entry {name!r}: known are {', '.join(_KNOWN)}")
    models, clusters = ([str(name) for name in _list(table, entry, path)] for entry in _KNOWN[:2])
    try:
        gpus = tuple(int(n) for n in table.get("num_gpus", ()))
        most, top = int(table.get("max_gpus", 0)), int(table.get("top", 3))
        tokens = float(table.get("train_tokens", 0.0))
        batches = [int(b) for b in _list(table, _BATCHES, path)] if _BATCHES in table else []
    except UserError:
        raise
    except (TypeError, ValueError):
        raise UserError(f"{path}: a number of GPUs, batch or tokens is not a number") from None
    if not gpus and not most:
        raise UserError(f"{path} says neither num_gpus nor max_gpus")
    rank_by = str(table.get("rank_by", "days"))
    one_of("rank_by", rank_by, RANKINGS)
    workloads = read(models)
    for cluster in clusters:
        find_cluster(cluster)
    if missing := [name for name in models if not workloads[name].batches(batches)]:
        raise UserError(f"{path} does not list its {_BATCHES}, and {missing[0]} does not say its own")
    return [
        Unit(m, c, b, gpus, most, tokens, rank_by, top, *_job(m, workloads[m]))
        for m, c in product(models, clusters)
        for b in workloads[m].batches(batches)
    ]


def _job(name: str, workload: Workload) -> tuple[str, tuple[str, ...]]:
    """What a unit says of a job beside its name: nothing of a model."""
    return ("", ()) if workload == Workload(name) else (workload.model, workload.flags)


def _list(table: FileTable, name: str, path: Path) -> FileList:
    value = table.get(name)
    if not isinstance(value, list) or not value:
        raise UserError(f"{path} does not list its {name}")
    return value


def run_unit(unit: Unit) -> Document:
    """The plans of one unit; a search without a result is one, with its reason."""
    machine, surfaces = find_cluster(unit.cluster)
    projector = Projector.modelled(machine, Surfaces.from_dict(surfaces))
    model, step, bounds = unit.workload.space(Bounds())
    request = Request(
        model,
        (unit.global_batch_size,),
        unit.train_tokens,
        unit.num_gpus,
        unit.max_gpus,
        bounds,
        step,
        unit.rank_by,
    )
    result: Document = {"schema": SCHEMA, "unit": unit.to_dict()}
    try:
        document = plan(request, projector, unit.top).to_dict()
    except UserError as error:
        return {**result, "reason": str(error)}
    # How long it took is no part of the result: it is the same wherever it ran.
    return {**result, **{k: v for k, v in document.items() if k not in ("schema", "elapsed_s")}}


def run_study(
    units: Sequence[Unit],
    out: Path,
    executor: str = "local",
    address: str = "",
    progress: Progress = unwatched,
) -> list[Document]:
    """Results of all units, in their order; those whose file is there already are not run again.

    address: of a running Ray cluster; empty: one on this machine. Raises `UserError`.
    """
    one_of("--executor", executor, EXECUTORS)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror}") from None
    missing = [u for u in units if not (out / u.name).exists()]
    done = len(units) - len(missing)
    progress(done, len(units), done / len(units))
    for unit, result in _on_ray(missing, address) if executor == "ray" else ((u, run_unit(u)) for u in missing):
        write_file(out / unit.name, partial(_dump, result))
        done += 1
        progress(done, len(units), done / len(units))
    return [_read(out / u.name, u) for u in units]


def _read(path: Path, unit: Unit) -> Document:
    """The result of a unit. Raises `UserError` for a file that holds something else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        result = None
    if not isinstance(result, dict) or result.get("unit") != json.loads(json.dumps(unit.to_dict())):
        raise UserError(f"{path} is not the result of its unit: delete it, and the study runs the unit again")
    plans = result.get("plans")
    complete = isinstance(plans, list) and plans and all(map(_is_plan, plans))
    if not complete and not isinstance(result.get("reason"), str):
        raise UserError(f"{path} has neither plans nor a reason: delete it, and the study runs the unit again")
    return result


def _is_plan(plan: object) -> bool:
    if not isinstance(plan, dict):
        return False
    figures = [plan.get(name) for name in _COLUMNS if name != "recompute"]
    return all(isinstance(value, (int, float)) for value in figures) and isinstance(plan.get("recompute"), str)


def _dump(result: Document, stream: IO[bytes]) -> None:
    stream.write(json.dumps(result, indent=1).encode())


def _on_ray(units: Sequence[Unit], address: str) -> Iterator[tuple[Unit, Document]]:
    """Results as they come. Ray runs the unit of a worker that died again on another one."""
    if not units:
        return
    try:
        import ray
    except ImportError:
        raise UserError("--executor ray needs Ray: pip install 'vtrain[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address or None, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot reach the Ray cluster {address or 'on this machine'}: {error}") from None
    try:
        task = ray.remote(max_retries=RETRIES)(run_unit)
        waiting = {task.remote(unit): unit for unit in units}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            unit = waiting.pop(ready)
            try:
                yield unit, ray.get(ready)
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"{unit.model} on {unit.cluster} was given up after {RETRIES + 1} attempts "
                    f"({type(error).__name__}): start the study again, what is done stays"
                ) from None
    finally:
        if ours:
            ray.shutdown()
