"""Models of Mamba, attention and feed-forward layers in any order (--hybrid-layer-pattern)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Communication, Compute, Item, Parts, Program, build_step, operators_of
from vtrain_sim.model.flops import flops_per_token
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.hybrid_pattern import read_pattern, write_pattern
from vtrain_sim.specs.shard import LayerKind

H, S, HEADS, HEAD, STATE, GROUPS = 1024, 512, 32, 64, 128, 8
CHANNELS = HEADS * HEAD
MODEL = ModelSpec(
    4, H, 8, S, 1000, add_bias_linear=False, dropout=False, normalization="RMSNorm", position_embedding_type="none",
    hybrid_layer_pattern="M*M-", mamba_num_heads=HEADS, mamba_head_dim=HEAD, mamba_state_dim=STATE,
    mamba_num_groups=GROUPS,
)  # fmt: skip
STEP = TrainSpec(1, 8)
FLAGS = (
    "--hidden-size 1024 --num-attention-heads 8 --seq-length 512 --micro-batch-size 1 --global-batch-size 8"
    " --position-embedding-type none"
)


def layer(symbol: str, parallel: ParallelSpec | None = None, model: ModelSpec = MODEL, **train: object) -> Program:
    configuration = Configuration(model, parallel or ParallelSpec(), replace(STEP, **train))
    return Parts(configuration.shard).layer(LayerKind(symbol=symbol))


def names(items: tuple[Item, ...]) -> list[str]:
    return [item.name for item in items if isinstance(item, (Compute, Communication))]


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{FLAGS} {flags}".split())


def modelled(cluster: str = "dgx-h100") -> Projector:
    return Projector.modelled(presets.cluster(cluster), Surfaces.from_dict(presets.cluster_surfaces(cluster)))


def test_parameters_of_a_mamba_layer() -> None:
    """Those of Megatron-Core's MambaMixer: projections, filters with biases, A_log, D and dt_bias, two norms."""
    width = 2 * CHANNELS + 2 * GROUPS * STATE + HEADS
    mixed = CHANNELS + 2 * GROUPS * STATE
    expected = H * width + CHANNELS * H + mixed * (4 + 1) + 3 * HEADS + CHANNELS + H
    assert layer("M").parameters == expected
    shared = layer("M", ParallelSpec(tp=4))
    # The norm of the block is whole on every rank, all else is split.
    assert shared.parameters == (expected - H) // 4 + H
    assert shared.replicated_parameters == H


@pytest.mark.parametrize(
    ("preset", "published"), [("nemotron3-nano-30b-a3b", 31.6e9), ("nemotron3-super-120b-a12b", 120.6e9)]
)
def test_parameters_of_published_models(preset: str, published: float) -> None:
    (stage,) = build_step(Configuration(presets.model(preset), ParallelSpec(), TrainSpec(1, 1))).stages
    assert stage.parameters + stage.expert_parameters == pytest.approx(published, rel=1e-3)


def test_each_symbol_is_a_layer_with_one_norm_and_one_residual_add() -> None:
    for symbol, other in (("M", "core_attention"), ("*", "linear_fc1"), ("-", "core_attention")):
        program = layer(symbol)
        assert other not in names(program.forward)
        adds = [i for i in operators_of(program.forward) if i.operator.kind == "bias_dropout_add"]
        assert [(add.operator.m, add.launches) for add in adds] == [(S // 2, 2)]
    whole = Parts(Configuration(replace(MODEL, hybrid_layer_pattern="", mamba_num_heads=0), ParallelSpec(), STEP).shard)
    both = [*names(layer("*").forward)[:-1], *names(layer("-").forward)]
    assert names(whole.layer(LayerKind()).forward) == both
    halves = layer("*").saved_bytes + layer("-").saved_bytes
    assert whole.layer(LayerKind()).saved_bytes == halves


def test_the_mixer_runs_as_megatron_core_runs_it() -> None:
    program = layer("M", micro_batch_size=2)
    forward = [
        "mamba_norm", "mamba_in_proj", "mamba_in_order", "mamba_conv1d", "mamba_scan", "mamba_out_order",
        "mamba_gated_norm", "mamba_out_proj", "bias_dropout_add",
    ]  # fmt: skip
    assert names(program.forward) == forward
    assert names(program.backward) == forward[::-1]
    assert names(layer("M").forward) == [name for name in forward if not name.endswith("_order")]


def test_operators_are_split_by_heads_and_groups() -> None:
    shapes = {item.name: item.operator for item in operators_of(layer("M", ParallelSpec(tp=4)).forward)}
    scan = shapes["mamba_scan"]
    assert (scan.heads, scan.kv_heads, scan.head_dim, scan.n, scan.k) == (HEADS // 4, GROUPS // 4, HEAD, STATE, 128)
    assert (scan.batch, scan.seq_q, scan.fused) == (1, S, True)
    assert shapes["mamba_conv1d"].n == (CHANNELS + 2 * GROUPS * STATE) // 4
    assert (shapes["mamba_in_proj"].n, shapes["mamba_in_proj"].k) == (
        (2 * CHANNELS + 2 * GROUPS * STATE + HEADS) // 4,
        H,
    )
    assert (shapes["mamba_out_proj"].n, shapes["mamba_out_proj"].k) == (H, CHANNELS // 4)


def test_sequence_parallelism_gathers_before_and_scatters_after_the_mixer() -> None:
    program = layer("M", ParallelSpec(tp=4, sequence_parallel=True))
    exchanges = [(i.name, i.op, i.nbytes) for i in program.forward if isinstance(i, Communication)]
    assert exchanges == [("mamba_in", "all_gather", S * H * 2), ("mamba_out", "reduce_scatter", S * H * 2)]


def test_context_parallelism_trades_sequence_for_heads() -> None:
    """The whole sequence of a part of the heads between two exchanges; products see the rank's own tokens."""
    whole, split = layer("M"), layer("M", ParallelSpec(cp=4))
    one, part = ({i.name: i.operator for i in operators_of(p.forward)} for p in (whole, split))
    scan = part["mamba_scan"]
    assert (scan.seq_q, scan.heads, scan.kv_heads) == (S, HEADS // 4, GROUPS // 4)
    assert scan.flops() == one["mamba_scan"].flops() / 4
    assert (part["mamba_conv1d"].m, 4 * part["mamba_conv1d"].n) == (S, one["mamba_conv1d"].n)
    assert (part["mamba_in_proj"].m, part["mamba_in_proj"].n) == (S // 4, one["mamba_in_proj"].n)
    assert part["mamba_gated_norm"].m == S // 4
    exchanges = [(i.name, i.op, i.role, i.nbytes) for i in split.forward if isinstance(i, Communication)]
    tokens, states = S // 4, GROUPS * STATE
    assert exchanges == [
        *(("mamba_in", "all_to_all", "cp", tokens * n * 2) for n in (CHANNELS, CHANNELS, states, states, HEADS)),
        ("mamba_out", "all_to_all", "cp", tokens * CHANNELS * 2),
    ]
    # Every rank has all parameters, and uses its part.
    assert split.parameters == whole.parameters
    assert split.saved_bytes == whole.saved_bytes // 4
    copied = layer("M", ParallelSpec(cp=16))
    (scan,) = (i.operator for i in operators_of(copied.forward) if i.name == "mamba_scan")
    assert (scan.heads, scan.kv_heads) == (2, 1)


def test_activations_of_a_mamba_layer() -> None:
    """The norm's input and output, the projection's output, the scan before and after its gate, the normalised."""
    width = 2 * CHANNELS + 2 * GROUPS * STATE + HEADS
    assert layer("M").saved_bytes == 2 * S * (H + H + width + CHANNELS + CHANNELS + CHANNELS)
    again = Parts(Configuration(MODEL, ParallelSpec(), replace(STEP, recompute_granularity="full")).shard)
    program = again.layer(LayerKind(recomputed=True, symbol="M"))
    assert program.kept_bytes == 2 * S * H
    assert names(program.backward)[: len(program.forward)] == names(program.forward)


def test_flops_of_a_token_are_those_of_its_layers() -> None:
    mamba = H * (2 * CHANNELS + 2 * GROUPS * STATE + HEADS + CHANNELS) + 7 * CHANNELS * STATE / 2
    attention, dense = 4 * H * H + 2 * H * S / 2, 2 * H * 4 * H
    expected = 2 * mamba + attention + dense + H * MODEL.padded_vocab_size(1)
    assert flops_per_token(MODEL) == pytest.approx(6 * expected, rel=1e-12)
    deeper = replace(MODEL, mtp_num_layers=2, mtp_hybrid_override_pattern="*M")
    depth = attention + mamba + 2 * H * H + H * MODEL.padded_vocab_size(1)
    assert flops_per_token(deeper) == pytest.approx(6 * (expected + 2 * depth), rel=1e-12)


def test_executed_projections_are_the_models() -> None:
    """Every product of a forward pass but the scan's, times three, is what the model counts."""
    model = replace(presets.model("nemotron3-nano-30b-a3b"), seq_length=1024)
    (stage,) = build_step(Configuration(model, ParallelSpec(), TrainSpec(1, 1))).stages
    executed = sum(
        item.operator.flops() * count
        for program, count in stage.chunks[0]
        for item in operators_of(program.forward)
        if item.operator.kind in ("gemm", "grouped_gemm", "attention")
    )
    scans = 23 * 7 * model.mamba_width * model.mamba_state_dim
    assert 3 * (executed / 1024 + scans) == pytest.approx(flops_per_token(model), rel=1e-12)


def test_layers_of_stages_are_counted_in_symbols() -> None:
    configuration = read("--hybrid-layer-pattern M-M*|M-|M*M-|M --pipeline-model-parallel-size 2")
    assert configuration.parallel.vpp == 2
    assert configuration.chunk_layers == (4, 2, 4, 1)
    # Virtual stages 0 and 2 are on stage 0.
    layers = [
        [program.name for program, count in chunk for _ in range(count) if program.name.startswith("layer")]
        for stage in build_step(configuration).stages
        for chunk in stage.chunks
    ]
    word = {"M": "layer_mamba", "*": "layer_attention", "-": "layer"}
    assert layers == [[word[symbol] for symbol in part] for part in ("M-M*", "M*M-", "M-", "M")]


def test_depths_of_multi_token_prediction_have_layers_of_their_own() -> None:
    configuration = read("--hybrid-layer-pattern M-M-/*-/*-")
    model = configuration.model
    assert (model.mtp_num_layers, model.mtp_hybrid_override_pattern) == (2, "*-")
    (stage,) = build_step(configuration).stages
    programs = [program.name for program, count in stage.chunks[0] for _ in range(count)]
    depth = ["mtp_entry", "layer_attention", "layer", "head"]
    assert programs[programs.index("mtp_entry") :] == [*depth, *depth, "head"]
    older = read("--hybrid-override-pattern M-M- --mtp-num-layers 2 --mtp-hybrid-override-pattern *-")
    assert older == configuration


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--hybrid-layer-pattern MXM", "has 'X': it takes M (Mamba), * (attention)"),
        ("--hybrid-layer-pattern MGM", "gated delta net"),
        ("--hybrid-layer-pattern M*M --num-layers 4", "has 3 layers, --num-layers is 4"),
        ("--hybrid-layer-pattern M*ME", "need each other"),
        ("--hybrid-layer-pattern M*M- --num-experts 8 --moe-router-topk 2", "need each other"),
        ("--hybrid-layer-pattern M*M-/*-/*M", "must be the same"),
        ("--hybrid-layer-pattern M*M- --mtp-num-layers 1", "needs the layers of a depth"),
        ("--hybrid-layer-pattern M*M-/*-/*- --mtp-num-layers 1", "has 2 depths"),
        ("--hybrid-layer-pattern M*|M-|M --pipeline-model-parallel-size 2", "no multiple"),
        ("--hybrid-layer-pattern M*|M-", "no multiple of --pipeline-model-parallel-size 1"),
        ("--hybrid-layer-pattern M*M- --context-parallel-size 3 --seq-length 510", "--mamba-num-heads"),
        ("--hybrid-layer-pattern M*M- --context-parallel-size 4 --mamba-num-groups 2 --mamba-num-heads 6", "heads"),
        ("--hybrid-layer-pattern M*M- --mamba-num-groups 6", "--mamba-num-groups"),
        ("--hybrid-layer-pattern M*M- --tensor-model-parallel-size 8 --mamba-num-groups 4", "--mamba-num-groups"),
        ("--hybrid-layer-pattern M*M- --window-size 128", "--window-size does not go with"),
        ("--num-layers 4 --mamba-state-dim 64", "--mamba-state-dim needs --hybrid-layer-pattern"),
        ("--num-layers 4 --is-hybrid-model", "--is-hybrid-model needs --hybrid-layer-pattern"),
    ],
)
def test_what_is_refused(flags: str, says: str) -> None:
    with pytest.raises(SpecError) as refusal:
        read(flags)
    assert says in str(refusal.value)


def test_patterns_are_written_as_they_are_read() -> None:
    for text in ("M*M-", "M*|M-", "M||M", "MEM*/*E", "M-|M*/MM/MM"):
        pattern = read_pattern(text)
        assert write_pattern(pattern.layers, pattern.stages, pattern.mtp, pattern.depths) == text


@pytest.mark.parametrize(
    "change",
    [{"mamba_state_dim": 256}, {"mamba_num_heads": 64}, {"mamba_num_groups": 16}, {"seq_length": 1024}],
    ids=lambda change: next(iter(change)),
)
def test_more_work_takes_longer(change: dict[str, int]) -> None:
    projector = modelled()
    small, large = (
        projector.project(Configuration(model, ParallelSpec(), STEP)) for model in (MODEL, replace(MODEL, **change))
    )
    assert large.iteration_time_s > small.iteration_time_s
    assert large.memory.worst.peak_bytes > small.memory.worst.peak_bytes


def test_a_graph_of_mamba_layers_is_launched_at_once() -> None:
    graphed = layer("M", cuda_graph_impl="transformer_engine", cuda_graph_scope=("mamba",))
    launches = [item.launches for item in operators_of(graphed.forward)]
    # The residual add is outside.
    assert launches == [1] + [0] * (len(launches) - 2) + [2]
    other = layer("M", cuda_graph_impl="transformer_engine", cuda_graph_scope=("attn",))
    assert [item.launches for item in operators_of(other.forward)] == [None] * (len(launches) - 1) + [2]
