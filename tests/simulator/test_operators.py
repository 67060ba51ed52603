"""Operator programs against figures derived by hand. Real modules: tests/plugin/test_capture.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from simulator.test_specs import configurations
from vtrain_sim.model import Communication, Compute, build_step, communications_of, operators_of
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

GPT3 = ModelSpec(96, 12288, 96, 2048, 51200, make_vocab_size_divisible_by=1)


def flops(configuration: Configuration, direction: str) -> float:
    total = 0.0
    for stage in build_step(configuration).stages:
        for chunk in stage.chunks:
            for program, count in chunk:
                # An operator whose halves communicate at different moments counts once.
                for item in operators_of(getattr(program, direction)):
                    if item.operator.kind in ("gemm", "attention"):
                        total += item.operator.flops() * count
    return total * configuration.num_microbatches * configuration.parallel.dp * configuration.parallel.tp


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize(("tp", "pp", "dp"), [(1, 1, 1), (8, 1, 1), (8, 16, 1), (2, 4, 8)])
def test_flops_of_gpt3_are_the_published_formula(tp: int, pp: int, dp: int, share: float) -> None:
    """Narayanan et al., SC'21, eq. 2 without recomputation: 72 B s l h^2 (1 + s/6h + V/12lh).

    Separate kernels execute the whole square of attention; fused causal ones half of it, s/12h.
    """
    batch = 64
    train = TrainSpec(1, batch, attention_kernel="flash" if share == 0.5 else "unfused")
    configuration = Configuration(GPT3, ParallelSpec(tp=tp, pp=pp, dp=dp), train)
    layers, h, s, v = 96, 12288, 2048, 51200
    expected = 72 * batch * s * layers * h**2 * (1 + share * s / (6 * h) + v / (12 * layers * h))
    assert flops(configuration, "forward") == pytest.approx(expected / 3, rel=1e-12)
    assert flops(configuration, "backward") == pytest.approx(expected * 2 / 3, rel=1e-12)


def test_full_recomputation_runs_every_layer_again() -> None:
    plain = Configuration(GPT3, ParallelSpec(tp=8), TrainSpec(1, 8))
    full = replace(plain, train=replace(plain.train, recompute_granularity="full"))
    head = 2 * 2048 * 51200 * 12288 * 8
    assert flops(full, "backward") == pytest.approx(flops(plain, "backward") + flops(plain, "forward") - head)


def test_block_recomputation_covers_the_layers_asked_for() -> None:
    train = TrainSpec(1, 8, recompute_granularity="full", recompute_method="block", recompute_num_layers=3)
    some = Configuration(GPT3, ParallelSpec(tp=8, pp=4), train)
    none = replace(some, train=TrainSpec(1, 8))
    all_ = replace(some, train=TrainSpec(1, 8, recompute_granularity="full"))
    extra = flops(some, "backward") - flops(none, "backward")
    assert extra == pytest.approx((flops(all_, "backward") - flops(none, "backward")) * 3 / 24)


def test_parameters_of_gpt3() -> None:
    """12 h^2 + 13 h a layer, the embeddings, and the final norm: 175 billion."""
    h, v = 12288, 51200
    step = build_step(Configuration(GPT3, ParallelSpec(), TrainSpec(1, 1)))
    assert step.stages[0].parameters == 96 * (12 * h * h + 13 * h) + (v + 2048) * h + 2 * h
    assert 174e9 < step.stages[0].parameters < 176e9


def messages(configuration: Configuration) -> dict[tuple[str, str], int]:
    """Bytes of one layer's blocking and overlapped communication, by direction and operation."""
    (program,) = {p for chunk in build_step(configuration).stages[0].chunks for p, _ in chunk if p.name == "layer"}
    nbytes: dict[tuple[str, str], int] = {}
    for direction in ("forward", "backward"):
        for item in communications_of(getattr(program, direction)):
            nbytes[direction, item.op] = nbytes.get((direction, item.op), 0) + item.nbytes
    return nbytes


def test_tensor_parallel_messages_of_a_layer() -> None:
    """Two all-reduces of [s, b, h] each way (Shoeybi et al.); the same bytes as gathers and scatters
    with sequence parallelism, and two more gathers in the backward pass (Korthikanti et al.)."""
    hidden = 2048 * 1 * 12288 * 2
    train = TrainSpec(1, 8)
    plain = messages(Configuration(GPT3, ParallelSpec(tp=8), train))
    assert plain == {("forward", "all_reduce"): 2 * hidden, ("backward", "all_reduce"): 2 * hidden}
    sharded = messages(Configuration(GPT3, ParallelSpec(tp=8, sequence_parallel=True), train))
    assert sharded == {
        ("forward", "all_gather"): 2 * hidden,
        ("forward", "reduce_scatter"): 2 * hidden,
        ("backward", "all_gather"): 4 * hidden,
        ("backward", "reduce_scatter"): 2 * hidden,
    }


def test_gradients_are_reduced_once_and_optimizer_states_sharded() -> None:
    train = TrainSpec(1, 8)
    for zero in (False, True):
        c = Configuration(GPT3, ParallelSpec(tp=8, dp=4, distributed_optimizer=zero), train)
        stage = build_step(c).stages[0]
        (sync,) = [i for i in stage.sync if isinstance(i, Communication)]
        assert sync.nbytes == 4 * stage.parameters
        assert sync.op == ("reduce_scatter" if zero else "all_reduce")
        gathered = [i for i in stage.update if isinstance(i, Communication) and i.role == "dp"]
        assert [g.nbytes for g in gathered] == ([2 * stage.parameters] if zero else [])
        (adam,) = [i for i in stage.update if isinstance(i, Compute) and i.operator.kind == "optimizer"]
        assert adam.operator.m == (-(-stage.parameters // 4) if zero else stage.parameters)


def test_tied_embeddings_are_synchronised_between_first_and_last_stage() -> None:
    stages = build_step(Configuration(GPT3, ParallelSpec(tp=8, pp=4), TrainSpec(1, 8))).stages
    tied = [[i.nbytes for i in s.sync if isinstance(i, Communication) and i.role == "embedding"] for s in stages]
    assert tied == [[51200 // 8 * 12288 * 4], [], [], [51200 // 8 * 12288 * 4]]


@pytest.mark.parametrize(("schedule", "chunks", "copies"), [("zb-v", 2, 1), ("dualpipev", 2, 1), ("dualpipe", 1, 2)])
def test_where_both_ends_of_the_model_meet_the_table_is_there_once(schedule: str, chunks: int, copies: int) -> None:
    """In a V the first stage has both ends; a pipeline that runs both ways has both at each of its ends."""
    parallel = ParallelSpec(tp=8, pp=4, vpp=chunks, dp=2)
    step = build_step(Configuration(GPT3, parallel, TrainSpec(1, 32, schedule=schedule)))
    assert not [i for s in step.stages for i in s.sync if isinstance(i, Communication) and i.role == "embedding"]
    one_stage = build_step(Configuration(GPT3, ParallelSpec(tp=8), TrainSpec(1, 1))).stages[0]
    assert sum(s.parameters for s in step.stages) == copies * one_stage.parameters
    # Gradients are reduced over all that hold the same parameters.
    groups = {i.group for s in step.stages for i in s.sync if isinstance(i, Communication) and i.role == "dp"}
    assert {group.size for group in groups} == {2 * copies}


def test_a_pipeline_of_two_copies_reduces_gradients_without_data_parallelism() -> None:
    parallel = ParallelSpec(pp=4)
    step = build_step(Configuration(GPT3, parallel, TrainSpec(1, 16, schedule="dualpipe")))
    for stage in step.stages:
        (sync,) = [i for i in stage.sync if isinstance(i, Communication) and i.role == "dp"]
        assert (sync.size, sync.nbytes) == (2, 4 * stage.parameters)
    pairs = {tuple(ranks) for stage in step.stages for i in stage.sync for ranks in i.group.members()}  # type: ignore[union-attr]
    assert pairs == {(0, 3), (1, 2)}


@pytest.mark.parametrize(("schedule", "chunks"), [("1f1b", 1), ("zb-v", 2), ("dualpipe", 1), ("dualpipev", 2)])
def test_every_layer_is_somewhere_in_every_placement(schedule: str, chunks: int) -> None:
    step = build_step(Configuration(GPT3, ParallelSpec(pp=4, vpp=chunks), TrainSpec(1, 16, schedule=schedule)))
    copies = 2 if schedule == "dualpipe" else 1
    parts = Counter(p.name for s in step.stages for chunk in s.chunks for p, count in chunk for _ in range(count))
    del parts["microbatch"]
    assert parts == {"layer": 96 * copies, "embedding": copies, "head": copies}


@given(configurations())
def test_no_layer_is_lost_whatever_the_layout(configuration: Configuration) -> None:
    step = build_step(configuration)
    layers = sum(
        count
        for stage in step.stages
        for chunk in stage.chunks
        for program, count in chunk
        if program.name.startswith("layer")
    )
    assert layers == configuration.model.num_layers
    heads = [p.name for s in step.stages for chunk in s.chunks for p, _ in chunk if p.name in ("embedding", "head")]
    assert sorted(heads) == ["embedding", "head"]


@given(configurations())
def test_shards_add_up_to_the_whole_model(configuration: Configuration) -> None:
    """Sharded matrices over tp x ep, plus what is replicated: never less than the unsharded model."""
    whole = replace(configuration, parallel=ParallelSpec(), train=replace(configuration.train, global_batch_size=1))
    padded = replace(
        whole,
        model=replace(whole.model, vocab_size=configuration.model.padded_vocab_size(configuration.parallel.tp)),
    )
    total = build_step(padded).stages[0]
    step = build_step(configuration)
    tp, experts = configuration.parallel.tp, configuration.parallel.ep * configuration.parallel.etp
    sharded = sum(s.expert_parameters for s in step.stages) * experts
    # Every expert tensor parallel rank has the bias of the second product.
    assert sharded == total.expert_parameters or (
        configuration.parallel.etp > 1 and configuration.model.add_bias_linear
    )
    assert sharded >= total.expert_parameters
    assert sum(s.parameters for s in step.stages) * tp >= total.parameters
