"""An operator's two choices as columns of the ``operators`` table, and how files of any version are read.

Before version 1.2 the text of ``fused`` said both: "flash, not causal" was fused attention without a mask, and
any other attention was causal.
"""

from __future__ import annotations

from vtrain_schemas.operators.operator import Operator
from vtrain_schemas.operators.registry import Family, kind

# SQL expressions over the columns of ``operators``.
READ_FUSED = "coalesce(fused, '') <> ''"
READ_CAUSAL = "coalesce(causal, kind = 'attention' AND coalesce(fused, '') <> 'flash, not causal')"


def fused_column(operator: Operator) -> str | None:
    """What is fused, as the kind names it; None for nothing."""
    return kind(operator.kind).fusion or None if operator.fused else None


def causal_column(operator: Operator) -> bool | None:
    """Whether attention masks later tokens; None for other kinds."""
    return operator.causal if kind(operator.kind).family is Family.ATTENTION else None
