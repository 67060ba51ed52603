"""Pages of every kind of result, small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import vtrain as vt
from simulator.api.workplace import furnish
from simulator.synthetic import rank_row, run_row
from vtrain_plugin.capture.sink import Sink
from vtrain_sim.catalog import Catalog

CLUSTER = "dgx-a100-80gb"
# Names that would run a script, end the data or end an attribute, where they were not escaped.
HOSTILE = "</script><img src=x onerror=\"window.hacked=1\"><!--'\"&<b onclick='window.hacked=1'>"


def furnished(place: Path) -> Path:
    """A directory with the files that samples are made of."""
    furnish(place)
    study = "\n".join(
        (
            'models = ["gpt3-1.3b"]',
            f'clusters = ["{CLUSTER}", "dgx-h100"]',
            "global_batch_sizes = [64]",
            "num_gpus = [8, 16]",
            "train_tokens = 1e9",
        )
    )
    (place / "study.toml").write_text(study)
    _write_layers(place / "layers")
    Catalog(place / "vtrain.duckdb").add([str(place / "layers")])
    return place


def _write_layers(out: Path) -> None:
    """A run of two steps on one rank with four layers; layer n takes n ms forward and 2n ms backward."""
    sink = Sink(str(out), "layers", 0)
    steps = [{"step": step, "duration_ns": 40_000_000, "peak_allocated_bytes": (3 + step) << 30} for step in (5, 6)]
    spans = [
        {
            "step": step,
            "span_id": 10 * layer + passes,
            "name": f"layers.{layer}",
            "kind": "transformer_layer",
            "phase": phase,
            "layer_number": layer,
            "duration_ns": passes * layer * 1_000_000,
            "self_ns": 0,
            "start_ns": 0,
        }
        for step in (5, 6)
        for layer in range(1, 5)
        for passes, phase in ((1, "forward"), (2, "backward"))
    ]
    sink.write("runs", [run_row("layers", world_size=1, num_layers=4, device_name="a device")])
    sink.write("ranks", [rank_row("layers", 0)])
    for table, rows in (("steps", steps), ("spans", spans)):
        sink.write(table, [{"run_id": "layers", "rank": 0, "start_ns": 0, **row} for row in rows])


def samples(place: Path) -> dict[str, Callable[[], vt.Report]]:
    """What makes the report of each kind."""
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=16, tp=2, pp=4, vpp=2, mbs=1, gbs=32, overlap_grad_reduce=True)
    catalog = vt.Catalog(place / "vtrain.duckdb")
    fleet = {"num_gpus": 8, "jobs": 3, "models": "gpt3-1.3b", "policies": ["fifo", "elastic-plans"]}

    def planned() -> vt.PlanResult:
        return vt.plan(
            "gpt3-1.3b",
            cluster=CLUSTER,
            num_gpus=[8, 16, 32],
            global_batch_size=64,
            train_tokens=1e9,
            deadline_days=0.3,
            search="sharding",
            exhaustive=True,
        )

    return {
        "project": lambda: vt.report(vt.project(job, train_tokens=1e9), job, command="vtrain-sim project"),
        "sweep": lambda: vt.report(vt.sweep(job, tp=[1, 2, 3], recompute=["none", "full"])),
        "plan": lambda: vt.report(planned(), cluster=CLUSTER),
        "study": lambda: vt.report(vt.study(place / "study.toml", place / "out")),
        "schedule": lambda: vt.report(vt.schedule(cluster=CLUSTER, **fleet)),
        "placed-schedule": lambda: vt.report(
            vt.schedule(cluster=CLUSTER, **fleet, placement="packed", gpu_mtbf_hours=100.0)
        ),
        "size": lambda: vt.report(
            vt.size(cluster=CLUSTER, num_gpus=16, days=10, global_batch_size=256), cluster=CLUSTER
        ),
        "validate": lambda: vt.report(vt.validate(place / "measured.csv")),
        "compare": lambda: vt.report(vt.validate(run="base", catalog=place / "vtrain.duckdb")),
        "difference": lambda: vt.report(vt.compare(job, job.with_(tp=4, gbs=64))),
        "sensitivity": lambda: vt.report(vt.explain(job)),
        "run": lambda: vt.report(catalog.show("layers"), catalog=catalog),
        "collectives": lambda: vt.report(catalog.show("collectives"), catalog=catalog),
        "calibrate": lambda: vt.report(vt.calibrate(collectives=place / "collectives.csv", cluster=CLUSTER)),
        "query": lambda: vt.report(catalog.sql("SELECT * FROM steps")),
    }


def hostile() -> dict[str, vt.Report]:
    """Reports whose names, values and command are hostile."""
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, tp=2, pp=4, mbs=1, gbs=32)
    projection = vt.project(job)
    c = projection.configuration
    renamed = replace(
        projection,
        cluster=replace(projection.cluster, name=HOSTILE),
        configuration=replace(c, model=replace(c.model, name=HOSTILE)),
        breakdown_s={HOSTILE: 1.0, **projection.breakdown_s},
    )
    rows = [{HOSTILE: HOSTILE, "days": float(n), "megatron_args": f"--tp {n} {HOSTILE}"} for n in range(20)]
    return {
        "hostile-projection": vt.Report(renamed, vt.report(projection, job).others, HOSTILE),
        "hostile-table": vt.Report(vt.Table(HOSTILE, rows), (), HOSTILE),
        "hostile-sweep": vt.Report(replace(vt.sweep(job, recompute=["none", "full"]), cluster=HOSTILE)),
    }
