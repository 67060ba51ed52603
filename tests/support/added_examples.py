"""Uses every addition that CONTRIBUTING.md shows; runs in a copy of the tree that has them.

Prints a JSON object: for each section of "How to add", what went wrong, or an empty string.
"""

from __future__ import annotations

import doctest
import importlib
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from types import ModuleType

from typer.testing import CliRunner

import vtrain as vt
from vtrain_schemas.kernel_names import kernel_kind
from vtrain_schemas.operators import Operator
from vtrain_sim.commands import sim
from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.specs.groups import strided

DENSE = {"gpus": 32, "tp": 2, "pp": 4, "mbs": 1, "gbs": 64}
SMALL = ["--model", "gpt3-1.3b", "--cluster", "dgx-a100-80gb", "--micro-batch-size", "1", "--global-batch-size", "8"]
EXPERTS = {"gpus": 64, "tp": 2, "sp": True, "pp": 4, "ep": 8, "etp": 1, "mbs": 1, "gbs": 64}


def schedule() -> None:
    """Projects end to end; the timeline and the batch evaluation agree."""
    toy = vt.job("gpt3-13b", cluster="dgx-a100-80gb", schedule="one-at-a-time", **DENSE)
    usual = vt.project(toy.with_(schedule="1f1b"))
    projection = vt.project(toy)
    assert projection.iteration_time_s > 2 * usual.iteration_time_s
    timeline = vt.timeline(toy, detail="passes")
    assert abs(timeline.iteration_time_s / projection.iteration_time_s - 1) < 1e-9
    assert projection.memory.stages[0].activations_bytes < usual.memory.stages[0].activations_bytes


def operator_kind() -> None:
    """Gets an estimate, bytes and saved tensors; the schema has it."""
    from vtrain_schemas.words import OPERATOR_KINDS

    operator = Operator("scan", "forward", 4096, 8192)
    surfaces = Surfaces.from_dict(presets.device_surfaces("a100-sxm-80gb"))
    device = presets.device("a100-sxm-80gb")
    estimate = OperatorCosts(DeviceSurface(device, surfaces)).estimate(operator)
    assert estimate.seconds >= 2 * 2 * 4096 * 8192 / device.memory_bandwidth
    assert operator.saved_bytes() == 2 * 4096 * 8192
    assert "scan" in OPERATOR_KINDS


def precision() -> None:
    """Products in 8 bits, and less memory than with two copies of the weights."""
    block, hybrid, bf16 = (
        vt.project(vt.job("gpt3-13b", cluster="dgx-h100", fp8_format=name, **DENSE))
        for name in ("block", "hybrid", None)
    )
    assert block.iteration_time_s < bf16.iteration_time_s
    assert block.memory.stages[0].working_bytes < hybrid.memory.stages[0].working_bytes


def network_level() -> None:
    """Has three levels, and is slower than two across the spine."""
    cluster = presets.cluster("h100-two-tier")
    assert [level.gpus for level in cluster.levels] == [8, 256, 0]
    costs = CollectiveCosts(cluster)
    inside, across = (costs.estimate("all_reduce", strided("dp", size, 8, 1), 1 << 28).seconds for size in (32, 64))
    assert across > inside
    assert vt.project(vt.job("gpt3-13b", cluster="h100-two-tier", **DENSE)).iteration_time_s > 0


def algorithm() -> None:
    """Is what an all-reduce inside a node takes: less than a ring's time."""
    from vtrain_sim.costs.algorithms import Ring, fastest_s

    path = CollectiveCosts(presets.cluster("dgx-h100")).path(strided("tp", 8, 1, 1))
    assert fastest_s("all_reduce", 1 << 28, path) < Ring().seconds("all_reduce", 1 << 28, path)


def dispatcher() -> None:
    """Is used by a mixture of experts, and sends less than one copy per expert."""
    job = vt.job("qwen3-30b-a3b", cluster="dgx-h100", moe_token_dispatcher_type="rankwise", **EXPERTS)
    once, usual = (
        vt.project(j).breakdown_s["ep communication"] for j in (job, job.with_(moe_token_dispatcher_type="alltoall"))
    )
    assert 0 < once < usual


def renderer() -> None:
    """Renders a projection, through the command too."""
    shown = CliRunner().invoke(sim.app, ["project", *SMALL, "--format", "prometheus"])
    assert "vtrain_iteration_time_s " in shown.stdout, shown.stdout + str(shown.exception)
    projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", mbs=1, gbs=8))
    assert vt.render(projection, "prometheus") == shown.stdout


def framework() -> None:
    """A loop of the framework is captured, step by step, and its functions are put back."""
    from vtrain_plugin import profile
    from vtrain_plugin.adapters import get

    assert get("lightloop").trigger == "lightloop"
    import torch

    loop = ModuleType("lightloop")
    vars(loop)["forward"] = original = lambda model, batch: model(batch).square().mean()
    vars(loop)["update"] = lambda optimizer: optimizer.step()
    sys.modules["lightloop"] = loop
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tempfile.TemporaryDirectory() as where:
        with profile(out=where, warmup=1, steps=2, nvtx=False, run_id="loop"):
            for _ in range(4):
                loop.forward(model, torch.randn(6, 8)).backward()
                loop.update(optimizer)
        catalog = vt.Catalog(f"{where}/catalog.duckdb")
        catalog.add(where)
        spans = catalog.sql("SELECT DISTINCT name, phase FROM spans WHERE kind <> 'step' ORDER BY ALL").rows()
        steps = catalog.sql("SELECT count(*) AS steps FROM steps").rows()
    phases = [(name, phase) for name in "012" for phase in ("backward", "forward")]
    assert [(span["name"], span["phase"]) for span in spans] == phases, spans
    assert steps == [{"steps": 2}], steps
    assert loop.forward is original


def preset() -> None:
    """Projects, slower than on the H100 whose NVLink is faster, and is called modelled."""
    here, h100 = (vt.project(vt.job("gpt3-13b", cluster=name, **DENSE)) for name in ("dgx-h800", "dgx-h100"))
    assert here.breakdown_s["tp communication"] > h100.breakdown_s["tp communication"]
    assert here.to_dict()["modelled_only"]


def verb() -> None:
    """The function, its example and the command."""
    job = vt.job("gpt3-13b", cluster="dgx-a100-80gb", **DENSE)
    rows = vt.parameters(job).rows()
    assert len(rows) == 4
    assert 12e9 < 2 * sum(row["parameters"] for row in rows) < 14e9
    module = importlib.import_module("vtrain_sim.api.parameters")
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed
    shown = CliRunner().invoke(sim.app, ["parameters", *SMALL, "--format", "csv"])
    assert shown.stdout.startswith("stage,parameters\n0,1"), shown.stdout + str(shown.exception)


def scaling_law() -> None:
    """Sizes a model whose tokens do not grow with it."""
    result = vt.size(cluster="dgx-h100", num_gpus=8, days=1, global_batch_size=64, law="openwebtext")
    assert {candidate.tokens for candidate in result.candidates} == {9e9}
    assert result.to_dict()["law_equation"] == "D = 9e+09"
    assert result.chosen.days <= 1


def shape() -> None:
    """Its models at their sizes are the published ones; sizes between are like them."""
    from vtrain_sim.decide.sizing import find_shape

    family = find_shape("qwen3")
    published = presets.model("qwen3-8b")
    assert family.model(36, 4096, published) == published
    result = vt.size(cluster="dgx-h100", num_gpus=8, days=2, global_batch_size=64, shape="qwen3", seq_length=2048)
    model = result.chosen.model
    assert model.qk_layernorm
    assert 112 <= model.hidden_size / model.num_layers <= 130


def search_choice() -> None:
    """A search that names the choice makes it."""
    import vtrain as vt

    def losses(search: str) -> set[str]:
        result = vt.plan("gpt3-1.3b", cluster="dgx-h100", num_gpus=8, global_batch_size=64, search=search, top=100)
        return {plan.projection.configuration.train.cross_entropy_fusion for plan in result.plans}

    assert losses("default") == {""}
    assert "te" in losses("sharding,fused-loss")


def argument() -> None:
    """One is left out, one is read."""
    from vtrain_sim.inputs.megatron_flags import parse_flags

    flags = parse_flags(["--log-kitchen-temperature", "21", "--ddp-num-parameters-per-bucket", "1000000"])
    assert flags.values == {"bucket_size": 1_000_000}


def kernel_rule() -> None:
    """The example is of the kind, and every older example still is what it was."""
    from vtrain_schemas.kernel_names import KERNEL_RULES

    assert kernel_kind("mscclpp_allreduce_packet_kernel(float*, int)") == "communication"
    assert all(kernel_kind(rule.example) == rule.kind for rule in KERNEL_RULES)


CHECKS: dict[str, Callable[[], None]] = {
    "A pipeline schedule": schedule,
    "An operator kind": operator_kind,
    "A precision": precision,
    "A network level": network_level,
    "A collective algorithm": algorithm,
    "A token dispatcher": dispatcher,
    "A renderer": renderer,
    "A training framework": framework,
    "A GPU or cluster preset": preset,
    "A verb": verb,
    "A scaling law": scaling_law,
    "A shape": shape,
    "A choice of the plan search": search_choice,
    "A Megatron argument": argument,
    "A kernel-name rule": kernel_rule,
}


def problem(check: Callable[[], None]) -> str:
    """What went wrong in a check; empty if nothing did."""
    try:
        check()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    print(json.dumps({section: problem(check) for section, check in CHECKS.items()}))
