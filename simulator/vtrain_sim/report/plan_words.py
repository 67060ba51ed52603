"""How the layout of a job ranks among its plans, in words."""

from __future__ import annotations

from vtrain_sim.decide import PlanResult
from vtrain_sim.decide.own_layout import OwnLayout
from vtrain_sim.report.tables import counted, duration
from vtrain_sim.simulate.memory import MARGIN
from vtrain_sim.specs import ParallelSpec, TrainSpec


def recompute_words(train: TrainSpec) -> str:
    """What runs again in the backward pass, for a column of a table."""
    if train.recompute_granularity == "full":
        block = train.recompute_method == "block"
        return f"{train.recompute_num_layers} layers" if block else "full"
    return "+".join(train.recomputed_modules) or "none"


def overlap_words(parallel: ParallelSpec) -> str:
    """Which communication of layers runs beside compute because a flag says so, for a column of a table."""
    words = [word for word, on in (("tp", parallel.tp_comm_overlap), ("ep", parallel.overlap_moe_comm)) if on]
    return "+".join(words) or "none"


def sharding_words(parallel: ParallelSpec) -> str:
    """What replicas share, for a column of a table."""
    return "all (FSDP)" if parallel.fsdp else "optimizer" if parallel.distributed_optimizer else "nothing"


def memory_margin(result: PlanResult) -> str:
    """What memory the best plan leaves."""
    verdict = result.plans[0].projection.memory
    peak, capacity = verdict.worst.peak_bytes, verdict.capacity_bytes
    return (
        f"the best needs {peak / 2**30:.1f} of {capacity / 2**30:.1f} GiB on its fullest stage, which leaves "
        f"{1 - peak / capacity:.0%} (plans with less than {MARGIN:.0%} are "
        + ("ranked too)" if result.request.allow_tight else "left out)")
    )


def certainty(result: PlanResult, column: str) -> list[str]:
    """How sure it is that the best is the best, and the best of another kind. column: that says it of each plan."""
    words = []
    if len(result.plans) > 1:
        words.append(f"{column}: probability that the best is better than this one; errors that both have cancel out")
    other, best = result.runner_up, result.plans[0]
    if other is not None:
        p = other.projection.configuration.parallel
        by = other.days / best.days
        gpus = [counted(p.world_size, "GPUs")] if len(result.gpu_counts) > 1 else []
        layout = ", ".join([*gpus, p.in_words, *(["fully sharded"] if p.fsdp else [])])
        words.append(
            f"the best of another kind ({layout}) takes {duration(other.projection.iteration_time_s)} a step, "
            f"{by - 1:+.1%} {'days' if result.request.tokens else 'time'}; the best is better with a probability of "
            f"{other.best_is_better:.0%}"
        )
    return words


def own_layout(result: PlanResult) -> list[str]:
    """Sentences on the job's own layout: its step beside the best plan's, its rank, and what to change."""
    own = result.own
    if own is None:
        return []
    projection, best = own.plan.projection, result.plans[0].projection
    parallel, train = projection.configuration.parallel, projection.configuration.train
    chunks = f"x{parallel.vpp}" if parallel.vpp > 1 else ""
    sizes = [f"tp {parallel.tp}", f"pp {parallel.pp}{chunks}", f"dp {parallel.dp}"]
    sizes += [f"{name} {size}" for name, size in (("cp", parallel.cp), ("ep", parallel.ep)) if size > 1]
    layout = f"{own.name}'s own layout ({', '.join(sizes)}; micro batch {train.micro_batch_size})"
    low, high = duration(projection.iteration_time_low_s), duration(projection.iteration_time_high_s)
    takes = f"takes {duration(projection.iteration_time_s)} a step (band {low} to {high})"
    beside = f"the best plan {duration(best.iteration_time_s)}"
    if own.rank is None:
        return [f"{layout} {takes}, {beside}; not ranked: {own.verdict}", *_changes(own)]
    sure = f"; the best is better with a probability of {own.plan.best_is_better:.0%}" if own.rank > 1 else ""
    others = f"of {counted(result.candidates, 'candidates')}"
    place = f"at least {own.rank - 1:,} {others} are better" if own.at_least else f"it is number {own.rank:,} {others}"
    return [f"{layout} {takes}, {beside}: {place}{sure}", *_changes(own)]


def _changes(own: OwnLayout) -> list[str]:
    """What of Megatron's flags to change for the best plan."""
    if own.rank == 1 or not own.changes:
        return []
    words = [_change(flag, *values) for flag, values in own.changes.items()]
    return [f"for the best plan change: {', '.join(words)}"]


def _change(flag: str, here: str | None, there: str | None) -> str:
    if there is None:
        return f"leave out {flag}"
    setting = f"{flag} {there}".strip()
    return f"add {setting}" if here is None else f"{setting} (now {here})"
