"""Unmodified ``pretrain_gpt.py`` of a Megatron-LM checkout under the plugin: MEGATRON_LM says where the checkout is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT, Capture, run_python
from support.captured_program import captured_operators, of_passes, program_operators
from vtrain_sim.catalog import Catalog
from vtrain_sim.costs.profile import load_profile
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.captured_run import configuration_from_run
from vtrain_sim.model import build_step

CHECKOUT = os.environ.get("MEGATRON_LM", "")
ON_CPU = ROOT / "tests" / "support" / "pretrain_on_cpu.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="MEGATRON_LM does not point to a checkout of Megatron-LM"),
]
ARGUMENTS = (
    "--distributed-backend gloo --transformer-impl local --mock-data --tokenizer-type NullTokenizer --vocab-size 5119 "
    "--eval-iters 0 --eval-interval 1000 --log-interval 1 --no-gradient-accumulation-fusion --no-masked-softmax-fusion "
    "--no-bias-gelu-fusion --no-bias-swiglu-fusion --no-bias-dropout-fusion --no-persist-layer-norm --no-rope-fusion "
    "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 64 --max-position-embeddings 64 "
    "--micro-batch-size 1 --global-batch-size 4 --train-iters 5 --lr 1e-3 --attention-dropout 0 --hidden-dropout 0"
)
EXPERTS = "--num-experts 4 --moe-router-topk 2 --moe-token-dispatcher-type alltoall --disable-bias-linear"


@dataclass(frozen=True)
class Layout:
    """processes: how many train. flags: beside `ARGUMENTS`. layers: those that have spans. refused: by the simulator."""

    processes: int
    flags: str
    layers: tuple[int, ...] = (1, 2, 3, 4)
    refused: str = ""


LAYOUTS = {
    "plain": Layout(1, ""),
    "llama": Layout(
        1,
        "--swiglu --normalization RMSNorm --disable-bias-linear --group-query-attention --num-query-groups 2 "
        "--position-embedding-type rope --untie-embeddings-and-output-weights",
    ),
    "recompute": Layout(1, "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"),
    "tp2-sp": Layout(2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": Layout(2, "--pipeline-model-parallel-size 2"),
    "pp2-vpp2": Layout(2, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"),
    "dp2-zero": Layout(2, "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"),
    "ep2": Layout(2, f"{EXPERTS} --expert-model-parallel-size 2"),
    "instances": Layout(
        2,
        "--use-distributed-optimizer --overlap-grad-reduce --num-distributed-optimizer-instances 2",
        refused="several distributed optimizers",
    ),
    "latent": Layout(
        1,
        "--multi-latent-attention --q-lora-rank 16 --kv-lora-rank 16 --qk-head-dim 16 --qk-pos-emb-head-dim 8 "
        "--v-head-dim 16 --position-embedding-type rope --disable-bias-linear --normalization RMSNorm",
        refused="needs fused",
    ),
    "mtp": Layout(
        1,
        "--mtp-num-layers 1 --position-embedding-type rope",
        layers=(1, 2, 3, 4, 5),
        refused="multi-token prediction",
    ),
    "combined": Layout(
        2,
        f"{EXPERTS} --expert-model-parallel-size 2 --bf16 --overlap-moe-expert-parallel-comm",
        layers=(),
        refused="overlapped between microbatches",
    ),
}
# What versions before these cannot do: the combined schedule is newer, and 0.12 needs Transformer Engine for ZeRO.
SINCE = {"combined": (0, 14), "dp2-zero": (0, 13), "instances": (0, 13)}


def checkout_version() -> tuple[int, int]:
    """Megatron-Core's version in the checkout."""
    text = (Path(CHECKOUT) / "megatron" / "core" / "package_info.py").read_text()
    major, minor = (re.search(rf"^{name} = (\d+)", text, re.MULTILINE) for name in ("MAJOR", "MINOR"))
    assert major is not None
    assert minor is not None
    return int(major[1]), int(minor[1])


@pytest.fixture(scope="module", params=LAYOUTS)
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Capture]:
    """Five iterations of the script, the third and fourth captured."""
    name: str = request.param
    if checkout_version() < SINCE.get(name, (0, 0)):
        pytest.skip(f"Megatron-Core of the checkout is older than {SINCE[name]}")
    layout, out = LAYOUTS[name], tmp_path_factory.mktemp(name)
    script = Path(CHECKOUT).resolve() / "pretrain_gpt.py"
    # One process of it, too, asks for the addresses that torchrun gives.
    launch = f"-m torch.distributed.run --standalone --nproc-per-node={layout.processes}".split()
    plugin = ["-m", "vtrain_plugin", "--out", str(out), "--run-id", name, "--warmup", "2", "--steps", "2"]
    arguments = f"{ARGUMENTS} {layout.flags}".split()
    done = run_python([*launch, *plugin, str(ON_CPU), str(script), *arguments], env={"PYTHONPATH": str(script.parent)})
    catalog = Catalog(out / "catalog.duckdb")
    assert not catalog.add([str(out)]).problems
    return layout, Capture(out, name, catalog, done.stdout, done.stderr)


def test_ranks_layers_microbatches_and_phases_are_complete(pretrained: tuple[Layout, Capture]) -> None:
    layout, run = pretrained
    shown = run.catalog.show(run.run_id)
    row = shown["run"]
    major, minor = checkout_version()
    assert row["megatron_core_version"].startswith(f"{major}.{minor}.")
    assert [rank["rank"] for rank in shown["ranks"]] == list(range(layout.processes))
    assert len(shown["steps"]) == 2 * layout.processes
    found = run.catalog.sql(
        "SELECT DISTINCT layer_number, microbatch, phase FROM spans WHERE kind = 'transformer_layer'"
    ).to_pylist()
    phases = {"forward", "backward"} | ({"recompute"} if row["recompute_granularity"] == "full" else set())
    microbatches = range(row["num_microbatches"])
    assert {(r["layer_number"], r["microbatch"], r["phase"]) for r in found} == {
        (layer, microbatch, phase) for layer in layout.layers for microbatch in microbatches for phase in phases
    }
    passes = run.catalog.sql(
        "SELECT DISTINCT kind, microbatch FROM spans WHERE kind IN ('forward_step', 'backward_step')"
    ).to_pylist()
    assert {(r["kind"], r["microbatch"]) for r in passes} == {
        (kind, microbatch) for kind in ("forward_step", "backward_step") for microbatch in microbatches
    }
    kinds = {r["kind"] for r in run.catalog.sql("SELECT DISTINCT kind FROM spans").to_pylist()}
    assert {"zero_grad", "grad_sync", "optimizer", "embedding", "output_layer", "loss"} <= kinds
    assert ("param_sync" in kinds) == ("--use-distributed-optimizer" in layout.flags)
    assert ("p2p" in kinds) == ("--pipeline-model-parallel-size" in layout.flags)
    assert not run.catalog.check()


def test_time_is_conserved(pretrained: tuple[Layout, Capture]) -> None:
    for row in pretrained[1].catalog.sql("SELECT * FROM step_breakdown").to_pylist():
        assert row["other_ns"] >= -0.02 * row["duration_ns"], "nothing is counted twice"


def test_its_program_is_the_simulators_or_it_is_refused(pretrained: tuple[Layout, Capture]) -> None:
    layout, run = pretrained
    row = run.catalog.show(run.run_id)["run"]
    if layout.refused:
        with pytest.raises(UserError, match=layout.refused):
            configuration_from_run(row)
        return
    stages = build_step(configuration_from_run(row)).stages
    for rank in run.catalog.show(run.run_id)["ranks"]:
        stage = stages[rank["pp_rank"]]
        assert rank["parameters"] == stage.parameters + stage.expert_parameters
    if row["num_experts"] is None:  # How many tokens an expert gets is the router's choice.
        captured = captured_operators(run.catalog, 3)
        passes = {rank: of_passes(operators) for rank, operators in captured.items()}
        assert passes == program_operators(run.catalog, run.run_id)
    assert load_profile(run.catalog, [run.run_id]).configuration is not None
