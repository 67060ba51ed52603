"""A captured step beside the simulated one: profiles of the plugin, traces, and measurements that sharpen a device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulator.ingest.build import AUTOGRAD, Kineto
from simulator.synthetic import write_profile
from vtrain_sim.api.job import job_from_run
from vtrain_sim.catalog import Catalog
from vtrain_sim.errors import UserError
from vtrain_sim.model import Communication, Compute, build_step
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs.config import Configuration
from vtrain_sim.validate.captured import compare, typical_error

BIN = Path(sys.executable).parent
FLAGS = [
    "--num-layers",
    "2",
    "--hidden-size",
    "2048",
    "--num-attention-heads",
    "16",
    "--seq-length",
    "2048",
    "--micro-batch-size",
    "1",
    "--global-batch-size",
    "2",
    "--vocab-size",
    "16384",
    "--make-vocab-size-divisible-by",
    "1",
    "--position-embedding-type",
    "rope",
    "--tensor-model-parallel-size",
    "2",
]
SLOWER = 1.3


def from_run(
    catalog: Path, runs: list[str], cluster: str, model: str, gpus: int, flags: list[str], modelled: bool = False
) -> tuple[Projector, Configuration]:
    job = job_from_run(catalog, runs, cluster, model, gpus, flags, modelled)
    return job.machine.projector, job.configuration


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / arguments[0]), *arguments[1:]], capture_output=True, text=True, check=False, cwd=cwd
    )


def traced_step(projector: Projector, configuration: Configuration, rank: int) -> Kineto:
    """A step of the configuration on a GPU that takes `SLOWER` times as long for every product as the surface says,
    as torch.profiler records it: modules, products with sizes, kernels on the device, all-reduces."""
    trace = Kineto(rank, 2, "NVIDIA A100-SXM4-80GB")
    costs = projector.evaluator.operators
    (stage,) = build_step(configuration).stages
    host, device, sequence = 100.0, 100.0, 0
    gemm = "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn"
    begin = host

    def launch(name: str, seconds: float, tid: int, stream: int = 7, **args: Any) -> None:
        nonlocal device
        trace.kernel(name, host + 1, device, seconds * 1e6, stream=stream, tid=tid, **args)
        device += seconds * 1e6

    def products(items: Iterator[Any] | tuple[Any, ...], tid: int, sequences: dict[str, int]) -> None:
        nonlocal host, sequence
        for item in items:
            if isinstance(item, Communication) and item.blocking:
                trace.event(
                    "cpu_op",
                    "record_param_comms",
                    host,
                    4,
                    tid=tid,
                    **{
                        "Collective name": "allreduce",
                        "In msg nelems": item.nbytes // 2,
                        "dtype": "BFloat16",
                        "Group size": 2,
                        "Process Group Name": "1",
                        "Process Group Description": "TENSOR_MODEL_PARALLEL_GROUP",
                        "Process Group Ranks": "[0, 1]",
                    },
                )
                launch("ncclDevKernel_AllReduce_Sum_bf16_RING_LL()", 50e-6, tid, stream=20)
                host += 5
            # The halves of a product beside which something is exchanged are one product.
            if not isinstance(item, Compute) or item.operator.kind != "gemm" or item.part > 0:
                continue
            o = item.operator
            seconds = costs.surface.seconds(o) * SLOWER
            if o.phase == "forward":
                sequence += 1
                sequences[item.name] = sequence
                trace.op("aten::mm", host, 4, [[o.m, o.k], [o.k, o.n]], seq=sequence, tid=tid)
                launch(gemm, seconds, tid)
            else:
                trace.op(
                    "autograd::engine::evaluate_function: MmBackward0", host, 12, seq=sequences[item.name], tid=tid
                )
                for sizes in ([[o.m, o.n], [o.n, o.k]], [[o.n, o.m], [o.m, o.k]]):
                    host += 1
                    trace.op("aten::mm", host, 4, sizes, tid=tid)
                    launch(gemm, seconds / 2, tid)
                    host += 5
            host += 5

    for _ in range(configuration.num_microbatches):
        seen: list[dict[str, int]] = []
        layers = [p for p, count in stage.chunks[0] if p.name == "layer" for _ in range(count)]
        for number, program in enumerate(layers):
            at, sequences = host, {}
            host += 1
            products(program.forward, 100, sequences)
            trace.module(f"TransformerLayer_{number}", at, host - at + 1)
            host += 2
            seen.append(sequences)
        at = host
        host += 1
        for program, sequences in zip(reversed(layers), reversed(seen), strict=True):
            products(program.backward, AUTOGRAD, sequences)
        trace.range("## backward ##", at, host - at + 1)
        host += 2
    trace.range("ProfilerStep#3", begin - 1, device + 100 - begin)
    return trace


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Configuration]:
    from vtrain_sim.costs.surfaces import Surfaces
    from vtrain_sim.inputs import presets
    from vtrain_sim.inputs.megatron_flags import configuration_from_flags

    folder = tmp_path_factory.mktemp("traced")
    cluster = "dgx-a100-80gb"
    projector = Projector.modelled(presets.cluster(cluster), Surfaces.from_dict(presets.cluster_surfaces(cluster)))
    configuration = configuration_from_flags(FLAGS, None, 2)
    (folder / "job").mkdir()
    for rank in (0, 1):
        traced_step(projector, configuration, rank).write(folder / "job" / f"{rank}.json.gz")
    catalog = Catalog(folder / "c.duckdb")
    catalog.add([str(folder / "job")])
    return catalog, configuration


def test_products_of_a_trace_sharpen_a_bundled_device(traced: tuple[Catalog, Configuration]) -> None:
    catalog, configuration = traced
    own, asked = from_run(catalog.path, ["job"], "dgx-a100-80gb", "", 2, FLAGS)
    bundled, _ = from_run(catalog.path, ["job"], "dgx-a100-80gb", "", 2, FLAGS, modelled=True)
    assert asked == configuration
    sharpened, before = own.project(asked), bundled.project(asked)
    assert before.provenance["measured"] == 0
    assert sharpened.provenance["measured"] > 0.2
    assert sharpened.breakdown_s["forward"] > 1.15 * before.breakdown_s["forward"]
    # An unseen size moves with those that were seen: by most of what they were off.
    wider = [*FLAGS, "--hidden-size", "3072", "--num-attention-heads", "24"]
    own, asked = from_run(catalog.path, ["job"], "dgx-a100-80gb", "", 2, wider)
    gemm = next(
        i.operator
        for p, _ in build_step(asked).stages[0].chunks[0]
        if p.name == "layer"
        for i in p.forward
        if isinstance(i, Compute) and i.operator.kind == "gemm"
    )
    costs, plain = own.evaluator.operators, bundled.evaluator.operators
    assert costs.estimate(gemm).seconds / plain.estimate(gemm).seconds == pytest.approx(SLOWER, rel=0.12)
    assert costs.estimate(gemm).sigma < plain.estimate(gemm).sigma
    # Only the two gradients were measured, one by one: an unseen backward pass is estimated by both.
    backward = replace(gemm, phase="backward")
    assert costs.estimate(backward).seconds / plain.estimate(backward).seconds == pytest.approx(SLOWER, rel=0.15)


def test_all_reduces_of_a_trace_are_the_networks(traced: tuple[Catalog, Configuration]) -> None:
    catalog, configuration = traced
    own, _ = from_run(catalog.path, ["job"], "dgx-a100-80gb", "", 2, FLAGS)
    size = next(
        i.nbytes
        for p, _ in build_step(configuration).stages[0].chunks[0]
        for i in p.forward
        if isinstance(i, Communication) and i.role == "tp" and i.nbytes > 1 << 20
    )
    estimate = own.evaluator.collectives.over_nodes("all_reduce", 2, size)
    assert estimate.seconds == pytest.approx(50e-6)
    assert estimate.provenance == "measured"


def test_a_trace_is_compared_layer_by_layer(traced: tuple[Catalog, Configuration]) -> None:
    catalog, _ = traced
    projector, configuration = from_run(catalog.path, ["job"], "dgx-a100-80gb", "", 2, FLAGS)
    found = compare(catalog, "job", projector, configuration)
    parts = {(p.part, p.direction): p for p in found.parts}
    layers = [parts[f"layer {n}", direction] for n in (1, 2) for direction in ("forward", "backward")]
    # The trace holds the products only, attention and the rest being what the simulation has on top.
    assert all(p.captured_s and p.simulated_s and 0.2 < p.captured_s / p.simulated_s <= 1 for p in layers)
    assert layers[0].captured_s == pytest.approx(layers[2].captured_s)
    assert parts["tp communication", ""].captured_s
    gemms = [o for o in found.operators if o.operator.kind == "gemm" and o.captured_calls]
    assert len(gemms) >= 8
    for row in gemms:
        assert row.captured_calls == row.simulated_calls
        assert row.captured_s == pytest.approx(row.simulated_s)
    assert found.ranks == 2
    assert not any("not in the simulated step" in r for r in found.remarks)


def test_a_wrong_configuration_shows(traced: tuple[Catalog, Configuration]) -> None:
    catalog, _ = traced
    flags = [*FLAGS, "--hidden-size", "1024"]
    projector, configuration = from_run(catalog.path, ["job"], "dgx-a100-80gb", "", 2, flags)
    found = compare(catalog, "job", projector, configuration)
    assert any("not in the simulated step" in r for r in found.remarks)


def test_a_captured_profile_is_compared_with_itself(tmp_path: Path) -> None:
    write_profile(tmp_path / "p")
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path / "p")])
    projector, configuration = from_run(catalog.path, ["base"], "", "", 0, [])
    found = compare(catalog, "base", projector, configuration)
    assert abs(found.error) < 0.01
    assert all(o.captured_s == pytest.approx(o.simulated_s, rel=0.01) for o in found.operators if o.captured_s)
    assert {o.provenance for o in found.operators} == {"measured"}
    assert typical_error(found.parts) is None or typical_error(found.parts) < 0.05  # type: ignore[operator]


def test_commands(traced: tuple[Catalog, Configuration], tmp_path: Path) -> None:
    catalog, _ = traced
    (tmp_path / "args.sh").write_text("torchrun --nproc-per-node 2 pretrain_gpt.py --bf16 " + " ".join(FLAGS))
    where = [
        "--run",
        "job",
        "--catalog",
        str(catalog.path),
        "--cluster",
        "dgx-a100-80gb",
        "--megatron-args",
        str(tmp_path / "args.sh"),
    ]
    shown = run("vtrain-sim", "validate", *where)
    assert shown.returncode == 0, shown.stderr
    assert "layer 2" in shown.stdout
    assert "measured" in shown.stdout
    answer = json.loads(run("vtrain-sim", "validate", *where, "--modelled", "--json").stdout)
    assert answer["schema"] == "vtrain.comparison/1"
    assert {p["part"] for p in answer["parts"]} >= {"layer 1", "layer 2", "tp communication"}
    projected = run("vtrain-sim", "project", *where, "--json")
    assert json.loads(projected.stdout)["provenance"]["measured"] > 0.2
    calibrated = run(
        "vtrain-sim",
        "calibrate",
        "--device",
        "a100-sxm-80gb",
        "--compute-units",
        "108",
        "--catalog",
        str(catalog.path),
        "--run",
        "job",
    )
    assert calibrated.returncode == 2
    assert "forward GEMM shapes" in calibrated.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["validate"], "nothing to compare with"),
        (["validate", "--catalog", "C"], "--catalog goes with --run"),
        (["validate", "--modelled", "x.csv"], "--modelled goes with --run"),
        (["validate", "x.csv", "--run", "job", "--catalog", "C"], "leave out tables"),
        (["validate", "--run", "job"], "--run needs --catalog"),
        (["validate", "--run", "job", "--catalog", "C"], "give --cluster"),
        (
            ["validate", "--run", "job", "--catalog", "C", "--cluster", "dgx-h100", "--model", "gpt3-1.3b"],
            "do not sharpen another's",
        ),
        (["validate", "--run", "jbo", "--catalog", "C"], "did you mean 'job'"),
        (["project", "--run", "job", "--catalog", "C", "--model", "gpt3-1.3b"], "give --cluster"),
    ],
)
def test_sentences(traced: tuple[Catalog, Configuration], arguments: list[str], sentence: str) -> None:
    catalog, _ = traced
    done = run("vtrain-sim", *(str(catalog.path) if a == "C" else a for a in arguments))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    trace = Kineto(device="NVIDIA A100-SXM4-80GB")
    trace.event("kernel", "gemm", 10, 5, stream=7)
    trace.write(tmp_path / "bare.json")
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path / "bare.json")])
    with pytest.raises(UserError, match="record_shapes"):
        from_run(catalog.path, ["bare"], "dgx-a100-80gb", "gpt3-1.3b", 0, [])
    # Collectives alone sharpen the network.
    network = Kineto(world=2)
    network.kernel(
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL()",
        5,
        50,
        900,
        stream=20,
        **{
            "Collective name": "allreduce",
            "In msg nelems": 1 << 20,
            "dtype": "BFloat16",
            "Group size": 2,
            "Process Group Ranks": "[0, 1]",
        },
    )
    network.write(tmp_path / "network.json")
    catalog.add([str(tmp_path / "network.json")])
    flags = ["--micro-batch-size", "1", "--global-batch-size", "2"]
    projector, _ = from_run(catalog.path, ["network"], "dgx-a100-80gb", "gpt3-1.3b", 2, flags)
    estimate = projector.evaluator.collectives.over_nodes("all_reduce", 2, 2 << 20)
    assert (estimate.seconds, estimate.provenance) == (pytest.approx(900e-6), "measured")
    nameless = Kineto(device="")
    nameless.op("aten::mm", 0, 5, [[8, 8], [8, 8]])
    nameless.kernel("gemm", 1, 10, 5)
    nameless.write(tmp_path / "nameless.json")
    catalog.add([str(tmp_path / "nameless.json")])
    with pytest.raises(UserError, match="does not say its GPU"):
        from_run(
            catalog.path,
            ["nameless"],
            "dgx-a100-80gb",
            "gpt3-1.3b",
            0,
            ["--micro-batch-size", "1", "--global-batch-size", "1"],
        )
