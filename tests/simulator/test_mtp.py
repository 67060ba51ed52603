"""Multi-token prediction: parameters as published, where its layers are, what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, StageProgram, StepProgram, build_step, communications_of
from vtrain_sim.model.flops import flops_per_token
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.pipeline_layout import parse_layout, write_layout

V3 = replace(presets.model("deepseek-v3"), mtp_num_layers=1)
SMALL = ModelSpec(4, 512, 8, 256, 1024, untie_embeddings_and_output_weights=True, mtp_num_layers=2, dropout=False)


def step(model: ModelSpec, parallel: ParallelSpec) -> StepProgram:
    return build_step(Configuration(model, parallel, TrainSpec(1, 8)))


def parameters(program: StepProgram) -> list[int]:
    return [stage.parameters + stage.expert_parameters for stage in program.stages]


def test_deepseek_v3_has_its_published_size() -> None:
    """685 billion in the published files: 671 of the main model, 14 of multi-token prediction with its own copies of
    embedding and output layer (0.93 billion each), which training shares."""
    (main,) = parameters(step(replace(V3, mtp_num_layers=0), ParallelSpec()))
    (both,) = parameters(step(V3, ParallelSpec()))
    table = 129280 * 7168
    assert main / 1e9 == pytest.approx(671, abs=0.5)
    assert (both - main + 2 * table) / 1e9 == pytest.approx(14, abs=0.6)
    assert (both + 2 * table) / 1e9 == pytest.approx(685, abs=1)


def test_the_last_stage_has_the_layers_and_a_copy_of_the_table() -> None:
    first, last = parameters(step(SMALL, ParallelSpec(pp=2)))
    layer, norm, table = 12 * 512**2 + 13 * 512, 2 * 512, 1024 * 512
    # Two norms, the projection (without bias) and the final norm of each depth.
    depth = layer + 2 * norm + 2 * 512 * 512 + norm
    assert first == 2 * layer + table + 256 * 512
    assert last == 2 * layer + norm + table + 2 * depth + table
    tied = replace(SMALL, untie_embeddings_and_output_weights=False)
    assert parameters(step(tied, ParallelSpec(pp=2)))[1] == last - table
    names = [[program.name for program, _ in chunk] for chunk in step(SMALL, ParallelSpec(pp=2)).stages[1].chunks]
    assert names == [["microbatch", "layer", *["mtp_entry", "layer", "head"] * 2, "head"]]


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_of_the_shared_table_are_summed(tied: bool) -> None:
    model = replace(SMALL, untie_embeddings_and_output_weights=not tied)
    for stage in step(model, ParallelSpec(pp=2)).stages:
        assert [i.name for i in stage.sync].count("embedding_sync") == 1
    none = replace(SMALL, mtp_num_layers=0)
    assert [i.name for i in step(none, ParallelSpec(pp=2)).stages[0].sync] == []


def test_flops_count_a_layer_a_projection_and_the_logits() -> None:
    """DeepSeek-V3 with its depth, as Megatron-LM counts it: 260 GFLOP per token."""
    model = replace(V3, seq_length=4096)
    more = flops_per_token(model) - flops_per_token(replace(model, mtp_num_layers=0))
    one, two = (
        flops_per_token(replace(model, num_layers=layers, moe_layer_freq="1", mtp_num_layers=0)) for layers in (1, 2)
    )
    assert more == pytest.approx(two - one + 6 * (2 * 7168**2 + 7168 * 129280))
    assert flops_per_token(model) == pytest.approx(2.60e11, rel=0.001)


def test_layouts() -> None:
    assert parse_layout("Et|(tt|)*30mL", 8, 1) == (1, *[2] * 30, 0)
    assert parse_layout(write_layout((2, 1), 2), 2, 2) == (2, 1)
    flags = "--pipeline-model-parallel-size 2 --mtp-num-layers 2 --pipeline-model-parallel-layout EtttmmL"
    base = "--num-layers 4 --hidden-size 512 --num-attention-heads 8 --seq-length 256 --micro-batch-size 1"
    read = configuration_from_flags(f"{base} --global-batch-size 8 {flags}".replace("EtttmmL", "Ettt|tmmL").split())
    assert read.parallel.layers == (3, 1)
    assert configuration_from_flags(emit_flags(read)) == read


def test_each_depth_takes_time_and_memory() -> None:
    surfaces = Surfaces.from_dict(presets.cluster_surfaces("dgx-h100"))
    projector = Projector.modelled(presets.cluster("dgx-h100"), surfaces)
    results = [
        projector.project(Configuration(replace(SMALL, mtp_num_layers=depths), ParallelSpec(pp=2), TrainSpec(1, 8)))
        for depths in (0, 1, 2)
    ]
    times = [r.iteration_time_s for r in results]
    memory = [r.memory.stages[1].peak_bytes for r in results]
    assert times[0] < times[1] < times[2]
    assert memory[0] < memory[1] < memory[2]


@pytest.mark.parametrize("fsdp", [False, True])
def test_depths_may_share_the_parameters_of_one(fsdp: bool) -> None:
    """The work of two depths, the parameters and gradients of one; fully sharded, they are gathered for both."""
    repeated = replace(SMALL, mtp_use_repeated_layer=True)
    layout = ParallelSpec(dp=2, fsdp=fsdp)
    (two,), (shared,), (one,) = (
        step(model, layout).stages for model in (SMALL, repeated, replace(SMALL, mtp_num_layers=1))
    )
    assert shared.parameters == one.parameters < two.parameters
    assert shared.holding == one.holding
    assert flops_per_token(repeated) == flops_per_token(SMALL)

    def work(stage: StageProgram) -> list[tuple[str, int]]:
        return [(i.name, count) for p, count in stage.chunks[0] for i in p.forward if isinstance(i, Compute)]

    assert work(shared) == work(two)
    gathered = [
        sum(count * i.nbytes for p, count in stage.chunks[0] for i in communications_of(p.forward))
        for stage in (two, shared)
    ]
    assert gathered[0] == gathered[1]
    assert (gathered[0] > 0) == fsdp
