"""Names by which a trace's events show a call of communication."""

from __future__ import annotations

from vtrain_schemas.communication_names import collective_op
from vtrain_schemas.range_names import is_communication

RECORD = "record_param_comms"
# The framework's own operator of a call.
DISPATCH = "c10d::"
# Kernels of expert-parallel libraries that move the tokens; the others only agree on where they go.
_EXPERT = (("dispatch", "all_to_all"), ("combine", "all_to_all"))


def is_mark(name: str) -> bool:
    """Whether a host event of this name marks a call."""
    return name == RECORD or is_communication(name)


def op_of_kernel(name: str) -> str:
    """Operation by a kernel's name; "" for one that moves no data."""
    base = name.replace("(anonymous namespace)::", "").partition("(")[0].partition("<")[0]
    if "nccl" not in base.lower():
        last = base.rpartition("::")[2].removeprefix("void ")
        return next((op for word, op in _EXPERT if last.startswith(word)), "") or collective_op(last)
    op = collective_op(base)
    # NCCL runs both ends of a point-to-point call as one kernel, RCCL everything as a generic one.
    return "p2p" if op == "send_recv" else op or "unknown"
