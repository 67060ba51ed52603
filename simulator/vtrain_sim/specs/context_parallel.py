"""How the ranks that share a sequence exchange what attention needs: Megatron's --cp-comm-type.

What goes together is what Transformer Engine's `attn_forward_func_with_cp` and `get_attention_backend` accept
(transformer_engine/pytorch/attention/dot_product_attention, context_parallel.py and utils.py): a sliding window takes
a2a or all_gather, a softmax with an offset takes a2a, and all-to-alls take heads that their ranks divide. Latent
attention goes with each since version 2.15 (with p2p and a2a+p2p before). Megatron-LM's arguments.py wants
--hierarchical-context-parallel-sizes with a2a+p2p, and their product to be the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from vtrain_sim.specs.checks import SpecError, divides, one_of, positive, whole
from vtrain_sim.specs.hybrid_pattern import ATTENTION

if TYPE_CHECKING:
    from vtrain_sim.specs.model import ModelSpec
    from vtrain_sim.specs.parallel import ParallelSpec

P2P, A2A, ALL_GATHER, HIERARCHICAL = COMM_TYPES = ("p2p", "a2a", "all_gather", "a2a+p2p")
_FLAG, _SIZES, _CP = "--cp-comm-type", "--hierarchical-context-parallel-sizes", "--context-parallel-size"
# The help of Megatron-LM's argument writes it so; Transformer Engine takes the other spelling.
_SPELLINGS = {"allgather": ALL_GATHER}
_WINDOWED = (A2A, ALL_GATHER)


def read_comm_type(flag: str, words: Sequence[str]) -> str:
    """The kind of exchange of all layers, from one word or one per layer. Raises `SpecError` for several kinds."""
    kinds = dict.fromkeys(_SPELLINGS.get(word, word) for word in words)
    for kind in kinds:
        one_of(flag, kind, COMM_TYPES)
    if len(kinds) != 1:
        raise SpecError(
            f"{flag} has {' and '.join(kinds) or 'nothing'}: layers that differ in it are not simulated, give one for "
            "all layers"
        )
    return next(iter(kinds))


def read_hierarchy(flag: str, sizes: Sequence[int]) -> tuple[int, int]:
    """Ranks of an inner group, which exchange by all-to-alls, and of an outer one, a ring. Raises `SpecError`."""
    if len(sizes) != 2:
        raise SpecError(f"{flag} has {len(sizes)} sizes: it takes two, of the all-to-all and of the ring")
    for size in sizes:
        positive(flag, size)
    return sizes[0], sizes[1]


def check_hierarchy(sizes: Sequence[int], cp: int) -> None:
    """Raise `SpecError` where the sizes of the groups do not multiply to the context parallel size."""
    if prod(sizes) != cp:
        raise SpecError(f"{_SIZES} {' '.join(map(str, sizes))} makes {prod(sizes)} ranks, {_CP} is {cp}")


def check_layout(parallel: ParallelSpec) -> None:
    """Raise `SpecError` for a kind that is none, or without the size of its groups."""
    kind, inner = parallel.cp_comm_type, parallel.cp_a2a_size
    one_of(_FLAG, kind, COMM_TYPES)
    whole(_SIZES, inner, 0)
    if (kind == HIERARCHICAL) != (inner > 0):
        raise SpecError(f"{_FLAG} {HIERARCHICAL} and {_SIZES} go together: give both or neither")
    if inner:
        divides(f"the first of {_SIZES}", inner, _CP, parallel.cp)


def usual_comm_type(model: ModelSpec) -> str:
    """Megatron's default, or what attention with windows or an offset in its softmax takes instead."""
    return A2A if model.window_size or model.softmax_type != "vanilla" else P2P


def check_model(model: ModelSpec, parallel: ParallelSpec) -> None:
    """Raise `SpecError` where attention has what the kind of exchange does not do."""
    if parallel.cp == 1 or (model.symbols and ATTENTION not in model.symbols):
        return
    kind, a2a = parallel.cp_comm_type, parallel.groups.cp_a2a.size
    if model.softmax_type != "vanilla" and kind != A2A:
        raise SpecError(
            f"--softmax-type {model.softmax_type} with {_CP} of 2 or more takes {_FLAG} {A2A}: Transformer Engine's "
            f"{kind} takes vanilla alone"
        )
    if model.window_size and kind not in _WINDOWED:
        raise SpecError(
            f"--window-size with {_CP} of 2 or more takes {_FLAG} {' or '.join(_WINDOWED)}: Transformer Engine's "
            f"{kind} has no windows"
        )
    groups = model.num_attention_heads if model.multi_latent_attention else model.num_query_groups
    heads = {"--num-attention-heads": model.num_attention_heads, "--num-query-groups": groups}
    ranks = _CP if kind == A2A else f"the first of {_SIZES}"
    for flag, count in heads.items():
        divides(
            f"{ranks}, with {_FLAG} {kind},", a2a, f"{flag} of a tensor parallel rank", max(1, count // parallel.tp)
        )
