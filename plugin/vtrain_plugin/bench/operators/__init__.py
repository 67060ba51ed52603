"""How each kind of operator is built and called, one object per kind in a registry.

A builder makes one copy of the operator's tensors and returns what is timed on them: forward, and backward where
there is one.
"""

from vtrain_plugin.bench.operators import attention, elementwise, ends, experts, products, rotary  # noqa: F401 - registers
from vtrain_plugin.bench.operators.workbench import UnmeasuredKindError, Variant, Workbench, builder, register

__all__ = ["UnmeasuredKindError", "Variant", "Workbench", "builder", "register"]
