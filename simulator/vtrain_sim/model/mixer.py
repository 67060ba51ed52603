"""What blocks that mix tokens by a recurrence have in common, as Megatron-Core's mixers run them."""

from __future__ import annotations

from vtrain_sim.model.program import Communication, Compute, Item
from vtrain_sim.model.shard import Region, Shard, backward


def mixer_block(
    shard: Shard, name: str, norm: Compute, width: int, mixed: Region, gated: Compute, channels: int
) -> Region:
    """Norm, projection in, mixing, gated norm, projection out: forward and backward.

    name: prefix of the operators' names. width: columns that the first projection makes, on one tensor parallel rank.
    channels: columns that the second one takes there.
    """
    tokens, hidden = shard.tokens, shard.model.hidden_size
    project = shard.linear(f"{name}_in_proj", tokens, width, hidden, saves=shard.local_input_bytes)
    enter, backward_enter = shard.column_parallel(f"{name}_in", project)
    leave, backward_leave = shard.row_parallel(
        f"{name}_out", shard.linear(f"{name}_out_proj", tokens, hidden, channels)
    )
    mix, backward_mix = mixed
    return (
        [norm, *enter, *mix, gated, *leave],
        [*backward_leave, backward(gated), *backward_mix, *backward_enter, backward(norm)],
    )


def there_and_back(forward: list[Item]) -> Region:
    """Items and, the other way round, their backward ones; what is exchanged is exchanged again."""
    return forward, [backward(item) if isinstance(item, Compute) else item for item in reversed(forward)]


def exchanged(shard: Shard, name: str, *widths: int) -> list[Item]:
    """All-to-alls of tensors of these widths over the whole sequence, and the copies that put them in order."""
    cp = shard.spec.cp
    if cp.size == 1:
        return []
    tokens = shard.tokens * cp.size
    exchanges = [Communication(name, "all_to_all", cp, tokens * width * shard.size) for width in widths]
    # Packed by rank, and unpacked; tokens have another order for the balance of causal attention.
    copies = [shard.operator(f"{name}_{step}", "transpose", tokens, sum(widths)) for step in ("pack", "unpack")]
    return [copies[0], *exchanges, copies[1]]
