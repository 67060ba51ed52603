"""Memory against the papers' formulas: what a layer keeps, what runs again, what is in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.simulate.strategies import Machine
from vtrain_sim.model import Parts
from vtrain_sim.simulate.memory import FRAGMENTATION, MARGIN, RUNTIME_BYTES, recomputed_bytes, working_bytes
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.shard import ChunkSpec, LayerKind

S, B, H, A, T = 2048, 2, 1024, 16, 8
MODEL = ModelSpec(8, H, A, S, 1024)
# Separate kernels with dropout, in 16 bits, as in the paper.
TRAIN = TrainSpec(B, 8 * B, attention_kernel="unfused", params_dtype="float16")
SBH = S * B * H
SCORES = 5 * A * S * S * B
RECOMPUTED = LayerKind(recomputed=True)


def kept(parallel: ParallelSpec, kind: LayerKind | None = None, **train: object) -> int:
    configuration = Configuration(MODEL, parallel, replace(TRAIN, **train))  # type: ignore[arg-type]
    return Parts(configuration.shard).layer(kind or LayerKind()).kept_bytes


@pytest.mark.parametrize(
    ("equation", "kept_bytes", "expected"),
    [
        ("1 and 2: nothing is shared, sbh (34 + 5as/h)", kept(ParallelSpec()), 34 * SBH + SCORES),
        (
            "3: tensor parallelism, sbh (10 + 24/t + 5as/ht)",
            kept(ParallelSpec(tp=T)),
            10 * SBH + 24 * SBH // T + SCORES // T,
        ),
        (
            "4: and sequence parallelism, sbh/t (34 + 5as/h)",
            kept(ParallelSpec(tp=T, sequence_parallel=True)),
            (34 * SBH + SCORES) // T,
        ),
        (
            "5: with selective recomputation, 34 sbh/t",
            kept(ParallelSpec(tp=T, sequence_parallel=True), recompute_granularity="selective"),
            34 * SBH // T,
        ),
        ("6: with full recomputation, 2 sbh", kept(ParallelSpec(), RECOMPUTED, recompute_granularity="full"), 2 * SBH),
        (
            "6: of each rank's part of the sequence, 2 sbh/t",
            kept(ParallelSpec(tp=T, sequence_parallel=True), RECOMPUTED, recompute_granularity="full"),
            2 * SBH // T,
        ),
    ],
)
def test_a_layer_keeps_what_korthikanti_counts(equation: str, kept_bytes: int, expected: int) -> None:
    """Korthikanti et al. 2022 (arXiv:2205.05198), section 4, equations 1 to 6; bytes per layer."""
    assert kept_bytes == expected, equation


def test_attention_and_the_feed_forward_block_have_their_parts() -> None:
    """Section 4.1: attention 11 sbh + 5 as^2 b, the feed-forward block 19 sbh, the two norms 4 sbh."""
    program = Parts(Configuration(MODEL, ParallelSpec(), TRAIN).shard).layer(LayerKind())
    saves = {item.name: 0 for item in program.forward}
    for item in program.forward:
        saves[item.name] += getattr(item, "saves", 0)
    assert saves["input_layernorm"] + saves["pre_mlp_layernorm"] == 4 * SBH
    masks = saves.pop("bias_dropout_add")
    assert masks == 2 * SBH
    assert saves["linear_qkv"] + saves["core_attention"] + saves["linear_proj"] == 10 * SBH + SCORES
    assert saves["linear_fc1"] + saves["activation"] + saves["linear_fc2"] == 18 * SBH


def test_fused_attention_keeps_row_statistics_instead_of_scores() -> None:
    assert kept(ParallelSpec(), attention_kernel="flash") == 34 * SBH + 4 * A * S * B
    assert kept(ParallelSpec(cp=2), attention_kernel="flash") == (34 * SBH + 4 * A * S * B) // 2


def activations(parallel: ParallelSpec, **train: object) -> list[float]:
    """Bytes of activations by stage, with which 8 microbatches run."""
    configuration = Configuration(MODEL, parallel, replace(TRAIN, **train))  # type: ignore[arg-type]
    terms = Machine("dgx-h100", 1.0, 1.0, 0.0).projector().evaluate([configuration]).stage_memory
    return [float(v) for v in terms["activations"]]


LAYER = 34 * SBH + SCORES
# What the first virtual stage keeps besides: token ids, and the mask of the dropout after the embedding (section 4.3).
IDS = 8 * S * B + SBH
FULL = {"recompute_granularity": "full"}


def test_uniform_recomputation_keeps_inputs_and_block_the_rest() -> None:
    assert activations(ParallelSpec(pp=4), **FULL)[3] == 2 * 2 * SBH
    block = {"recompute_method": "block", "recompute_num_layers": 1}
    assert activations(ParallelSpec(pp=4), **FULL, **block)[3] == 2 * SBH + LAYER
    assert activations(ParallelSpec(pp=4), **FULL, **block | {"recompute_num_layers": 2})[3] == 2 * 2 * SBH
    assert activations(ParallelSpec(pp=4))[3] == 2 * LAYER
    # Rows of layers run again from one input each; the last row may be shorter.
    rows = {"recompute_method": "uniform", "recompute_num_layers": 3}
    assert activations(ParallelSpec(), **FULL, **rows)[0] == 3 * 2 * SBH + IDS


def test_a_layer_that_runs_again_has_its_activations_back() -> None:
    configuration = Configuration(MODEL, ParallelSpec(), replace(TRAIN, recompute_granularity="full"))
    parts = Parts(configuration.shard)
    assert recomputed_bytes(parts, ChunkSpec(((RECOMPUTED, 3),))) == LAYER
    assert recomputed_bytes(parts, ChunkSpec(((LayerKind(), 3),))) == 0
    with_the_one_before = LayerKind(recomputed=True, keeps_input=False)
    assert recomputed_bytes(parts, ChunkSpec(((RECOMPUTED, 2), (with_the_one_before, 2)))) == 3 * LAYER
    selective = Configuration(MODEL, ParallelSpec(), replace(TRAIN, recompute_granularity="selective"))
    assert recomputed_bytes(Parts(selective.shard), ChunkSpec(((LayerKind(), 3),))) == SCORES
    sharded = replace(selective, parallel=ParallelSpec(tp=T, sequence_parallel=True))
    parts = Parts(sharded.shard)
    assert recomputed_bytes(parts, ChunkSpec(((LayerKind(), 3),))) == SCORES // T
    assert working_bytes(parts) == 2 * 2 * SBH


@pytest.mark.parametrize(
    ("schedule", "parallel", "layers", "first"),
    [
        # Two layers per stage; 8 microbatches. Narayanan et al. 2021: p - s in flight.
        ("1f1b", ParallelSpec(pp=4), [4 * 2, 3 * 2, 2 * 2, 1 * 2], [4, 0, 0, 0]),
        # All of them (Huang et al. 2019).
        ("gpipe", ParallelSpec(pp=4), [8 * 2] * 4, [8, 0, 0, 0]),
        # Narayanan et al. 2021, section 2.2: 2 (p - s - 1) + (v - 1) p + 1 chunks, of one layer each.
        ("interleaved", ParallelSpec(pp=4, vpp=2), [11, 9, 7, 5], [8, 0, 0, 0]),
        # Qi et al. 2024: H1 as the first stage of 1F1B everywhere, H2 2p - 1.
        ("zb-h1", ParallelSpec(pp=4), [4 * 2] * 4, [4, 0, 0, 0]),
        ("zb-h2", ParallelSpec(pp=4), [7 * 2] * 4, [7, 0, 0, 0]),
        # Qi et al. 2024: 2p chunks of a half of a stage; on the first one at times all of them on their way down.
        ("zb-v", ParallelSpec(pp=4, vpp=2), [8] * 4, [8, 0, 0, 0]),
        # DeepSeek-V3 report, table 2: p + 1 microbatches of a stage; both directions, which enter at both ends.
        ("dualpipe", ParallelSpec(pp=4), [5 * 2] * 4, [4, 0, 0, 4]),
        ("dualpipev", ParallelSpec(pp=4, vpp=2), [9] * 4, [8, 0, 0, 0]),
    ],
)
def test_activations_in_flight(schedule: str, parallel: ParallelSpec, layers: list[int], first: list[int]) -> None:
    """layers: in flight, by stage. first: microbatches of the first virtual stage."""
    expected = [count * LAYER + ids * IDS for count, ids in zip(layers, first, strict=True)]
    assert activations(parallel, schedule=schedule) == expected


def working(model: ModelSpec) -> float:
    configuration = Configuration(model, ParallelSpec(dp=8, fsdp=True), TrainSpec(1, 8))
    batch = Machine("dgx-h100", 1.0, 1.0, 0.0).projector().evaluate([configuration])
    return float(batch.stage_memory["working"][0])


def test_fully_sharded_parameters_of_two_parts_are_whole_at_once() -> None:
    """With their gradients, 2 + 4 bytes each. The table is larger than a layer, of which a row is two."""
    layer, norm, table = 12 * H * H + 13 * H, 2 * H, 64_000 * H
    model = replace(MODEL, vocab_size=64_000, position_embedding_type="rope")
    assert working(replace(model, untie_embeddings_and_output_weights=True)) == 6 * (layer + table + norm)
    # The output layer uses the embedding's table.
    assert working(model) == 6 * (layer + table + norm)
    assert working(replace(model, vocab_size=1024)) == 6 * 2 * layer


def test_fewer_microbatches_than_stages_are_all_there_is() -> None:
    assert activations(ParallelSpec(pp=4), global_batch_size=2 * B) == [
        2 * 2 * LAYER + 2 * IDS,
        2 * 2 * LAYER,
        2 * 2 * LAYER,
        2 * LAYER,
    ]


def test_the_terms_add_up_and_decide() -> None:
    configuration = Configuration(MODEL, ParallelSpec(pp=4), TRAIN)
    projector = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    answer, batch = projector.project(configuration), projector.evaluate([configuration])
    for stage, memory in enumerate(answer.memory.stages):
        assert memory.peak_bytes == sum(round(float(v[stage])) for v in batch.stage_memory.values())
        assert memory.runtime_bytes == RUNTIME_BYTES + round(FRAGMENTATION * memory.activations_bytes)
    # 12 bytes of optimizer state per fp16 parameter: two moments and a copy.
    parameters = 2 * (12 * H * H + 13 * H)
    middle = answer.memory.stages[1]
    assert (middle.parameters_bytes, middle.gradients_bytes) == (2 * parameters, 4 * parameters)
    assert middle.optimizer_bytes == 12 * parameters
    assert answer.memory.fits


def test_expandable_segments_waste_nothing() -> None:
    projector = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    usual = Configuration(MODEL, ParallelSpec(), TRAIN)
    grown = replace(usual, train=replace(TRAIN, expandable_segments=True))
    before, after = (projector.project(c).memory.stages[0] for c in (usual, grown))
    assert before.peak_bytes - after.peak_bytes == round(FRAGMENTATION * before.activations_bytes)
    assert after.runtime_bytes == RUNTIME_BYTES


def test_what_leaves_too_little_is_tight() -> None:
    """Less than the margin above the peak, or less than what the allocator usually takes."""
    machine = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    configuration = Configuration(MODEL, ParallelSpec(), TRAIN)
    needs = machine.project(configuration).memory.worst
    waste = round(FRAGMENTATION * needs.activations_bytes)
    enough = round(needs.peak_bytes * (1 + MARGIN))
    for capacity, word in (
        (enough + 16, "fits"),
        (enough - 16, "tight, with less than 6% to spare"),
        (needs.peak_bytes + 16, "tight, with less than 6% to spare"),
        (
            needs.peak_bytes - waste // 2,
            "tight, does not fit with what the allocator caches, may with expandable segments",
        ),
        (needs.peak_bytes - waste - 16, "does not fit"),
    ):
        device = replace(machine.cluster.device, memory_bytes=capacity)
        smaller = Projector(
            replace(machine.cluster, device=device), machine.evaluator.operators, machine.evaluator.collectives
        )
        verdict = smaller.project(configuration).memory
        assert (verdict.fits, verdict.tight) == (word == "fits", word.startswith("tight"))
        assert verdict.sentence().partition(":")[0] == word
        assert verdict.margin_bytes == capacity - needs.peak_bytes


def test_gradients_converted_for_the_update_take_the_place_of_activations() -> None:
    """fp16 gradients in 32 bits beside main parameters and moments: 4 bytes each, when the passes are over."""
    projector = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    model = replace(MODEL, seq_length=128)
    narrow = replace(TRAIN, main_grads_dtype="float16")
    small = Configuration(model, ParallelSpec(), replace(narrow, micro_batch_size=1))
    memory = projector.project(small).memory.stages[0]
    parameters = memory.parameters_bytes // 2
    assert memory.optimizer_bytes == 12 * parameters
    assert memory.activations_bytes + memory.logits_bytes < 4 * parameters
    assert memory.activations_bytes + memory.logits_bytes + memory.working_bytes == 4 * parameters
    # With long sequences the passes need more than the update.
    assert projector.project(Configuration(MODEL, ParallelSpec(), narrow)).memory.stages[0].working_bytes == 0


def test_offloaded_layers_keep_nothing_but_two_under_way() -> None:
    projector = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    configuration = Configuration(MODEL, ParallelSpec(), replace(TRAIN, cpu_offload_layers=5))
    memory = projector.project(configuration).memory.stages[0]
    assert memory.activations_bytes == (MODEL.num_layers - 5) * LAYER + IDS
    assert memory.working_bytes == 2 * LAYER
    with pytest.raises(SpecError, match="--pipeline-model-parallel-size of 1"):
        replace(configuration, parallel=ParallelSpec(pp=4))
    with pytest.raises(SpecError, match="less than --num-layers"):
        replace(configuration, train=replace(TRAIN, cpu_offload_layers=MODEL.num_layers))
