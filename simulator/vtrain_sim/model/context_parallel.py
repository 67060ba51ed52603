"""Attention of a sequence that context parallel ranks share, as Transformer Engine runs it.

p2p: keys and values go round a ring beside attention (Liu et al. 2023, arXiv:2310.01889). a2a: ranks exchange heads for
tokens, so that each has the whole sequence of some heads (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509).
a2a+p2p: so among neighbours, in a ring over their groups. all_gather: each rank gathers all keys and values before, and
nothing hides it (Llama 3, arXiv:2407.21783, section 3.3.2). Each rank of a ring, or of those that gather, has two of
2 x ranks pieces of the sequence, an early and a late one: all have the same part of the causal half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vtrain_sim.model.program import Communication, Compute, Item, Wait, in_parts
from vtrain_sim.model.shard import Shard, backward

# Bytes of an element of the gradient of attention's sinks.
_SINK_BYTES = 4


def forward_attention(shard: Shard, core: Compute) -> list[Item]:
    """Core attention with what its ranks exchange before, beside and after it."""
    return [*_exchange(shard, _inputs(shard)), *_attend(shard, core), *_exchange(shard, _output(shard))]


def backward_attention(shard: Shard, core: Compute) -> list[Item]:
    """The backward pass of core attention, given its forward operator: the output's gradient is exchanged before it,
    those of queries, keys and values after it."""
    return [
        *_turned(_exchange(shard, _output(shard))),
        *_attend_backward(shard, backward(core)),
        *_turned(_exchange(shard, _inputs(shard))),
        *_sink_gradients(shard),
    ]


def keeps_copies(shard: Shard) -> bool:
    """Whether attention keeps what all-to-alls brought it, which is not what the products around it make and take."""
    return shard.spec.cp_a2a.size > 1 and not shard.spec.recomputes("core_attn")


def gathered_bytes(shard: Shard) -> int:
    """Keys and values of the whole sequence and their gradients, which are there while attention's backward pass runs
    where ranks gather them."""
    ranks = shard.spec.cp_gather.size
    return 2 * ranks * _key_value_bytes(shard) if ranks > 1 else 0


def _inputs(shard: Shard) -> dict[str, int]:
    """Widths of queries, keys and values on one tensor parallel rank."""
    model = shard.model
    heads, groups = model.num_attention_heads // shard.tp, max(1, model.num_query_groups // shard.tp)
    if model.multi_latent_attention:
        channels = model.qk_head_dim + model.qk_pos_emb_head_dim
        return {"query": heads * channels, "key": heads * channels, "value": heads * model.v_head_dim}
    keys = groups * model.kv_channels
    return {"query": heads * model.kv_channels, "key": keys, "value": keys}


def _output(shard: Shard) -> dict[str, int]:
    return {"output": shard.model.attention_width // shard.tp}


def _keys_and_values(shard: Shard) -> dict[str, int]:
    return {name: width for name, width in _inputs(shard).items() if name != "query"}


def _key_value_bytes(shard: Shard) -> int:
    """Keys and values of one rank's heads and part of the sequence: all-to-alls leave their size as it is."""
    return shard.tokens * sum(_keys_and_values(shard).values()) * shard.size


def _turned(items: Iterable[Item]) -> list[Item]:
    """The same exchanges of gradients."""
    return [backward(item) if isinstance(item, Compute) else item for item in items]


def _exchange(shard: Shard, widths: Mapping[str, int]) -> list[Item]:
    """All-to-alls of tensors of these widths, one after the other: while one is under way, the next is packed by rank
    and the one before put into the order of the sequence."""
    group = shard.spec.cp_a2a
    if group.size == 1:
        return []
    sent: list[Item] = []
    arrived: list[Item] = []
    for name, width in widths.items():
        exchange = Communication(
            f"cp_a2a_{name}", "all_to_all", group, shard.tokens * width * shard.size, blocking=False
        )
        sent += [_copy(shard, f"cp_pack_{name}", width), exchange]
        arrived += [Wait(exchange.name), _copy(shard, f"cp_unpack_{name}", width)]
    return [*sent, *arrived]


def _copy(shard: Shard, name: str, width: int, ranks: int = 1) -> Compute:
    """A tensor in another order, of the tokens of so many ranks."""
    return shard.operator(name, "transpose", ranks * shard.tokens, width, saves=0)


def _attend(shard: Shard, core: Compute) -> list[Item]:
    if shard.spec.cp_gather.size > 1:
        return [*_gathered(shard), core]
    return _ring(shard, core, 1)


def _attend_backward(shard: Shard, core: Compute) -> list[Item]:
    if shard.spec.cp_gather.size == 1:
        # Keys and values go round again, and their gradients with them.
        return _ring(shard, core, 2)
    # They are gathered again; sums of their gradients come back to their ranks.
    return [*_turned(_gathered(shard)), core, *_turned(_scattered(shard))]


def _ring(shard: Shard, core: Compute, times: int) -> list[Item]:
    """Keys and values go round while attention works on those at hand.

    times: what goes round, in keys and values.
    """
    ring = shard.spec.cp_ring
    if ring.size == 1:
        return [core]
    exchange = Communication("cp_ring", "all_gather", ring, times * _key_value_bytes(shard) * ring.size, blocking=False)
    first, last = in_parts(core, (ring.size - 1) / ring.size, 1 / ring.size)
    return [exchange, first, Wait(exchange.name), last]


def _gathered(shard: Shard) -> list[Item]:
    """All keys and values, in the order of the sequence."""
    ranks, widths = shard.spec.cp_gather.size, _keys_and_values(shard)
    return [
        *(_of_all(shard, name, "all_gather", width) for name, width in widths.items()),
        *(_copy(shard, f"cp_order_{name}", width, ranks) for name, width in widths.items()),
    ]


def _scattered(shard: Shard) -> list[Item]:
    """Gradients of all keys and values, by rank, and each rank's sum."""
    ranks, widths = shard.spec.cp_gather.size, _keys_and_values(shard)
    return [
        *(_copy(shard, f"cp_order_{name}_grad", width, ranks) for name, width in widths.items()),
        *(_of_all(shard, name, "reduce_scatter", width) for name, width in widths.items()),
    ]


def _of_all(shard: Shard, name: str, op: str, width: int) -> Communication:
    group = shard.spec.cp_gather
    return Communication(f"cp_{name}", op, group, group.size * shard.tokens * width * shard.size)


def _sink_gradients(shard: Shard) -> list[Item]:
    """Each rank's heads have their own; the parameter has those of all."""
    group, model = shard.spec.cp_a2a, shard.model
    if group.size == 1 or model.softmax_type == "vanilla":
        return []
    return [Communication("cp_sinks", "all_gather", group, model.num_attention_heads // shard.tp * _SINK_BYTES)]
