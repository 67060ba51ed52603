"""Where the time of one step goes, by cause, for a projection and for a captured run alike."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from vtrain_sim.simulate.breakdown import HOST, STRAGGLERS
from vtrain_sim.simulate.projection import WAITING, Projector
from vtrain_sim.specs import ClusterSpec, Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

# Causes beside the kinds of operators and the communication of each role.
RECOMPUTE, OPTIMIZER, OVERHEAD, UNEXPLAINED = "recompute", "optimizer", "step overhead", "unexplained"
# Kinds by what people call them.
_KINDS = {
    "gemm": "matrix products",
    "grouped_gemm": "products of experts",
    "microbatch": "work per microbatch",
    "memory": "copies and fills",
}
_PASSES = ("forward", "backward")


@dataclass(frozen=True)
class Account:
    """Where the step_s seconds of a step go: causes, seconds by name, add up to it.

    stage: the one with the most work, whose time it is. captured: whether it was measured. settings: what describes
    the configuration, by name; empty where it is not known. num_gpus, tokens: of a step; peak_bytes: of the fullest
    GPU; fits: 0 and None where they are not known.
    """

    step_s: float
    stage: int | None
    captured: bool
    causes: Mapping[str, float]
    settings: Mapping[str, object]
    num_gpus: int = 0
    tokens: int = 0
    peak_bytes: int = 0
    fits: bool | None = None
    remarks: tuple[str, ...] = ()

    @property
    def tokens_per_s_per_gpu(self) -> float | None:
        """Training tokens per second and device; None where they are not known."""
        return self.tokens_per_s / self.num_gpus if self.tokens and self.num_gpus else None

    @property
    def tokens_per_s(self) -> float:
        """Training tokens per second of all devices; 0 where they are not known."""
        return self.tokens / self.step_s


def cause_of_kind(name: str) -> str:
    """The cause that time of a kind of operator is."""
    return _KINDS.get(name, name.replace("_", " "))


def projected_account(projector: Projector, configuration: Configuration) -> Account:
    """Where the time of the bottleneck stage of a projection goes. Raises `UserError` where a cost is not known."""
    projection = projector.project(configuration)
    tally = projector.stage_tally(configuration, projection.critical_stage)
    causes: dict[str, float] = defaultdict(float)
    for (category, source), seconds in tally.parts.items():
        causes[cause_of_kind(source.partition("/")[0]) if category in _PASSES else category] += seconds
    for name in (STRAGGLERS, WAITING):
        causes[name] += projection.breakdown_s.get(name, 0.0)
    cluster, parallel = projector.cluster, configuration.parallel
    return Account(
        projection.iteration_time_s,
        projection.critical_stage,
        False,
        completed(causes, projection.iteration_time_s),
        settings_of(configuration, cluster),
        parallel.world_size,
        configuration.tokens_per_step,
        projection.memory.worst.peak_bytes,
        projection.memory.fits,
    )


def completed(causes: Mapping[str, float], step_s: float) -> dict[str, float]:
    """Causes that add up to the step: what is left is unexplained."""
    kept = {name: seconds for name, seconds in sorted(causes.items(), key=place) if seconds}
    rest = step_s - sum(kept.values())
    # Sums in another order differ in their last digits.
    return kept | {UNEXPLAINED: rest} if abs(rest) > 1e-9 * step_s else kept


def place(item: tuple[str, float]) -> tuple[int, float]:
    """Order of causes: compute, the longest first; communication; all else."""
    name, seconds = item
    others = (RECOMPUTE, OPTIMIZER, HOST, OVERHEAD, WAITING, STRAGGLERS, UNEXPLAINED)
    if name in others:
        return 2 + others.index(name), 0.0
    return int(name.endswith(" communication")), -abs(seconds)


def settings_of(configuration: Configuration, cluster: ClusterSpec | None) -> dict[str, object]:
    """What describes a configuration, by name: the fields of its specs, the short ones by their options' names."""
    short = {"micro_batch_size": "mbs", "global_batch_size": "gbs", "recompute_granularity": "recompute"}
    settings: dict[str, object] = {"cluster": cluster.name} if cluster is not None else {}
    settings["gpus"] = configuration.parallel.world_size
    for spec in (configuration.model, configuration.parallel, configuration.train):
        for entry in fields(spec):
            name = "model" if entry.name == "name" else short.get(entry.name, entry.name)
            settings[name] = getattr(spec, entry.name)
    settings["schedule"] = configuration.schedule
    return settings
