"""Times and memory of many configurations at once, as arrays.

What configurations share is estimated once: the parts of a layer by tensor, context and expert
parallel size, micro batch and kernels; what a stage does once a step by its parameters; the layers
of a pipeline by its shape. The rest is arithmetic on arrays with one entry a stage or chunk.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.model import Parts, chunk_contents, once_a_step
from vtrain_sim.replay import SCHEDULES, Pipelines, ends
from vtrain_sim.simulate.estimates import EstimatedOnce, EstimatedProgram, Estimator, exposed
from vtrain_sim.simulate.memory import (
    FRAGMENTATION,
    HOST_RUNTIME_BYTES,
    RUNTIME_BYTES,
    TERMS,
    activation_bytes,
    in_flight,
    parameter_terms,
)
from vtrain_sim.specs import ClusterSpec, Configuration

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Kinds of layers: (mixture of experts, recomputed).
LAYER_KINDS = ((False, False), (False, True), (True, False), (True, True))


@dataclass(frozen=True)
class EstimatedParts:
    """Estimated programs of one kind of layout; None for a kind of layer that the model has not."""

    microbatch: EstimatedProgram
    embedding: EstimatedProgram
    head: EstimatedProgram
    layers: tuple[EstimatedProgram | None, ...]
    transfer_s: float
    # Parameters on one rank: embedding, head, and each kind of layer: shared ones and experts'.
    parameters: tuple[tuple[int, int], ...]
    activations: tuple[int, int, int, int, int]

    @cached_property
    def row(self) -> tuple[float, ...]:
        """Seconds of microbatch, embedding, head and layers: forward, backward, weight; then FLOPs."""
        programs = (self.microbatch, self.embedding, self.head, *self.layers)
        columns: list[float] = []
        for direction in ("forward", "backward", "weight"):
            columns += [getattr(p, direction).seconds if p else 0.0 for p in programs]
        columns += [p.forward.flops if p else 0.0 for p in programs]
        columns += [p.backward.flops + p.weight.flops if p else 0.0 for p in programs]
        return (*columns, self.transfer_s, *self.activations)


_FIRST_ZERO_BUBBLE = SCHEDULES.index("zb-h1")
_PROGRAMS = 3 + len(LAYER_KINDS)


@dataclass(frozen=True)
class Layout:
    """Layers of a pipeline. counts: [kinds, chunks of all stages] layers; classes: [stages] which of the
    distinct stages each is; distinct: for each, layers by kind, is it first, is it last."""

    counts: Integers
    classes: Integers
    distinct: tuple[tuple[tuple[int, ...], bool, bool], ...]


@dataclass(frozen=True)
class Evaluation:
    """[count] arrays, and one with an entry a stage (all stages of the first, then the second, ...).

    critical_stage: [count] the stage that works longest. Times in seconds, sizes in bytes.
    """

    iteration_time_s: Floats
    critical_stage: Integers
    peak_bytes: Floats
    fits: NDArray[np.bool_]
    model_flops: Floats
    hardware_flops: Floats
    stage_memory: Floats  # [terms, stages]


class Evaluator:
    """Evaluates configurations on one cluster."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator
        self._parts: dict[Hashable, tuple[int, EstimatedParts]] = {}
        self._layouts: dict[Hashable, Layout] = {}
        self._once: dict[Hashable, tuple[int, EstimatedOnce]] = {}
        self._rows: list[tuple[float, ...]] = []
        self._once_rows: list[tuple[float, ...]] = []

    # -- what configurations share ---------------------------------------------------------

    def parts(self, configuration: Configuration) -> EstimatedParts:
        """Estimated programs of the configuration's layers."""
        return self._parts_of(configuration)[1]

    def _parts_of(self, c: Configuration) -> tuple[int, EstimatedParts]:
        p, t = c.parallel, c.train
        stage_ranks = p.tp * p.cp * p.dp
        # Placement of the pipeline depends on whether a stage fills a node; of the rest on tp and cp.
        key = (
            c.model,
            p.tp,
            p.cp,
            p.ep,
            p.etp,
            p.sequence_parallel,
            p.tp_comm_overlap,
            p.async_tp_allreduce,
            p.scatter_gather,
            p.batch_p2p,
            p.dp if p.fsdp else 0,
            p.pp > 1,
            min(stage_ranks, self.estimator.cluster.gpus_per_node),
            p.world_size > self.estimator.cluster.gpus_per_node,
            t.micro_batch_size,
            t.params_dtype,
            t.main_grads_dtype,
            t.attention_kernel,
            t.recompute_granularity,
            t.recompute_method == "block",
            t.fp8,
            c.zero_bubble,
            t.gradient_accumulation_fusion,
        )
        found = self._parts.get(key)
        if found is None:
            estimated = self._estimate_parts(c)
            found = self._parts[key] = (len(self._rows), estimated)
            self._rows.append(estimated.row)
        return found

    def _estimate_parts(self, c: Configuration) -> EstimatedParts:
        parts = Parts(c)
        recompute = c.train.recompute_granularity == "full"
        block = c.train.recompute_method == "block"
        needed = [
            moe in c.model.moe_layers and (recomputed == recompute or (recompute and block))
            for moe, recomputed in LAYER_KINDS
        ]
        programs = [parts.layer(*kind) if need else None for kind, need in zip(LAYER_KINDS, needed, strict=True)]
        held = activation_bytes(c)
        return EstimatedParts(
            self.estimator.program(c, parts.microbatch),
            self.estimator.program(c, parts.embedding),
            self.estimator.program(c, parts.head),
            tuple(self.estimator.program(c, p) if p else None for p in programs),
            self.estimator.transfer_s(c, parts.boundary_bytes),
            (
                (parts.embedding.parameters, 0),
                (parts.head.parameters, 0),
                *((p.parameters, p.expert_parameters) if p else (0, 0) for p in programs),
            ),
            (held.dense, held.moe, held.checkpoint, held.working, held.logits),
        )

    def layout(self, c: Configuration) -> Layout:
        """Layers of the configuration's pipeline."""
        p, t = c.parallel, c.train
        block = t.recompute_num_layers if t.recompute_method == "block" else 0
        key = (c.model, p.pp, p.vpp, p.layers, t.recompute_granularity == "full" and (block or True))
        found = self._layouts.get(key)
        if found is None:
            slots = p.pp * p.vpp
            counts = np.zeros((len(LAYER_KINDS), slots), dtype=np.int64)
            for slot in range(slots):
                for kind, count in chunk_contents(c, slot).items():
                    counts[LAYER_KINDS.index(kind), slot] = count
            stages = counts.reshape(len(LAYER_KINDS), p.vpp, p.pp).sum(axis=1)
            described = [(tuple(stages[:, s].tolist()), s == 0, s == p.pp - 1) for s in range(p.pp)]
            distinct = tuple(dict.fromkeys(described))
            classes = np.array([distinct.index(d) for d in described], dtype=np.int64)
            found = self._layouts[key] = Layout(counts, classes, distinct)
        return found

    def once(self, c: Configuration, stage: int) -> EstimatedOnce:
        """What a stage does once a step."""
        layout = self.layout(c)
        return self._once_of(c, self.parts(c), layout.distinct[layout.classes[stage]])[1]

    def _once_of(
        self, c: Configuration, parts: EstimatedParts, kind: tuple[tuple[int, ...], bool, bool]
    ) -> tuple[int, EstimatedOnce]:
        p, t = c.parallel, c.train
        key = (
            c.model,
            p.tp,
            p.cp,
            p.dp,
            p.ep,
            p.etp,
            p.pp,
            kind,
            p.distributed_optimizer,
            p.fsdp,
            p.sequence_parallel,
            p.overlap_grad_reduce,
            p.overlap_param_gather,
            t.params_dtype,
            t.main_grads_dtype,
            t.fp8,
        )
        found = self._once.get(key)
        if found is None:
            layers, first, last = kind
            dense = sum(n * parts.parameters[2 + k][0] for k, n in enumerate(layers))
            expert = sum(n * parts.parameters[2 + k][1] for k, n in enumerate(layers))
            dense += first * parts.parameters[0][0] + last * parts.parameters[1][0]
            estimated = self.estimator.once(c, once_a_step(c, dense, expert, first or last, sum(layers)))
            largest = max((sum(q) for q in parts.parameters[2:]), default=0)
            terms = parameter_terms(c, dense, expert, largest)
            row = (
                estimated.before.seconds,
                estimated.sync.seconds,
                estimated.sync_hideable_s,
                estimated.update.seconds,
                estimated.update_hideable_s,
                *terms,
            )
            found = self._once[key] = (len(self._once_rows), estimated)
            self._once_rows.append(tuple(float(v) for v in row))
        return found

    # -- arrays ----------------------------------------------------------------------------

    def evaluate(self, configurations: Sequence[Configuration]) -> Evaluation:
        """Evaluate configurations; raises `UserError` where a cost is not known."""
        held = [self._parts_of(c) for c in configurations]
        layouts = [self.layout(c) for c in configurations]
        once_index = np.concatenate(
            [
                np.array([self._once_of(c, parts, kind)[0] for kind in layout.distinct])[layout.classes]
                for c, (_, parts), layout in zip(configurations, held, layouts, strict=True)
            ]
        )
        rows = np.array(self._rows)[[index for index, _ in held]]
        once = np.array(self._once_rows)[once_index].T
        pp = np.array([c.parallel.pp for c in configurations])
        vpp = np.array([c.parallel.vpp for c in configurations])
        microbatches = np.array([c.num_microbatches for c in configurations])
        schedule = np.array([SCHEDULES.index(c.schedule) for c in configurations])
        first_stage = np.concatenate([[0], np.cumsum(pp)[:-1]])
        of_stage = np.repeat(np.arange(len(pp)), pp)
        stage = np.arange(len(of_stage)) - first_stage[of_stage]
        slots = pp * vpp
        of_slot = np.repeat(np.arange(len(pp)), slots)
        slot = np.arange(len(of_slot)) - (np.cumsum(slots) - slots)[of_slot]
        counts = np.concatenate([layout.counts for layout in layouts], axis=1)
        weights = np.concatenate(
            [np.ones((1, len(slot))), (slot == 0)[None], (slot == slots[of_slot] - 1)[None], counts]
        )  # [programs, slots]: microbatch, embedding, head, layers

        def seconds(block: int) -> Floats:
            columns = rows[:, block * _PROGRAMS : (block + 1) * _PROGRAMS][of_slot]
            found: Floats = np.einsum("ps,sp->s", weights, columns)
            return found

        forward, backward, weight = seconds(0), seconds(1), seconds(2)
        transfer = rows[:, 5 * _PROGRAMS]
        overlapped = np.array([c.parallel.overlap_p2p for c in configurations]) | (schedule != 2)
        end = ends(Pipelines(schedule, pp, vpp, microbatches, forward, backward, weight, transfer, overlapped))
        stage_of_slot = first_stage[of_slot] + slot % pp[of_slot]
        last_backward = np.bincount(stage_of_slot, backward + weight, len(of_stage))
        next_forward: Floats = np.bincount(stage_of_slot, forward, len(of_stage)).astype(np.float64)
        cluster = self.estimator.cluster
        before, sync, sync_hideable, update, update_hideable = once[:5]
        sync = sync + exposed(sync_hideable, last_backward, cluster)
        update = update + exposed(update_hideable, next_forward, cluster)
        # Zero-bubble schedules validate the optimizer step afterwards: a stage need not wait for the others to
        # begin the next one, so that the way down to it is no part of its step (Qi et al., section 4).
        reached = _arrival(next_forward, transfer, first_stage, of_stage)
        free = np.where(schedule[of_stage] >= _FIRST_ZERO_BUBBLE, end - reached, end)
        ready = before + free + sync
        last = np.maximum.reduceat(ready, first_stage)
        # The stage that works longest sets the pace.
        busy = before + (last_backward + next_forward) * microbatches[of_stage] + sync
        world = np.array([c.parallel.world_size for c in configurations])
        iteration = (last + np.maximum.reduceat(update, first_stage)) * slowest_of(world, cluster)
        memory = self._memory(rows, counts, once[5:], schedule, pp, vpp, microbatches, of_stage, stage, stage_of_slot)
        totals = memory.sum(axis=0)
        peak = np.maximum.reduceat(totals, first_stage)
        ranks = np.array([c.parallel.tp * c.parallel.cp * c.parallel.dp for c in configurations]) * microbatches
        model_flops = np.bincount(of_slot, seconds(3), len(pp)) * ranks
        backward_flops = np.bincount(of_slot, seconds(4), len(pp)) * ranks
        return Evaluation(
            iteration,
            _first_at(busy, np.maximum.reduceat(busy, first_stage), first_stage, of_stage),
            peak,
            peak <= cluster.device.memory_bytes,
            3 * model_flops,
            model_flops + backward_flops,
            memory,
        )

    def _memory(
        self,
        rows: Floats,
        counts: Integers,
        once: Floats,
        schedule: Integers,
        pp: Integers,
        vpp: Integers,
        microbatches: Integers,
        of_stage: Integers,
        stage: Integers,
        stage_of_slot: Integers,
    ) -> Floats:
        """[terms, stages] bytes."""
        dense, moe, checkpoint, working, logits = rows[of_stage, -5:].T
        by_stage = [np.bincount(stage_of_slot, c, len(of_stage)) for c in counts]
        kept = by_stage[0] * dense + by_stage[2] * moe + (by_stage[1] + by_stage[3]) * checkpoint
        flying = in_flight(schedule[of_stage], stage, pp[of_stage], vpp[of_stage], microbatches[of_stage])
        activations = kept * flying
        runtime = RUNTIME_BYTES if self.estimator.cluster.backend == "nccl" else HOST_RUNTIME_BYTES
        last = stage == pp[of_stage] - 1
        terms = (
            once[0],
            once[1],
            once[2],
            activations,
            working + once[3],
            np.where(last, logits, 0.0),
            runtime + FRAGMENTATION * activations,
        )
        assert len(terms) == len(TERMS)
        return np.stack(terms)


def slowest_of(gpus: Integers, cluster: ClusterSpec) -> Floats:
    """[count] how much longer a step takes because all wait for the slowest node.

    The largest of n normal deviations is about sigma sqrt(2 ln n).
    """
    nodes = np.maximum(1.0, gpus / cluster.gpus_per_node)
    found: Floats = 1.0 + cluster.straggler_sigma * np.sqrt(2.0 * np.log(nodes))
    return found


def _arrival(forward: Floats, transfer: Floats, first_stage: Integers, of_stage: Integers) -> Floats:
    """[stages] when the first microbatch reaches each stage."""
    step = forward + transfer[of_stage]
    passed = np.cumsum(step) - step
    found: Floats = passed - passed[first_stage][of_stage]
    return found


def _first_at(values: Floats, extreme: Floats, first_stage: Integers, of_stage: Integers) -> Integers:
    """[count] the first stage whose value is its configuration's extreme."""
    hits = np.flatnonzero(values >= extreme[of_stage])
    owners, where = np.unique(of_stage[hits], return_index=True)
    found: Integers = hits[where] - first_stage[owners]
    return found
