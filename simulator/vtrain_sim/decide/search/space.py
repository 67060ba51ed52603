"""The space that a search covers: every layout that Megatron runs, within bounds.

A candidate is put together from parts that are chosen once for many: how a microbatch runs through a layer
(`LayerOption`: tensor, context and expert parallel size, micro batch, settings), how layers are cut into a pipeline and
in what order its passes run (`PipelineOption`), how replicas share the optimizer, the number of GPUs, and the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from vtrain_sim import schedules
from vtrain_sim.decide.search.assembly import Assembly
from vtrain_sim.decide.search.bounds import Bounds
from vtrain_sim.decide.search.choices import (
    AS_IT_IS,
    RECOMPUTE_MODULES,
    LayerSizes,
    Setting,
    Situation,
    chosen,
    needed_sharing,
    settings_of,
)
from vtrain_sim.decide.search.cuts import Layers, cuts, divisors, stage_counts
from vtrain_sim.decide.search.options import Integers, Lanes, LayerOption, PipelineOption, takes
from vtrain_sim.errors import UserError
from vtrain_sim.frozen import computed
from vtrain_sim.model.chunks import contents_of
from vtrain_sim.schedules import PipelineShape
from vtrain_sim.specs import Configuration, ModelSpec, TrainSpec
from vtrain_sim.specs.pipeline import PipelineSpec
from vtrain_sim.specs.train import AUTO

# Bundles of groups beyond which a layer cannot tell worlds apart (`specs.groups`).
_BUNDLES = 16


@dataclass(frozen=True)
class Part:
    """One of several parts of a space: layers are dealt out to them by their sizes."""

    index: int
    parts: int

    def has(self, number: int) -> bool:
        """Whether the sizes of this number belong to it."""
        return number % self.parts == self.index


WHOLE = Part(0, 1)


class Space:
    """The candidates of a search: of a model, numbers of GPUs and of sequences, within bounds.

    base: what the training step has besides what is searched. Sequence parallelism goes with tensor parallelism (it
    costs the same and saves memory) unless fixed. part: of the layers, those that are in it.
    """

    def __init__(
        self,
        model: ModelSpec,
        counts: Sequence[int],
        batches: Sequence[int],
        bounds: Bounds,
        base: TrainSpec,
        part: Part = WHOLE,
    ) -> None:
        self.model, self.batches, self.bounds, self.base = model, batches, bounds, base
        self.part = part
        self.fixed: dict[str, Any] = dict(bounds.fixed)
        self._assembly = Assembly(model, base, self.fixed)
        # How the optimizer is shared where replicas do not matter: in no way, if the step allows it.
        self._needed = needed_sharing(base, self.fixed)
        self.counts = self._filled(counts)
        self._choices = tuple(choice for choice in chosen(bounds.choices) if self._is_allowed(choice.name))
        self.options: list[LayerOption] = []
        # Options of one setting and split are alike in what they go with: numbers of these.
        self.likes: list[LayerOption] = []
        self._like_of: dict[tuple[Setting, bool], int] = {}
        self._options_of: dict[tuple[int, ...], list[int]] = {}
        self._valid: dict[object, bool] = {}
        self._sizes: Integers = np.zeros((0, 6), dtype=np.int64)
        self._settings: dict[LayerSizes, list[tuple[Setting, Setting | None]]] = {}

    def _is_allowed(self, name: str) -> bool:
        allowed = self.bounds.recompute
        if name == RECOMPUTE_MODULES:
            return "selective" in allowed
        return name != "recompute-layers" or "full" in allowed or "none" not in allowed

    # Layers.

    def options_on(self, gpus: int) -> Integers:
        """Numbers (in `options`) of the layers that fill so many GPUs."""
        numbers: list[int] = []
        for tp, cp in product(self._tensor(), self._context()):
            if gpus % (tp * cp) == 0:
                for ep in self._experts():
                    numbers += self._options(tp, cp, ep, gpus)
        return np.array(numbers, dtype=np.int64)

    def _options(self, tp: int, cp: int, ep: int, gpus: int) -> list[int]:
        etps = {1, tp, int(self.fixed.get("expert_tp", 0)) or 1}
        spans = (tp, tp * cp, *sorted(etps), *(ep * etp for etp in sorted(etps)))
        alike = (tp, cp, ep, *(min(_BUNDLES, gpus // span) for span in spans), gpus == 1)
        numbers = self._options_of.get(alike)
        if numbers is None:
            first = len(self.options)
            for mbs in self.bounds.micro_batches:
                if not self.part.has(self._numbers[tp, cp, ep, mbs]):
                    continue
                self.options += self._of_sizes(LayerSizes(tp, cp, ep, mbs), gpus)
            numbers = self._options_of[alike] = list(range(first, len(self.options)))
        return numbers

    @computed
    def _numbers(self) -> dict[tuple[int, ...], int]:
        sizes = product(self._tensor(), self._context(), self._experts(), self.bounds.micro_batches)
        return {one: number for number, one in enumerate(sizes)}

    @property
    def layers_to_time(self) -> int:
        """About how many ways there are to run a layer, those that run modules again apart."""
        some = LayerSizes(self._tensor()[-1], 1, self._experts()[-1], 1)
        return len(self._numbers) * sum(without is None for _, without in self._layer_settings(some))

    def _of_sizes(self, sizes: LayerSizes, gpus: int) -> Iterator[LayerOption]:
        splitting = {schedules.get(name).splits_backward for name in self.bounds.schedules}
        for splits in sorted(splitting):
            made: dict[Setting, LayerOption] = {}
            for setting, without in self._layer_settings(sizes):
                known = self._like_of.get((setting, splits), len(self.likes))
                parent = made.get(without) if without else None
                option = LayerOption(self, sizes, setting, splits, gpus, parent, known)
                # The micro batch decides nothing of what Megatron refuses.
                key = (sizes[:3], setting, splits, gpus if self.model.num_experts else 0)
                if self._is_valid(key, option):
                    made[setting] = option
                    if known == len(self.likes):
                        self._like_of[setting, splits] = known
                        self.likes.append(option)
                    yield option

    def _layer_settings(self, sizes: LayerSizes) -> list[tuple[Setting, Setting | None]]:
        """Settings of a layer, each with the one that it is without modules that run again."""
        settings = self._settings.get(sizes)
        if settings is None:
            at = Situation(self.model, self.base, sizes)
            others = [choice for choice in self._choices if choice.name != RECOMPUTE_MODULES]
            modules = [choice for choice in self._choices if choice.name == RECOMPUTE_MODULES]
            again = settings_of(modules, "layer", at, self.fixed)
            plains = settings_of(others, "layer", at, self.fixed)
            settings = [(one.and_(more), None if more == AS_IT_IS else one) for one in plains for more in again]
            self._settings[sizes] = settings
        return settings

    def _is_valid(self, key: object, option: LayerOption) -> bool:
        valid = self._valid.get(key)
        if valid is None:
            try:
                valid = option.prototype is not None
            except UserError:
                valid = False
            self._valid[key] = valid
        return valid

    def prototype(self, option: LayerOption) -> Configuration:
        """A configuration with these layers on its number of GPUs. Raises `UserError`."""
        ranks = option.world // (option.sizes.tp * option.sizes.cp)
        if not option.splits and not self._needs_stages(option):
            return self._on_stages(option, 1, ranks, AUTO)
        stages = [pp for pp in divisors(ranks) if 1 < pp <= self.model.num_layers] or [1]
        # Experts may not divide over the ranks of a stage of all of them.
        experts = option.sizes.ep * self._expert_tp(option)
        pp = next((pp for pp in stages if ranks // pp * option.sizes.tp * option.sizes.cp % experts == 0), stages[0])
        splitting = [name for name in self.bounds.schedules if schedules.get(name).splits_backward]
        # The first may need several stages, or several chunks of each, where another one does not.
        running = (name for name in splitting if self._runs(name, pp))
        schedule = next(running, splitting[0]) if option.splits else "interleaved"
        return self._on_stages(option, pp, ranks // pp, schedule)

    def _runs(self, schedule: str, pp: int) -> bool:
        """Whether a schedule runs on so many stages of the model, as `_on_stages` cuts it."""
        order = schedules.get(schedule)
        chunks = (vpp for vpp, _ in cuts(self.model, pp) if order.takes_chunks(vpp))
        return any(takes(order, PipelineShape(pp, vpp, 8 * pp)) for vpp in chunks)

    def _on_stages(self, option: LayerOption, pp: int, dp: int, schedule: str) -> Configuration:
        order = schedules.get("1f1b" if schedule == AUTO else schedule)
        vpp, layers = next(((vpp, layers) for vpp, layers in cuts(self.model, pp) if order.takes_chunks(vpp)), (1, ()))
        batch = _enough(option.sizes, pp, dp)
        return self._assembly.make(
            option.sizes, pp, vpp, layers, schedule, dp, batch, self._needed.and_(option.setting)
        )

    def _needs_stages(self, option: LayerOption) -> bool:
        """Whether such layers take a pipeline: exchanges beside another microbatch with multi-token prediction."""
        overlaps = {**self.fixed, **dict(option.setting.parallel)}.get("overlap_moe_comm")
        return bool(overlaps and option.sizes.ep > 1 and self.model.mtp_num_layers)

    # Pipelines.

    def stages(self) -> list[int]:
        """Pipeline sizes."""
        return self._fixed("pp", [pp for pp in stage_counts(self.model) if pp <= self.bounds.max_pp])

    def pipelines(self, pp: int, layer: LayerOption) -> list[PipelineOption]:
        """The pipelines of so many stages for layers that run as these do."""
        pipelines: list[PipelineOption] = []
        for vpp, layers in cuts(self.model, pp, self.bounds.cut):
            if self.fixed.get("vpp", vpp) != vpp:
                continue
            for schedule in self.bounds.schedules:
                # On one stage too they differ: in what is in flight, and in whether backward passes are whole.
                if schedules.get(schedule).takes_chunks(vpp):
                    pipelines += self._again(pp, vpp, layers, schedule, layer)
        return pipelines

    def _again(self, pp: int, vpp: int, layers: Layers, schedule: str, layer: LayerOption) -> Iterator[PipelineOption]:
        most = max(layers) if layers else self.model.num_layers // (pp * vpp)
        at = Situation(self.model, self.base, most_layers=most)
        for setting in settings_of(self._choices, "pipeline", at, self.fixed):
            spec = self._pipeline(pp, vpp, layers, schedule, setting, layer)
            if spec is not None:
                yield PipelineOption(pp, vpp, layers, schedule, spec.schedule, setting, contents_of(spec))

    def _pipeline(
        self, pp: int, vpp: int, layers: Layers, schedule: str, setting: Setting, layer: LayerOption
    ) -> PipelineSpec | None:
        """The pipeline that layers like these are laid over; None where Megatron refuses it."""
        ranks = layer.prototype.parallel.dp * layer.prototype.parallel.pp
        batch = _enough(layer.sizes, pp, ranks)
        both = self._needed.and_(layer.setting).and_(setting)
        try:
            return self._assembly.make(layer.sizes, pp, vpp, layers, schedule, ranks, batch, both).pipeline
        except UserError:
            return None

    def goes_with(self, pipeline: PipelineOption, option: LayerOption) -> bool:
        """Whether layers run so in a pipeline."""
        if pipeline.order.splits_backward != option.splits:
            return False
        key = (option.setting, pipeline.setting, pipeline.schedule, pipeline.pp == 1)
        valid = self._valid.get(key)
        if valid is None:
            valid = self._valid[key] = self._agree(pipeline, option)
        return valid

    def _agree(self, pipeline: PipelineOption, option: LayerOption) -> bool:
        own, other = option.setting.values, pipeline.setting.values
        if any(name in own and own[name] != value for name, value in other.items()):
            return False
        granularity = {**own, **other}.get("recompute_granularity", self.base.recompute_granularity)
        if "recompute_granularity" not in self.fixed and granularity not in self.bounds.recompute:
            return False
        dp = option.prototype.parallel.dp * option.prototype.parallel.pp
        batch = _enough(option.sizes, pipeline.pp, dp)
        return self.configuration(option, pipeline, self._needed, dp, batch) is not None

    # Replicas.

    def sharings(self, pp: int, replicated: bool) -> list[Setting]:
        """How replicas share the optimizer on so many stages. replicated: there are several of them."""
        at = Situation(self.model, self.base, pp=pp, replicated=replicated)
        return settings_of(self._choices, "optimizer", at, self.fixed)

    def _filled(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Those of many numbers of GPUs that some layout of the model may fill, in their order.

        The others have no candidate: a data parallel size divides the batch, and the sizes within one copy of the model
        are few. Looking for some takes as long as where there are some.
        """
        most = max(counts, default=0)
        copies = {dp for batch in self.batches for dp in divisors(batch) if dp <= self.bounds.max_dp}
        ranks = {tp * cp * pp for tp, cp, pp in product(self._tensor(), self._context(), self.stages())}
        totals = {one * dp for one in ranks for dp in copies if one * dp <= most}
        return tuple(n for n in counts if n in totals)

    def lanes(self, pp: int, counts: Sequence[int] | None = None) -> Lanes:
        """Every option of a layer on every number of GPUs with every batch that so many stages leave."""
        parts = [self._lanes_on(gpus, pp) for gpus in counts or self.counts]
        if not parts:
            return Lanes(*(np.zeros(0, dtype=np.int64) for _ in Lanes._fields))
        return Lanes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    @property
    def sizes(self) -> Integers:
        """[options, 6] tp, cp, ep, micro batch, tensor parallel size of the experts, and what the option is like."""
        if len(self._sizes) != len(self.options):
            rows = [(*option.sizes, self._expert_tp(option), option.like) for option in self.options]
            self._sizes = np.array(rows, dtype=np.int64).reshape(-1, 6)
        return self._sizes

    def _lanes_on(self, gpus: int, pp: int) -> Lanes:
        numbers = self.options_on(gpus)
        tp, cp, ep, mbs, etp, _ = self.sizes[numbers].T
        dp, over = np.divmod(gpus, tp * cp * pp)
        fits = (over == 0) & (dp >= 1) & (dp <= self.bounds.max_dp)
        fits &= (dp * cp * tp) % (ep * etp) == 0
        if "dp" in self.fixed:
            fits &= dp == self.fixed["dp"]
        parts = []
        for batch in self.batches:
            microbatches, rest = np.divmod(batch, np.maximum(1, mbs * dp))
            which = np.flatnonzero(fits & (rest == 0) & (microbatches > 0))
            same = np.full(len(which), gpus), dp[which], np.full(len(which), batch)
            parts.append(Lanes(numbers[which], *same, microbatches[which]))
        return Lanes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _expert_tp(self, option: LayerOption) -> int:
        given = int(str(option.setting.values.get("expert_tp", self.fixed.get("expert_tp", 0))))
        return given or self._assembly.usual_expert_tp(option.sizes.ep) or option.sizes.tp

    # Candidates.

    def configuration(
        self, option: LayerOption, pipeline: PipelineOption, sharing: Setting, dp: int, batch: int
    ) -> Configuration | None:
        """A candidate; None where Megatron refuses it."""
        setting = option.setting.and_(pipeline.setting).and_(sharing)
        pp, vpp, layers, schedule = pipeline.pp, pipeline.vpp, pipeline.layers, pipeline.schedule
        try:
            return self._assembly.make(option.sizes, pp, vpp, layers, schedule, dp, batch, setting)
        except UserError:
            return None

    def configurations(self) -> Iterator[Configuration]:
        """Every candidate that Megatron takes, one by one."""
        for pp in self.stages():
            lanes = self.lanes(pp)
            pipelines: dict[object, list[PipelineOption]] = {}
            for row in range(len(lanes.option)):
                option = self.options[int(lanes.option[row])]
                like = self.layers_key(option)
                if like not in pipelines:
                    pipelines[like] = self.pipelines(pp, option)
                dp, batch = int(lanes.dp[row]), int(lanes.batch[row])
                for pipeline in pipelines[like]:
                    if pipeline.takes(int(lanes.microbatches[row])) and self.goes_with(pipeline, option):
                        for sharing in self.sharings(pp, dp * option.sizes.cp > 1):
                            c = self.configuration(option, pipeline, sharing, dp, batch)
                            if c is not None:
                                yield c

    def layers_key(self, option: LayerOption) -> tuple[object, ...]:
        """What of an option the contents of a pipeline's places depend on."""
        train = option.prototype.train
        return train.wide_layers, train.cpu_offload_layers, bool(train.offloaded_modules)

    def step(self, size: int, batch: int, schedule: str, setting: Setting) -> TrainSpec:
        """The training step with a micro batch, a batch, a schedule and a setting."""
        return self._assembly.step(size, batch, schedule, setting)

    # Sizes.

    def _fixed(self, name: str, values: Sequence[int]) -> list[int]:
        given = self.fixed.get(name)
        return [int(given)] if given is not None else list(values)

    def _tensor(self) -> list[int]:
        most, heads = self.bounds.max_tp, self.model.num_attention_heads
        return self._fixed("tp", [t for t in (1, 2, 4, 8, 16, 32, 64) if t <= most and heads % t == 0])

    def _context(self) -> list[int]:
        sizes = [1] if self.base.attention_kernel == "unfused" else [1, 2, 4, 8, 16, 32]
        # Shorter pieces than this leave attention nothing to hide the exchange behind.
        longest = self.model.seq_length // 2048
        return self._fixed("cp", [cp for cp in sizes if cp == 1 or (cp <= self.bounds.max_cp and cp <= longest)])

    def _experts(self) -> list[int]:
        experts = self.model.num_experts
        return self._fixed("ep", [e for e in divisors(experts) if e <= self.bounds.max_ep] if experts else [1])


def _enough(sizes: LayerSizes, pp: int, dp: int) -> int:
    """A global batch of enough microbatches for any schedule."""
    return sizes.micro_batch_size * dp * 8 * pp


def configurations(
    model: ModelSpec, gpus: int, batches: Sequence[int], bounds: Bounds, base: TrainSpec
) -> Iterator[Configuration]:
    """Every configuration of the model on exactly so many GPUs."""
    return Space(model, (gpus,), batches, bounds, base).configurations()
