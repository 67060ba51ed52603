"""Configurations of a search, put together from their parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from vtrain_sim.decide.search.bounds import SIZES
from vtrain_sim.decide.search.choices import LayerSizes, Setting
from vtrain_sim.decide.search.cuts import Layers
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.context_parallel import P2P, usual_comm_type
from vtrain_sim.specs.train import AUTO


class Assembly:
    """Makes configurations of a model. base: the training step without what is searched; fixed: fields that flags say.

    What neither sizes nor settings nor flags say follows from the sizes: sequence parallelism with tensor parallelism,
    gradients reduced beside the passes, and transfers beside them where a stage has several chunks.
    """

    def __init__(self, model: ModelSpec, base: TrainSpec, fixed: Mapping[str, Any]) -> None:
        self._model, self._base = model, base
        self._given = {
            name: value
            for name, value in fixed.items()
            if name in ParallelSpec.__dataclass_fields__ and name not in (*SIZES, "layers")
        }

    def make(
        self,
        sizes: LayerSizes,
        pp: int,
        vpp: int,
        layers: Layers,
        schedule: str,
        dp: int,
        batch: int,
        setting: Setting,
    ) -> Configuration:
        """A configuration. Raises `UserError` where Megatron refuses it."""
        parallel = self._parallel(sizes, pp, vpp, layers, dp, setting)
        # Megatron-Core chooses its own two by the number of chunks.
        named = AUTO if schedule in ("1f1b", "interleaved") else schedule
        train = self.step(sizes.micro_batch_size, batch, named, setting)
        return Configuration(self._routed(sizes.ep), parallel, train)

    def step(self, size: int, batch: int, schedule: str, setting: Setting) -> TrainSpec:
        """The training step with a micro batch, a batch, a schedule and a setting. Raises `UserError`."""
        return _train(self._base, size, batch, schedule, setting.train)

    def usual_expert_tp(self, ep: int) -> int:
        """Tensor parallel size of the experts where nothing says it; 0: that of the rest of a layer.

        Experts whole on a rank multiply larger matrices than sliced ones, and they alone have biases.
        """
        biased = self._model.num_experts > 0 and self._model.add_bias_linear
        return 1 if ep > 1 or biased else 0

    def _routed(self, ep: int) -> ModelSpec:
        # The busiest of few ranks has at most all tokens.
        return _with_imbalance(self._model, min(self._model.moe_imbalance_factor, float(ep)))

    def _parallel(
        self, sizes: LayerSizes, pp: int, vpp: int, layers: Layers, dp: int, setting: Setting
    ) -> ParallelSpec:
        tp, cp, ep, _ = sizes
        values: dict[str, Any] = {
            "sequence_parallel": tp > 1,
            "overlap_grad_reduce": dp * cp > 1,
            "overlap_param_gather": dp * cp > 1 and bool(self._given.get("distributed_optimizer")),
            "overlap_p2p": vpp > 1,
            "cp_comm_type": usual_comm_type(self._model) if cp > 1 else P2P,
            "expert_tp": self.usual_expert_tp(ep),
            **self._given,
            **dict(setting.parallel),
        }
        _leave_out(values, tp, cp, ep, vpp)
        return ParallelSpec(tp=tp, pp=pp, vpp=vpp, cp=cp, ep=ep, dp=dp, layers=layers, **values)


def _leave_out(values: dict[str, Any], tp: int, cp: int, ep: int, vpp: int) -> None:
    """What flags fix for all layouts means nothing for those that have nothing of it."""
    if tp == 1:
        values["sequence_parallel"] = False
        values.pop("tp_comm_overlap", None)
    if cp == 1:
        values.update(cp_comm_type=P2P, cp_a2a_size=0)
    if ep == 1:
        values.pop("overlap_moe_comm", None)
    if vpp == 1:
        values.pop("microbatch_group_size", None)
        values["overlap_p2p"] = False
    if not values.get("distributed_optimizer") or not values["overlap_grad_reduce"]:
        values["overlap_param_gather"] = False


@lru_cache(maxsize=1 << 10)
def _with_imbalance(model: ModelSpec, factor: float) -> ModelSpec:
    return model if model.moe_imbalance_factor == factor else replace(model, moe_imbalance_factor=factor)


@lru_cache(maxsize=1 << 14)
def _train(base: TrainSpec, size: int, batch: int, schedule: str, setting: tuple[tuple[str, Any], ...]) -> TrainSpec:
    return replace(base, micro_batch_size=size, global_batch_size=batch, schedule=schedule, **dict(setting))
