"""What context parallel ranks exchange for attention, by hand: bytes, shapes, order, memory and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.simulate.machine import costs, seconds_of
from vtrain_sim.model import Communication, Compute, Item, Parts, Program, communications_of, operators_of
from vtrain_sim.model.attention import attention_block
from vtrain_sim.model.shard import Shard
from vtrain_sim.simulate.memory import working_bytes
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.shard import LayerKind

S, H, HEADS, GROUPS, D = 4096, 512, 8, 4, 64
GPT = ModelSpec(2, H, HEADS, S, 1024, num_query_groups=GROUPS, swiglu=True, dropout=False)
LATENT = replace(
    GPT, num_query_groups=HEADS, multi_latent_attention=True, kv_lora_rank=32, qk_head_dim=32, qk_pos_emb_head_dim=16,
    v_head_dim=24,
)  # fmt: skip
STEP = TrainSpec(1, 1)
CP = 4
# Bytes of the queries, and of the keys, of the tokens of one rank.
Q, K = S // CP * HEADS * D * 2, S // CP * GROUPS * D * 2
TWO_LEVELS = {"cp_comm_type": "a2a+p2p", "cp_a2a_size": 2}
KINDS: dict[str, dict[str, Any]] = {
    **{kind: {"cp_comm_type": kind} for kind in ("p2p", "a2a", "all_gather")},
    "a2a+p2p": TWO_LEVELS,
}


def configuration(kind: str, model: ModelSpec = GPT, step: TrainSpec = STEP, **layout: Any) -> Configuration:
    return Configuration(model, ParallelSpec(**{"cp": CP, **KINDS[kind], **layout}), step)


def layer(kind: str, model: ModelSpec = GPT, step: TrainSpec = STEP, **layout: Any) -> Program:
    return Parts(configuration(kind, model, step, **layout).shard).layer(LayerKind())


def messages(items: tuple[Item, ...]) -> list[tuple[str, str, int, int]]:
    """What is exchanged: tensor, collective, ranks of the group, bytes."""
    return [(i.name.removeprefix("cp_"), i.op, i.size, i.nbytes) for i in communications_of(items) if i.role == "cp"]


def core(program: Program) -> Compute:
    return next(i for i in operators_of(program.forward) if i.name == "core_attention")


def saved(program: Program) -> dict[str, int]:
    return {i.name: i.saves for i in operators_of(program.forward) if i.name in ("core_attention", "linear_proj")}


def test_a_ring_passes_keys_and_values_round() -> None:
    program = layer("p2p")
    assert messages(program.forward) == [("ring", "all_gather", CP, CP * 2 * K)]
    assert messages(program.backward) == [("ring", "all_gather", CP, 2 * CP * 2 * K)]
    # It is what a layout without a word of it has.
    assert program == Parts(Configuration(GPT, ParallelSpec(cp=CP), STEP).shard).layer(LayerKind())


def test_ranks_exchange_heads_for_tokens() -> None:
    program = layer("a2a")
    inputs = [("a2a_query", "all_to_all", CP, Q), ("a2a_key", "all_to_all", CP, K), ("a2a_value", "all_to_all", CP, K)]
    output = [("a2a_output", "all_to_all", CP, Q)]
    assert messages(program.forward) == inputs + output
    assert messages(program.backward) == output + inputs
    operator = core(program).operator
    assert (operator.seq_q, operator.seq_kv, operator.heads, operator.kv_heads) == (S, S, HEADS // CP, GROUPS // CP)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_an_all_to_all_sends_less_the_more_ranks_there_are(ranks: int) -> None:
    """DeepSpeed-Ulysses (arXiv:2309.14509), section 3.2: 4 N h / P elements forward, as much backward; of a ring, or of
    keys and values that are gathered, 2 N h whatever P is (here of as many heads of keys as of queries)."""
    model = replace(GPT, num_query_groups=HEADS)

    def crossing(kind: str, direction: str) -> float:
        # What a rank sends of a payload: all but its own part.
        sent = messages(getattr(layer(kind, model, cp=ranks), direction))
        return sum(nbytes * (size - 1) / size for _, _, size, nbytes in sent) / 2  # elements of 2 bytes

    rest = (ranks - 1) / ranks
    assert crossing("a2a", "forward") == crossing("a2a", "backward") == 4 * S * H / ranks * rest
    assert crossing("p2p", "forward") == crossing("all_gather", "forward") == 2 * S * H * rest
    assert crossing("p2p", "backward") == crossing("all_gather", "backward") == 4 * S * H * rest


def test_keys_and_values_are_gathered_and_their_gradients_scattered() -> None:
    program = layer("all_gather")
    gathered = [("key", "all_gather", CP, CP * K), ("value", "all_gather", CP, CP * K)]
    scattered = [("key", "reduce_scatter", CP, CP * K), ("value", "reduce_scatter", CP, CP * K)]
    assert messages(program.forward) == gathered
    assert messages(program.backward) == gathered + scattered
    assert all(i.blocking for i in communications_of(program.forward + program.backward))
    assert core(program).operator == core(layer("p2p")).operator


def test_two_levels_exchange_heads_among_neighbours_and_pass_the_rest_round() -> None:
    program = layer("a2a+p2p", tp=2)
    inputs = [
        (f"a2a_{name}", "all_to_all", 2, nbytes // 2) for name, nbytes in (("query", Q), ("key", K), ("value", K))
    ]
    output = [("a2a_output", "all_to_all", 2, Q // 2)]
    assert messages(program.forward) == [*inputs, ("ring", "all_gather", 2, 2 * K), *output]
    assert messages(program.backward) == [*output, ("ring", "all_gather", 2, 2 * 2 * K), *inputs]
    operator = core(program).operator
    assert (operator.seq_q, operator.seq_kv, operator.heads, operator.kv_heads) == (S // 2, S, HEADS // 4, GROUPS // 4)
    shard = configuration("a2a+p2p", step=TrainSpec(1, 2), tp=2, dp=2).shard
    # Ranks of Megatron-Core's create_hierarchical_groups: of 0, 2, 4, 6 the neighbours, and one of each pair.
    assert list(shard.cp_a2a.members()) == [(0, 2), (1, 3), (4, 6), (5, 7), (8, 10), (9, 11), (12, 14), (13, 15)]
    assert list(shard.cp_ring.members()) == [(0, 4), (1, 5), (2, 6), (3, 7), (8, 12), (9, 13), (10, 14), (11, 15)]


def test_levels_of_one_rank_are_none() -> None:
    assert layer("a2a+p2p", cp_a2a_size=CP) == layer("a2a")
    assert messages(layer("a2a+p2p", cp_a2a_size=1).forward) == messages(layer("p2p").forward)


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_exchanges_nothing(kind: str) -> None:
    layout = {"cp_a2a_size": 1} if kind == "a2a+p2p" else {}
    assert layer(kind, cp=1, **layout) == Parts(Configuration(GPT, ParallelSpec(), STEP).shard).layer(LayerKind())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [GPT, LATENT, replace(GPT, packed_lengths=(1024,))])
def test_attention_has_the_same_work_however_it_is_shared(kind: str, model: ModelSpec) -> None:
    alone = Parts(Configuration(model, ParallelSpec(), STEP).shard).layer(LayerKind())
    for direction in ("forward", "backward"):
        ours, all_of_it = (
            sum(i.operator.flops() for i in operators_of(getattr(program, direction)) if i.name == "core_attention")
            for program in (layer(kind, model), alone)
        )
        assert ours * CP == pytest.approx(all_of_it)


def test_latent_attention_exchanges_keys_wider_than_values() -> None:
    tokens = S // CP * HEADS * 2
    assert messages(layer("a2a", LATENT).forward) == [
        ("a2a_query", "all_to_all", CP, tokens * 48),
        ("a2a_key", "all_to_all", CP, tokens * 48),
        ("a2a_value", "all_to_all", CP, tokens * 24),
        ("a2a_output", "all_to_all", CP, tokens * 24),
    ]
    assert messages(layer("all_gather", LATENT).forward) == [
        ("key", "all_gather", CP, CP * tokens * 48),
        ("value", "all_gather", CP, CP * tokens * 24),
    ]


def test_what_all_to_alls_bring_is_kept_beside_what_they_take() -> None:
    """Queries, keys, values and output with their statistics; where an all-to-all makes the projection's input of the
    output, that is kept too. Gathered keys and values are not: they are gathered again."""
    statistics = 4 * S // CP * HEADS
    for kind in ("p2p", "all_gather"):
        assert saved(layer(kind)) == {"core_attention": 2 * Q + 2 * K + statistics, "linear_proj": 0}
    for kind in ("a2a", "a2a+p2p"):
        assert saved(layer(kind)) == {"core_attention": 2 * Q + 2 * K + statistics, "linear_proj": Q}
        assert layer(kind).saved_bytes == layer("p2p").saved_bytes + Q
    # Attention that runs again keeps its inputs as they were before, and the projection its own.
    again = replace(STEP, recompute_granularity="selective", recompute_modules=("core_attn",))
    for kind in KINDS:
        assert saved(layer(kind, step=again)) == {"core_attention": 2 * Q + 2 * K, "linear_proj": 0}


def test_up_projections_that_run_again_free_what_attention_has_of_them() -> None:
    again = replace(STEP, recompute_granularity="selective", recompute_modules=("mla_up_proj",))
    inputs = S // CP * HEADS * (48 + 48 + 24) * 2
    for kind, freed in (("p2p", inputs), ("all_gather", inputs), ("a2a", 0), ("a2a+p2p", 0)):
        before, after = (saved(layer(kind, LATENT, step))["core_attention"] for step in (STEP, again))
        assert before - after == freed


def test_gathered_keys_and_values_and_their_gradients_are_there_at_once() -> None:
    sizes = {kind: working_bytes(Parts(configuration(kind).shard)) for kind in KINDS}
    assert sizes == {"p2p": 0, "a2a": 0, "a2a+p2p": 0, "all_gather": 2 * CP * 2 * K}


def test_attention_that_runs_again_has_its_exchanges_again() -> None:
    again = replace(STEP, recompute_granularity="selective", recompute_modules=("core_attn",))
    for kind in KINDS:
        plain, twice = layer(kind), layer(kind, step=again)
        assert messages(twice.backward) == messages(plain.forward) + messages(plain.backward)


def times(kind: str, exchange_s: float, copy_s: float = 0.0, **layout: Any) -> tuple[float, float]:
    """Seconds of attention forward (8 of its own) and backward (16)."""
    seconds = {"attention/forward": 8.0, "attention/backward": 16.0, "transpose": copy_s}
    block = attention_block(Shard(configuration(kind, **layout).shard))
    forward, backward = (seconds_of(items, costs(seconds, {"cp": exchange_s})) for items in block)
    return forward, backward


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Three quarters of attention, 6 s, hide the ring.
        ("p2p", (8, 16)),
        # Queries, keys, values and the output one after the other, in front of attention and behind it.
        ("a2a", (4 * 3 + 8, 4 * 3 + 16)),
        # Keys and values; backward again, and their gradients.
        ("all_gather", (2 * 3 + 8, 4 * 3 + 16)),
        # Half of attention, 4 s, hides the ring of two.
        ("a2a+p2p", (4 * 3 + 8, 4 * 3 + 16)),
    ],
)
def test_what_hides_behind_attention(kind: str, expected: tuple[float, float]) -> None:
    assert times(kind, 3.0) == pytest.approx(expected)


def test_a_tensor_is_packed_while_the_one_before_is_under_way() -> None:
    """Exchanges of 3 s, copies of 1 s. In front: the first is packed, three exchanges, the last is unpacked; behind
    attention: packed, exchanged, unpacked."""
    assert times("a2a", 3.0, 1.0) == pytest.approx((1 + 3 * 3 + 1 + 8 + 1 + 3 + 1, 1 + 3 + 1 + 16 + 1 + 3 * 3 + 1))
    # Gathered tensors are put in order after both have come, their gradients before they go.
    assert times("all_gather", 3.0, 1.0) == pytest.approx((2 * 3 + 2 + 8, 2 * 3 + 2 + 16 + 2 + 2 * 3))


def test_sinks_are_shared_like_heads() -> None:
    model = replace(GPT, softmax_type="learnable")
    program = layer("a2a", model, tp=2, cp=2)
    assert core(program).parameters == HEADS // 2
    assert messages(program.backward)[-1] == ("sinks", "all_gather", 2, HEADS // 2 * 4)
    assert [name for name, *_ in messages(program.forward)] == ["a2a_query", "a2a_key", "a2a_value", "a2a_output"]


def test_windows_are_bands_of_what_a_rank_has() -> None:
    model = replace(GPT, window_size=256)
    for kind, heads, queries in (("a2a", HEADS // CP, S), ("all_gather", HEADS, S // CP)):
        forward, _ = attention_block(Shard(configuration(kind, model).shard), windowed=True)
        operator = next(i.operator for i in forward if isinstance(i, Compute) and i.name == "core_attention")
        assert (operator.batch, operator.seq_q, operator.seq_kv, operator.heads) == (queries // 256, 256, 256, heads)


def test_layers_without_attention_have_exchanges_of_their_own() -> None:
    """A gated delta net's are those of its mixer whatever attention's are."""
    model = replace(
        GPT, linear_attention_freq="2", linear_num_key_heads=8, linear_num_value_heads=8, linear_key_head_dim=32,
        linear_value_head_dim=32,
    )  # fmt: skip
    programs = {kind: Parts(configuration(kind, model).shard).layer(LayerKind(linear=True)) for kind in KINDS}
    assert all(program == programs["p2p"] for program in programs.values())
    assert {op for _, op, *_ in messages(programs["p2p"].forward)} == {"all_to_all"}


def test_weight_gradients_apart_leave_the_exchanges_with_the_inputs() -> None:
    step = TrainSpec(1, 4, schedule="zb-h1")
    for kind in KINDS:
        program = layer(kind, step=step, pp=2)
        assert messages(program.backward) == messages(layer(kind).backward)
        assert not any(isinstance(i, Communication) for i in program.weight)


@pytest.mark.parametrize(
    ("kind", "model", "layout", "words"),
    [
        ("a2a", {}, {"cp": 8}, r"--context-parallel-size, .* is 8, which does not divide --num-query-groups .* \(4\)"),
        ("a2a", {}, {"tp": 2}, r"is 4, which does not divide --num-query-groups of a tensor parallel rank \(2\)"),
        ("a2a", {"num_query_groups": 8}, {"tp": 8, "cp": 2}, r"--num-attention-heads of a tensor parallel rank \(1\)"),
        ("a2a+p2p", {}, {"tp": 4}, "the first of --hierarchical-context-parallel-sizes, with --cp-comm-type a2a.p2p"),
        ("a2a+p2p", {}, {"cp": 6, "cp_a2a_size": 4}, "which does not divide --context-parallel-size"),
        ("a2a+p2p", {}, {"cp_a2a_size": 0}, "go together"),
        ("a2a", {}, {"cp_a2a_size": 2}, "go together"),
        ("p2p", {"window_size": 128}, {}, "takes --cp-comm-type a2a or all_gather"),
        ("a2a+p2p", {"window_size": 128}, {}, "Transformer Engine's a2a.p2p has no windows"),
        ("p2p", {"softmax_type": "learnable"}, {}, "takes --cp-comm-type a2a:"),
        ("p2p", {"softmax_type": "learnable", "window_size": 128}, {}, "takes --cp-comm-type a2a:"),
        ("all_gather", {"softmax_type": "off-by-one"}, {}, "--softmax-type off-by-one .* takes --cp-comm-type a2a:"),
    ],
)
def test_what_transformer_engine_refuses(kind: str, model: dict[str, Any], layout: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        configuration(kind, replace(GPT, **model), **layout)
    assert "\n" not in str(caught.value)


def test_one_rank_may_have_what_several_may_not() -> None:
    for kind in ("p2p", "a2a", "all_gather"):
        configuration(kind, replace(GPT, window_size=128, softmax_type="learnable"), cp=1, tp=8)
