"""The dense feed-forward block."""

from __future__ import annotations

from vtrain_sim.model.program import Item
from vtrain_sim.model.recomputation import without_saves
from vtrain_sim.model.shard import Region, Shard, backward, recompute, run_again


def mlp_block(shard: Shard) -> Region:
    """Norm and dense feed-forward block: forward and backward."""
    model, spec = shard.model, shard.spec
    norm = shard.norm("pre_mlp_layernorm", shard.local_tokens, model.hidden_size)
    # The first product has the norm fused into it, so that what runs again begins with the norm's input.
    shared = model.norms_per_layer == 1
    runs_again = not shared and (spec.recomputes("layernorm") or spec.recomputes("mlp"))
    again = [recompute(norm)] if runs_again else []
    kept = 0 if again or shared else shard.local_input_bytes
    enter, leave = gated_mlp(shard, model.ffn_hidden_size, "mlp", ("linear_fc1", "linear_fc2"), kept)
    back = [*again, *leave[1], *enter[1]] if spec.recomputes("mlp") else [*leave[1], *again, *enter[1]]
    if shared:
        # The block has attention's input, normalised there.
        return [*enter[0], *leave[0]], back
    return shard.norm_after("post_mlp_layernorm", ([norm, *enter[0], *leave[0]], [*back, backward(norm)]))


def gated_mlp(shard: Shard, width: int, region: str, names: tuple[str, str], saves: int) -> tuple[Region, Region]:
    """Two linear layers with an activation between them, which belongs to the first of the two regions.

    region: its name, by which `ShardSpec.recomputes` knows it. saves: bytes of the input that the first one keeps.
    """
    model = shard.model
    ffn = width // shard.tp
    gates = 2 if model.swiglu else 1
    bias = model.add_bias_linear
    fc1 = shard.linear(names[0], shard.tokens, gates * ffn, model.hidden_size, bias=bias, saves=saves)
    activation = shard.operator("activation", "activation", shard.tokens, ffn)
    fc2 = shard.linear(names[1], shard.tokens, model.hidden_size, ffn, bias=bias)
    enter, backward_enter = shard.column_parallel(f"{region}_fc1", fc1)
    forward: list[Item] = [*enter, activation]
    first: Region = (forward, [backward(activation), *backward_enter])
    second = shard.row_parallel(region, fc2)
    if not shard.spec.recomputes(region):
        return first, second
    again = run_again([*first[0], *second[0]])
    return (without_saves(first[0]), first[1]), (without_saves(second[0]), [*again, *second[1]])
