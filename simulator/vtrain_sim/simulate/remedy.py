"""The nearest change that makes a configuration fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vtrain_sim.errors import UserError
from vtrain_sim.simulate.batch import Evaluator
from vtrain_sim.specs import Configuration

Change = tuple[str, Callable[[Configuration], Configuration]]


def nearest_fit(configuration: Configuration, evaluator: Evaluator) -> str:
    """The change, of those that keep the GPUs and the global batch, that costs least time and fits.

    In words, with the flag that makes it; a sentence that none does where none does.
    """
    tried = [(words, _attempt(configuration, change)) for words, change in _changes(configuration)]
    allowed = [(words, c) for words, c in tried if c is not None]
    if allowed:
        result = evaluator.evaluate([c for _, c in allowed])
        fitting = [i for i in range(len(allowed)) if result.fits[i]]
        if fitting:
            best = min(fitting, key=lambda i: result.iteration_time_s[i])
            return f"{allowed[best][0]} would fit ({result.peak_bytes[best] / 2**30:.1f} GiB)"
    return "no single change of micro batch, recomputation, sharding or layout on these GPUs fits"


def _attempt(configuration: Configuration, change: Callable[[Configuration], Configuration]) -> Configuration | None:
    try:
        return change(configuration)
    except UserError:
        return None  # Megatron refuses this one


def _changes(c: Configuration) -> list[Change]:
    p, t = c.parallel, c.train
    changes: list[Change] = []
    if not p.distributed_optimizer and not p.fsdp:
        changes.append(("--use-distributed-optimizer", lambda x: _with(x, distributed_optimizer=True)))
    if not t.expandable_segments:
        words = "--expandable-segments (PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True)"
        changes.append((words, lambda x: replace(x, train=replace(x.train, expandable_segments=True))))
    more = {"none": ("selective", "full"), "selective": ("full",)}.get(t.recompute_granularity, ())
    changes += [(f"--recompute-granularity {granularity}", _recompute(granularity)) for granularity in more]
    if p.tp > 1 and not p.sequence_parallel:
        changes.append(("--sequence-parallel", lambda x: _with(x, sequence_parallel=True)))
    smaller = (b for b in (1, 2, 4, 8, 16, 32) if b < t.micro_batch_size)
    changes += [(f"--micro-batch-size {mbs}", _micro_batch(mbs)) for mbs in smaller]
    if p.layers:
        return changes
    words = "--tensor-model-parallel-size {} --pipeline-model-parallel-size {} (and full recomputation)"
    layouts = [(p.tp * a, p.pp * b) for a in (1, 2, 4, 8) for b in (1, 2, 4, 8, 16) if a * b > 1]
    return changes + [(words.format(tp, pp), _layout(tp, pp)) for tp, pp in layouts]


def _with(c: Configuration, **changes: object) -> Configuration:
    return replace(c, parallel=replace(c.parallel, **changes))  # type: ignore[arg-type]


def _recompute(granularity: str) -> Callable[[Configuration], Configuration]:
    return lambda c: replace(c, train=replace(c.train, recompute_granularity=granularity))


def _micro_batch(mbs: int) -> Callable[[Configuration], Configuration]:
    return lambda c: replace(c, train=replace(c.train, micro_batch_size=mbs))


def _layout(tp: int, pp: int) -> Callable[[Configuration], Configuration]:
    def change(c: Configuration) -> Configuration:
        p = c.parallel
        factor = tp * pp // (p.tp * p.pp)
        if p.dp % factor:
            raise UserError("more ranks than there are")
        parallel = replace(p, tp=tp, pp=pp, dp=p.dp // factor, sequence_parallel=tp > 1)
        return replace(c, parallel=parallel, train=replace(c.train, recompute_granularity="full"))

    return change
