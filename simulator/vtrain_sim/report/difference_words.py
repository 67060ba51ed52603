"""A difference between two steps in words."""

from __future__ import annotations

from vtrain_sim.report.tables import counted, duration, gib, percent
from vtrain_sim.simulate.breakdown import HOST
from vtrain_sim.simulate.projection import WAITING
from vtrain_sim.validate.account import OPTIMIZER, RECOMPUTE, UNEXPLAINED, Account
from vtrain_sim.validate.difference import Cause, Difference

_MOST = 3
# A cause that is a smaller part of all changes is not worth a sentence.
_LEAST_SHARE = 0.05
# Settings that bear on every kind of compute; on a cause, by its name.
_COMPUTE = (
    "model", "cluster", "gpus", "num_layers", "hidden_size", "seq_length", "tp", "pp", "cp", "ep", "dp", "mbs", "gbs",
    "params_dtype", "fp8", "fp8_recipe", "fp4", "attention_kernel",
)  # fmt: skip
_BEARING = {
    "tp communication": ("cluster", "tp", "sequence_parallel", "tp_comm_overlap", "mbs", "cp", "recompute"),
    "cp communication": ("cluster", "cp", "cp_comm_type", "tp", "mbs"),
    "ep communication": ("cluster", "ep", "tp", "mbs", "moe_token_dispatcher"),
    "dp communication": (
        "cluster", "dp", "tp", "pp", "distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather", "fsdp",
    ),
    WAITING: ("pp", "vpp", "schedule", "mbs", "gbs", "dp", "overlap_p2p"),
    RECOMPUTE: ("recompute", "recompute_modules", "recompute_num_layers"),
    OPTIMIZER: ("distributed_optimizer", "dp", "tp", "pp", "fsdp"),
    HOST: ("cluster", "mbs", "tp", "cuda_graph_impl"),
}  # fmt: skip


def facts(account: Account) -> list[str]:
    """What is known of a step beside its time: GPUs, tokens per second, memory."""
    known = []
    if account.num_gpus:
        known.append(counted(account.num_gpus, "GPUs"))
    rate = account.tokens_per_s_per_gpu
    if rate is not None:
        known.append(f"{rate:,.0f} tokens/s per GPU")
    if account.peak_bytes:
        known.append(gib(account.peak_bytes))
    return known


def sentences(difference: Difference) -> tuple[str, ...]:
    """The two or three causes that differ most, a sentence each; one alone where nothing differs."""
    changes = sum(abs(cause.difference_s) for cause in difference.causes)
    largest = sorted(difference.causes, key=lambda cause: -abs(cause.difference_s))[:_MOST]
    told = [cause for cause in largest if abs(cause.difference_s) > _LEAST_SHARE * changes]
    if changes <= 1e-9 * difference.a.step_s or not told:
        return ("each cause takes the same in both",)
    return tuple(_sentence(cause, difference) for cause in told)


def _sentence(cause: Cause, difference: Difference) -> str:
    more = "more" if cause.difference_s > 0 else "less"
    bearing = _BEARING.get(cause.name, () if cause.name == UNEXPLAINED else _COMPUTE)
    why = [f"{name} {_value(a)} to {_value(b)}" for name, (a, b) in difference.settings.items() if name in bearing]
    reasons = f"; {', '.join(why[:3])}" if why else ""
    share = ""
    if difference.difference_s and abs(cause.difference_s) <= 2 * abs(difference.difference_s):
        part = cause.difference_s / difference.difference_s
        share = ", against the difference" if part < 0 else f", {_part(part)} difference"
    takes = "take" if cause.name.endswith("s") else "takes"
    times = f"{_time(cause.a_s)} to {_time(cause.b_s)}"
    return f"{cause.name} {takes} {duration(abs(cause.difference_s))} {more}{share} ({times}{reasons})"


def _part(part: float) -> str:
    """A part of the difference, which others may make smaller."""
    return f"{percent(part)} of the" if part < 1.0005 else "more than the whole"


def _time(seconds: float) -> str:
    return duration(seconds) if seconds else "none"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if value not in ("", ()) else "none"
