"""The nearest change that makes a configuration fit into memory."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.simulate.batch import Evaluator
from vtrain_sim.specs import Configuration

Change = Callable[[Configuration], Configuration]


def nearest_fit(configuration: Configuration, evaluator: Evaluator) -> str:
    """The change, of those that keep the GPUs and the global batch, that costs least time and fits.

    In words, with all flags that make it; one that fits tightly (`MemoryVerdict`) where no other does; a sentence that
    none does where none does.
    """
    tried = (_attempt(configuration, change) for change in _changes(configuration))
    allowed = [c for c in tried if c is not None]
    if allowed:
        result = evaluator.evaluate(allowed)
        for which, how in ((result.fits, "would fit"), (result.tight, "would fit tightly")):
            fitting = [i for i in range(len(allowed)) if which[i]]
            if fitting:
                best = min(fitting, key=lambda i: result.iteration_time_s[i])
                return f"{_words(configuration, allowed[best])} {how} ({result.peak_bytes[best] / 2**30:.1f} GiB)"
    return "no single change of micro batch, recomputation, sharding or layout on these GPUs fits"


def _attempt(configuration: Configuration, change: Change) -> Configuration | None:
    try:
        return change(configuration)
    except UserError:
        return None  # Megatron refuses this one


def _words(before: Configuration, after: Configuration) -> str:
    """The flags that turn one configuration into another: those whose value is another one."""
    had = _settings(before)
    words = shlex.join(word for setting in _settings(after) if setting not in had for word in setting)
    if after.train.expandable_segments and not before.train.expandable_segments:
        segments = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
        return f"{words} ({segments})" if words else segments
    return words


def _settings(c: Configuration) -> list[list[str]]:
    """Each flag of a configuration with its values."""
    settings: list[list[str]] = []
    for word in emit_flags(c):
        if word.startswith("--"):
            settings.append([])
        settings[-1].append(word)
    return settings


def _changes(c: Configuration) -> list[Change]:
    p, t = c.parallel, c.train
    changes: list[Change] = []
    if not p.distributed_optimizer and not p.fsdp:
        changes.append(lambda x: _with(x, distributed_optimizer=True))
    if not t.expandable_segments:
        changes.append(lambda x: replace(x, train=replace(x.train, expandable_segments=True)))
    more = {"none": ("selective", "full"), "selective": ("full",)}.get(t.recompute_granularity, ())
    changes += [_recompute(granularity) for granularity in more]
    if p.tp > 1 and not p.sequence_parallel:
        changes.append(lambda x: _with(x, sequence_parallel=True))
    changes += [_micro_batch(mbs) for mbs in (1, 2, 4, 8, 16, 32) if mbs < t.micro_batch_size]
    if p.layers:
        return changes
    return changes + [_layout(p.tp * a, p.pp * b) for a in (1, 2, 4, 8) for b in (1, 2, 4, 8, 16) if a * b > 1]


def _with(c: Configuration, **changes: object) -> Configuration:
    return replace(c, parallel=replace(c.parallel, **changes))  # type: ignore[arg-type]


def _recompute(granularity: str) -> Change:
    return lambda c: replace(c, train=replace(c.train, recompute_granularity=granularity))


def _micro_batch(mbs: int) -> Change:
    return lambda c: replace(c, train=replace(c.train, micro_batch_size=mbs))


def _layout(tp: int, pp: int) -> Change:
    """Another layout on the same ranks, with full recomputation."""

    def change(c: Configuration) -> Configuration:
        p = c.parallel
        factor = tp * pp // (p.tp * p.pp)
        if p.dp % factor:
            raise UserError("more ranks than there are")
        parallel = replace(p, tp=tp, pp=pp, dp=p.dp // factor, sequence_parallel=tp > 1)
        return replace(c, parallel=parallel, train=replace(c.train, recompute_granularity="full"))

    return change
