"""Samples that are packed into one sequence, of which each attends to itself alone."""

from __future__ import annotations

import math
from dataclasses import replace

from vtrain_schemas.operators import Operator
from vtrain_sim.model.shard import Shard


def packed(operator: Operator, shard: Shard) -> Operator:
    """Attention of a microbatch as that of samples of one length, as many as fill it nearly, which have all its work.

    The work of samples is the sum of the squares of their lengths (variable-length kernels of FlashAttention, Dao et
    al. 2022, and cuDNN; `cu_seqlens` of Megatron-Core's PackedSeqParams). Each is shared by all context parallel ranks.
    """
    model = shard.model
    if not model.packed_lengths:
        return operator
    tokens = operator.batch * operator.seq_kv
    samples = round(tokens / model.attended_length)
    # Up, but for what floating point adds: the samples' work is all done.
    length = math.ceil(math.sqrt(tokens * model.attended_length / samples) - 1e-9)
    return replace(operator, batch=samples, seq_q=-(-length // shard.spec.query_parts), seq_kv=length)
