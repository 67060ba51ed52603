"""Every candidate of a space with the least that it takes: as arrays, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.evaluated import Figures, Floats
from vtrain_sim.decide.objective import Objective
from vtrain_sim.decide.search.choices import AS_IT_IS, Setting
from vtrain_sim.decide.search.incumbents import layout_kind
from vtrain_sim.decide.search.lower_bounds import PartTable, PipelineRows, Sharing
from vtrain_sim.decide.search.options import Lanes, PipelineOption
from vtrain_sim.decide.search.space import Space
from vtrain_sim.errors import UserError
from vtrain_sim.model.chunks import PartName, part_names
from vtrain_sim.model.flops import model_flops
from vtrain_sim.simulate import memory
from vtrain_sim.simulate.batch import slowest_of
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.simulate.result import peak_of
from vtrain_sim.specs import Configuration, TrainSpec

Integers = NDArray[np.int64]
_MOST_TP = 1 << 12


class Block(NamedTuple):
    """Layers on pipelines of one size whose places hold the same. pipelines: numbers of those that they may run in."""

    pp: int
    lanes: Lanes
    pipelines: tuple[int, ...]


class Candidates(NamedTuple):
    """[candidates] numbers of layer, pipeline and sharing, GPUs, data parallel size, batch, and the seconds of a step
    that each takes at least."""

    option: Integers
    pipeline: Integers
    sharing: Integers
    gpus: Integers
    dp: Integers
    batch: Integers
    seconds: Floats

    def pick(self, which: NDArray[np.bool_] | Integers) -> Candidates:
        """Some of them."""
        return self._made([column[which] for column in self])

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """Those of several blocks."""
        none = np.zeros(0, dtype=np.int64)
        whole = cls(none, none, none, none, none, none, np.zeros(0))
        return cls._made([np.concatenate(columns) for columns in zip(whole, *parts, strict=True)])

    @classmethod
    def _made(cls, columns: Sequence[Integers | Floats]) -> Candidates:
        return cls._make(columns)


class Bounder:
    """The blocks of a space, and the bounds of their candidates. counts: numbers of GPUs whose layers run alike.
    costs: what items of their programs take."""

    def __init__(
        self, space: Space, counts: Sequence[int], projector: Projector, objective: Objective, allow_tight: bool
    ) -> None:
        self.space, self.cluster, self.objective, self._allow_tight = space, projector.cluster, objective, allow_tight
        self.costs = projector.evaluator.costs_of(projector.evaluator.is_alone(counts[0]))
        self.pipelines: list[PipelineOption] = []
        self.sharings: list[Setting] = []
        self.blocks = list(self._blocks(counts))
        self.table = PartTable(self._parts())
        self._rows: dict[int, PipelineRows] = {}
        self._of_setting: dict[tuple[int, Setting], tuple[float, float, float]] = {}
        self._flops: dict[tuple[int, int], float] = {}
        # Of each option its parent, or itself.
        numbers = {option: number for number, option in enumerate(space.options)}
        self.parents = np.array([numbers[option.parent or option] for option in space.options], dtype=np.int64)

    def _blocks(self, counts: Sequence[int]) -> Iterator[Block]:
        for pp in self.space.stages():
            lanes = self.space.lanes(pp, counts)
            by_key: dict[object, list[int]] = {}
            for option in np.unique(lanes.option).tolist():
                by_key.setdefault(self.space.layers_key(self.space.options[option]), []).append(option)
            for options in by_key.values():
                first = len(self.pipelines)
                self.pipelines += self.space.pipelines(pp, self.space.options[options[0]])
                numbers = tuple(range(first, len(self.pipelines)))
                yield Block(pp, lanes.pick(np.isin(lanes.option, options)), numbers)

    def _parts(self) -> list[PartName]:
        chunks = {chunk for pipeline in self.pipelines for chunk in pipeline.contents.chunks}
        return list(dict.fromkeys(part for chunk in chunks for part, _ in part_names(chunk)))

    def candidates(self, block: Block, again: bool) -> Iterator[tuple[int, Lanes, Integers]]:
        """(pipeline, lanes, sharings) of each pipeline of a block: all of their combinations are candidates.

        again: those whose layers run modules again, else those that do not.
        """
        lanes = block.lanes.pick((self.parents[block.lanes.option] != block.lanes.option) == again)
        replicated = lanes.dp * self.space.sizes[lanes.option, 1] > 1
        for several in (False, True):
            alike = lanes.pick(replicated == several)
            sharings = np.array([self._number(s) for s in self.space.sharings(block.pp, several)], dtype=np.int64)
            likes = self.space.sizes[alike.option, 5]
            counts, of_lane = np.unique(alike.microbatches, return_inverse=True)
            for number in block.pipelines if len(alike.option) else ():
                pipeline = self.pipelines[number]
                agree = [self.space.goes_with(pipeline, option) for option in self.space.likes]
                takes = [pipeline.takes(count) for count in counts.tolist()]
                both = np.array(agree, dtype=bool)[likes] & np.array(takes, dtype=bool)[of_lane]
                if both.any():
                    yield number, alike.pick(both), sharings

    def _number(self, sharing: Setting) -> int:
        if sharing not in self.sharings:
            self.sharings.append(sharing)
        return self.sharings.index(sharing)

    def bounded(
        self, number: int, lanes: Lanes, sharings: Integers, relaxed: bool
    ) -> Iterator[tuple[Candidates, Floats]]:
        """Candidates with their bounds, seconds and bytes, [candidates]; without those whose layers are not timed.

        relaxed: by the layers without modules that run again, and without activations.
        """
        keys = self.parents[lanes.option] if relaxed else lanes.option
        timed = self.table.knows(keys)
        lanes, keys = lanes.pick(timed), keys[timed]
        if not len(keys):
            return
        if number not in self._rows:
            self._rows[number] = PipelineRows(self.pipelines[number], self.table)
        rows, columns = self._rows[number], self.table.columns(keys)
        seconds = rows.seconds(self.table, columns, lanes.microbatches) * slowest_of(lanes.gpus, self.cluster)
        waste = 0.0 if self._allow_tight else memory.fragmentation(self.space.base)
        passes = 0.0 if relaxed else rows.passes_bytes(self.table, columns, lanes.microbatches, waste)
        for sharing in sharings.tolist():
            nbytes = rows.bytes(self.table, columns, self._sharing(lanes, self.sharings[sharing]), passes)
            same = np.full(len(keys), number), np.full(len(keys), sharing)
            yield Candidates(lanes.option, *same, lanes.gpus, lanes.dp, lanes.batch, seconds), nbytes

    def fits(self, nbytes: Floats) -> NDArray[np.bool_]:
        """[candidates] which may fit, of those that need so much at least."""
        margin = 0.0 if self._allow_tight else memory.MARGIN
        fits: NDArray[np.bool_] = nbytes * (1 + margin) <= self.cluster.device.memory_bytes
        return fits

    def _sharing(self, lanes: Lanes, setting: Setting) -> Sharing:
        each = self._facts(lanes.option, setting)
        tp, cp, ep, _, etp, _ = self.space.sizes[lanes.option].T
        dp = lanes.dp * cp
        sharded = self._has(setting, "distributed_optimizer") or self._has(setting, "fsdp")
        runtime = memory.runtime_bytes(self.cluster)
        return Sharing(each[:, 0], each[:, 1], sharded, dp, dp * tp // (ep * etp), runtime)

    def _has(self, sharing: Setting, field: str) -> bool:
        """Whether replicas share the optimizer so: by the setting, or because a flag fixes it."""
        return bool(sharing.values.get(field, self.space.fixed.get(field)))

    def _facts(self, options: Integers, sharing: Setting) -> Floats:
        """[options, 3] bytes of a parameter held and owned, and peak FLOP/s of a device."""
        facts = np.array([self._facts_of(like, sharing) for like in range(len(self.space.likes))])
        of_options: Floats = facts[self.space.sizes[options, 5]]
        return of_options

    def _facts_of(self, like: int, sharing: Setting) -> tuple[float, float, float]:
        layer = self.space.likes[like]
        key = (like, sharing)
        known = self._of_setting.get(key)
        if known is None:
            train = self.space.step(1, 1, layer.prototype.train.schedule, layer.setting.and_(sharing))
            fully = self._has(sharing, "fsdp")
            each = memory.least_per_parameter(train.precision, train.optimizer_types, train.main_grads_dtype, fully)
            known = self._of_setting[key] = (each.held, each.owned, self._peak(train))
        return known

    def _peak(self, train: TrainSpec) -> float:
        """FLOP/s of a device; not a number where it does not multiply so: such layers have no times either."""
        try:
            return peak_of(self.cluster, train)
        except UserError:
            return math.nan

    def least(self, candidates: Candidates) -> tuple[Figures, Integers]:
        """What candidates are ranked by at their bounds, and their kinds."""
        tp, cp, ep = self.space.sizes[candidates.option, :3].T
        pp = np.array([pipeline.pp for pipeline in self.pipelines], dtype=np.int64)[candidates.pipeline]
        fully = np.array([self._has(sharing, "fsdp") for sharing in self.sharings], dtype=np.int64)[candidates.sharing]
        pairs, which = np.unique(candidates.batch * _MOST_TP + tp, return_inverse=True)
        flops = np.array([self._model_flops(pair % _MOST_TP, pair // _MOST_TP) for pair in pairs.tolist()])[which]
        peaks = self._facts(candidates.option, AS_IT_IS)[:, 2]
        tokens = candidates.batch.astype(np.float64) * self.space.model.seq_length
        gpus = candidates.gpus.astype(np.float64)
        seconds = candidates.seconds
        figures = self.objective.figures(gpus, tokens, flops, peaks, seconds, np.zeros(len(seconds)))
        return figures, layout_kind(tp, cp, ep, pp, fully)

    def _model_flops(self, tp: int, batch: int) -> float:
        flops = self._flops.get((tp, batch))
        if flops is None:
            flops = self._flops[tp, batch] = model_flops(self.space.model, batch, tp)
        return flops

    def configuration(self, candidates: Candidates, row: int) -> Configuration | None:
        """One of the candidates; None where Megatron refuses it."""
        return self.space.configuration(
            self.space.options[int(candidates.option[row])],
            self.pipelines[int(candidates.pipeline[row])],
            self.sharings[int(candidates.sharing[row])],
            int(candidates.dp[row]),
            int(candidates.batch[row]),
        )
