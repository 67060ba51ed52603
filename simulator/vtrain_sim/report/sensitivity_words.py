"""What binds a configuration, and what would help, in words."""

from __future__ import annotations

from vtrain_sim.decide.sensitivity import CONFIGURATION, Effect, Sensitivity
from vtrain_sim.report.tables import duration, percent

NAMES = {
    "products": "matrix products and attention",
    "memory_bandwidth": "memory bandwidth",
    "inside_node": "links inside a node",
    "between_nodes": "network between nodes",
    "host": "kernel launches",
}
_LEAST_SHARE = 0.01


def sentences(sensitivity: Sensitivity) -> tuple[str, ...]:
    """What binds; the change of the configuration that helps most; the nearest that fits, where it does not."""
    fitting = [e for e in sensitivity.effects if e.of == CONFIGURATION and e.fits]
    said = [_binding(sensitivity)]
    if not sensitivity.projection.memory.fits:
        said.append(f"it does not fit: {fitting[0].name} would" if fitting else "it does not fit, nor with any change")
    faster = [e for e in fitting if (e.change_s or 0.0) < 0]
    if faster:
        said.append(f"of the changes of the configuration that fit, {_gain(faster[0])}")
    elif fitting:
        said.append("no single change of the configuration that fits makes it faster")
    return tuple(said)


def _binding(sensitivity: Sensitivity) -> str:
    """Where the step's time goes by what binds it, the largest share first."""
    shares = sorted(sensitivity.shares.items(), key=lambda item: -item[1])
    parts = [f"{NAMES[name]} {percent(share)}" for name, share in shares if share >= _LEAST_SHARE]
    rest = 1 - sum(sensitivity.shares.values())
    if rest >= _LEAST_SHARE:
        parts.append(f"latencies and fixed times {percent(rest)}")
    return f"what binds the step: {', '.join(parts)}"


def _gain(effect: Effect) -> str:
    change_s, change = effect.change_s or 0.0, effect.change or 0.0
    return f"{effect.name} brings most: {duration(-change_s)} less a step ({percent(change, sign=True)})"
