"""What a search varies beside the sizes of a layout and its cut into stages.

A choice is an object: what it is called, the fields of a configuration that it sets, and the values that are worth a
try. A field that a flag fixes is not varied. Those of a layer decide how a microbatch runs through one, those of a
pipeline what a stage runs again, those of the optimizer how data parallel ranks share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from vtrain_sim.errors import UserError
from vtrain_sim.extensions import Registry
from vtrain_sim.specs import ModelSpec, TrainSpec
from vtrain_sim.specs.context_parallel import A2A, ALL_GATHER, P2P
from vtrain_sim.specs.parallel import ParallelSpec

Level: TypeAlias = Literal["layer", "pipeline", "optimizer"]
DEFAULT, NONE, ALL = "default", "none", "all"
# Work that is added to a layer: its time without it is a bound.
RECOMPUTE_MODULES = "recompute-modules"


@dataclass(frozen=True)
class Setting:
    """Fields with their values. parallel: of `ParallelSpec`; train: of `TrainSpec`."""

    parallel: tuple[tuple[str, object], ...] = ()
    train: tuple[tuple[str, object], ...] = ()

    @classmethod
    def of(cls, **values: object) -> Setting:
        """The setting of these fields."""
        pairs = sorted(values.items())
        return cls(
            tuple((name, value) for name, value in pairs if name in ParallelSpec.__dataclass_fields__),
            tuple((name, value) for name, value in pairs if name not in ParallelSpec.__dataclass_fields__),
        )

    def and_(self, other: Setting) -> Setting:
        """Both; what the other one sets too is as there."""
        return Setting(
            tuple(sorted({**dict(self.parallel), **dict(other.parallel)}.items())),
            tuple(sorted({**dict(self.train), **dict(other.train)}.items())),
        )

    def goes_with(self, fixed: Mapping[str, object]) -> bool:
        """Whether no field is fixed at another value."""
        return all(fixed.get(name, value) == value for name, value in (*self.parallel, *self.train))

    @property
    def values(self) -> dict[str, object]:
        """All fields."""
        return {**dict(self.parallel), **dict(self.train)}


AS_IT_IS = Setting()


class LayerSizes(NamedTuple):
    """What the settings of a layer may depend on."""

    tp: int
    cp: int
    ep: int
    micro_batch_size: int


class Situation(NamedTuple):
    """Where a choice is made. sizes: known for a layer. most_layers: of a virtual stage, known for a pipeline. pp: its
    size, known for the optimizer, as is whether there are several replicas (data times context parallel)."""

    model: ModelSpec
    base: TrainSpec
    sizes: LayerSizes = LayerSizes(1, 1, 1, 1)
    most_layers: int = 1
    pp: int = 1
    replicated: bool = False


@dataclass(frozen=True)
class Choice:
    """One thing to choose. fields: that its settings set, which a flag may fix. settings: those worth a try, the plain
    one first."""

    name: str
    level: Level
    says: str
    fields: tuple[str, ...]
    settings: Callable[[Situation], Sequence[Setting]]
    by_default: bool = True


CHOICES: Registry[Choice] = Registry("vtrain.search_choices", "choice of a search")


def chosen(names: Sequence[str]) -> tuple[Choice, ...]:
    """The choices of these names: "default" stands for those that are made anyway, "all" for all, "none" for none.

    Raises `UserError` for an unknown name.
    """
    wanted: dict[str, Choice] = {}
    for name in names:
        if name == NONE:
            continue
        if name in (DEFAULT, ALL):
            known = [CHOICES.find(one) for one in CHOICES.names()]
            wanted.update({c.name: c for c in known if c is not None and (name == ALL or c.by_default)})
            continue
        choice = CHOICES.find(name)
        if choice is None:
            raise UserError(
                f"--search {name}: there are {', '.join(CHOICES.names())}, and {DEFAULT}, {ALL} and {NONE} of them"
            )
        wanted[name] = choice
    return tuple(wanted.values())


def settings_of(
    choices: Sequence[Choice], level: Level, situation: Situation, fixed: Mapping[str, object]
) -> list[Setting]:
    """Every combination of the settings of a level that contradicts no flag, each once. fixed: fields that flags have
    said."""
    combined = [AS_IT_IS]
    for choice in choices:
        if choice.level == level and not any(name in fixed for name in choice.fields):
            possible = [one for one in choice.settings(situation) if one.goes_with(fixed)]
            combined = [one.and_(other) for one in combined for other in possible]
    return list(dict.fromkeys(combined))


def _choice(
    name: str, level: Level, says: str, fields: str, by_default: bool = True
) -> Callable[[Callable[[Situation], Sequence[Setting]]], Callable[[Situation], Sequence[Setting]]]:
    """Decorator of the settings of a choice: it is registered. fields: their names, with blanks between them."""

    def register(settings: Callable[[Situation], Sequence[Setting]]) -> Callable[[Situation], Sequence[Setting]]:
        CHOICES.register(Choice(name, level, says, tuple(fields.split()), settings, by_default))
        return settings

    return register


_RECOMPUTATION = "recompute_granularity recompute_method recompute_num_layers recompute_modules"


@_choice("expert-tp", "layer", "tensor parallel size of the experts: 1, or that of the rest", "expert_tp")
def _expert_tp(at: Situation) -> Sequence[Setting]:
    if at.sizes.ep == 1 or at.model.add_bias_linear:
        return (AS_IT_IS,)
    # Experts whole on a rank multiply larger matrices than sliced ones, which in turn send fewer tokens around.
    sliced = (Setting.of(expert_tp=at.sizes.tp),) if at.sizes.tp > 1 else ()
    return (Setting.of(expert_tp=1), *sliced)


@_choice("tp-overlap", "layer", "tensor parallel communication beside its products", "tp_comm_overlap")
def _tp_overlap(at: Situation) -> Sequence[Setting]:
    # Megatron-Core switches it off for latent attention, whose projections have no buffers in Transformer Engine.
    if at.sizes.tp == 1 or at.model.multi_latent_attention:
        return (AS_IT_IS,)
    return (AS_IT_IS, Setting.of(tp_comm_overlap=True))


@_choice("moe-overlap", "layer", "token exchanges beside another microbatch", "overlap_moe_comm")
def _moe_overlap(at: Situation) -> Sequence[Setting]:
    if at.sizes.ep == 1 or at.model.mtp_num_layers > 1 or at.model.symbols:
        return (AS_IT_IS,)
    return (AS_IT_IS, Setting.of(overlap_moe_comm=True))


@_choice("dispatcher", "layer", "token dispatchers", "moe_token_dispatcher", by_default=False)
def _dispatchers(at: Situation) -> Sequence[Setting]:
    if at.sizes.ep == 1:
        return (AS_IT_IS,)
    return tuple(Setting.of(moe_token_dispatcher=name) for name in ("alltoall", "allgather", "deepep", "hybridep"))


@_choice("cp-comm", "layer", "how context parallel ranks exchange", "cp_comm_type cp_a2a_size", by_default=False)
def _cp_exchanges(at: Situation) -> Sequence[Setting]:
    if at.sizes.cp == 1:
        return (AS_IT_IS,)
    return tuple(Setting.of(cp_comm_type=kind) for kind in (P2P, A2A, ALL_GATHER))


def _where_alone(at: Situation) -> dict[str, object]:
    """Fields of the distributed optimizer where there is one replica; of several, it is a choice of its own."""
    return {} if at.replicated else _DISTRIBUTED.values


def _selective(modules: Sequence[str]) -> Setting:
    return Setting.of(recompute_granularity="selective", recompute_modules=tuple(modules))


@_choice(RECOMPUTE_MODULES, "layer", "modules that run again in the backward pass", _RECOMPUTATION)
def _recompute_modules(at: Situation) -> Sequence[Setting]:
    """From what costs least time for its memory on: norms and activations, then up-projections, then whole blocks."""
    cheap = ["layernorm"] + (["moe_act"] if at.model.num_experts and at.base.moe_grouped_gemm else [])
    if at.base.delayed_scaling:
        cheap = []
    if at.base.attention_kernel == "unfused":
        # Its scores are what takes most memory.
        cheap = ["core_attn", *cheap]
    sets = [cheap[:1], cheap]
    if at.model.multi_latent_attention:
        sets.append([*cheap, "mla_up_proj"])
    if at.model.has_dense_blocks and not at.model.num_experts:
        sets.append([*cheap, "mlp"])
    if at.model.num_experts:
        rest = [name for name in sets[-1] if name != "moe_act"]
        sets.append([*rest, "moe", *(["mlp"] if at.model.has_dense_blocks else [])])
    return (AS_IT_IS, *dict.fromkeys(_selective(modules) for modules in sets if modules))


@_choice("recompute-layers", "pipeline", "layers that run again: none, some, all", _RECOMPUTATION)
def _recompute_layers(at: Situation) -> Sequence[Setting]:
    """None, all, and some of the layers of each virtual stage."""
    some = sorted({round(at.most_layers * part) for part in (0.25, 0.5, 0.75)} - {0, at.most_layers})
    block = [Setting.of(recompute_granularity="full", recompute_method="block", recompute_num_layers=n) for n in some]
    return (AS_IT_IS, *block, Setting.of(recompute_granularity="full"))


# Megatron-Core has some optimizers in its distributed one alone, also where there is one replica.
_DISTRIBUTED = Setting.of(distributed_optimizer=True)


def needed_sharing(base: TrainSpec, fixed: Mapping[str, object]) -> Setting:
    """What a training step needs in any case, unless it is fixed. fixed: fields that flags have said."""
    needs = base.use_precision_aware_optimizer or base.fp8_param_gather
    return _DISTRIBUTED if needs and "distributed_optimizer" not in fixed and not fixed.get("fsdp") else AS_IT_IS


@_choice("sharding", "optimizer", "distributed optimizer (ZeRO-1), or FSDP", "distributed_optimizer fsdp")
def _sharding(at: Situation) -> Sequence[Setting]:
    if not at.replicated:
        return (needed_sharing(at.base, {}),)
    # Parameters that are fetched for each layer are fetched for each microbatch: Megatron has no pipeline of them.
    fully = (Setting.of(fsdp=True),) if at.pp == 1 else ()
    return (AS_IT_IS, _DISTRIBUTED.and_(Setting.of(overlap_param_gather=True)), *fully)


@_choice("precision", "layer", "products in 16, 8 and 4 bits", "fp8 fp8_recipe fp4 fp8_param_gather", by_default=False)
def _precisions(at: Situation) -> Sequence[Setting]:
    if at.base.params_dtype != "bfloat16":
        return (AS_IT_IS,)
    return (
        Setting.of(fp8="", fp8_recipe="", fp4=""),
        *(Setting.of(fp8="hybrid", fp8_recipe=recipe, fp4="") for recipe in ("delayed", "tensorwise", "blockwise")),
        Setting.of(fp8="e4m3", fp8_recipe="mxfp8", fp4=""),
        Setting.of(fp8="", fp8_recipe="", fp4="e2m1"),
    )


@_choice(
    "optimizer-state",
    "optimizer",
    "types of the optimizer's moments",
    "use_precision_aware_optimizer exp_avg_dtype exp_avg_sq_dtype main_params_dtype",
    by_default=False,
)
def _optimizer_state(at: Situation) -> Sequence[Setting]:
    if at.base.params_dtype != "bfloat16" or at.base.optimizer != TrainSpec.optimizer:
        return (AS_IT_IS,)
    aware = {"use_precision_aware_optimizer": True, **_where_alone(at)}
    return (
        AS_IT_IS,
        Setting.of(**aware),
        Setting.of(**aware, exp_avg_dtype="bfloat16", exp_avg_sq_dtype="bfloat16"),
    )


@_choice("gradients", "layer", "gradients summed in 32 or 16 bits", "main_grads_dtype", by_default=False)
def _gradients(at: Situation) -> Sequence[Setting]:
    if at.base.params_dtype != "bfloat16":
        return (AS_IT_IS,)
    return tuple(Setting.of(main_grads_dtype=dtype) for dtype in ("float32", "bfloat16"))


@_choice("cuda-graphs", "layer", "CUDA graphs of layers", "cuda_graph_impl cuda_graph_scope", by_default=False)
def _graphs(at: Situation) -> Sequence[Setting]:
    routed = ("moe_router", "moe_preprocess") if at.model.num_experts else ()
    scopes = ("attn", *routed) if at.model.num_experts else ("full",)
    return (AS_IT_IS, Setting.of(cuda_graph_impl="transformer_engine", cuda_graph_scope=scopes))


@_choice(
    "offload",
    "layer",
    "activations in the host's memory, by module",
    "fine_grained_offloading offload_modules cpu_offload_layers",
    by_default=False,
)
def _offloading(at: Situation) -> Sequence[Setting]:
    sets: list[tuple[str, ...]] = [("core_attn", "attn_proj")]
    if at.model.num_experts:
        sets += [("moe_act",), ("expert_fc1", "moe_act")]
    return (AS_IT_IS, *(Setting.of(fine_grained_offloading=True, offload_modules=modules) for modules in sets))


@_choice(
    "optimizer-offload",
    "optimizer",
    "the optimizer's state in the host's memory",
    "optimizer_cpu_offload optimizer_offload_fraction use_precision_aware_optimizer",
    by_default=False,
)
def _optimizer_offload(at: Situation) -> Sequence[Setting]:
    if at.base.optimizer != TrainSpec.optimizer:
        return (AS_IT_IS,)
    aware = {"use_precision_aware_optimizer": True, **_where_alone(at)}
    offloaded = {**aware, "optimizer_cpu_offload": True, "overlap_cpu_optimizer": True}
    return (AS_IT_IS, *(Setting.of(**offloaded, optimizer_offload_fraction=part) for part in (0.5, 1.0)))


@_choice("buckets", "optimizer", "parameters of a bucket of gradients", "bucket_size", by_default=False)
def _buckets(at: Situation) -> Sequence[Setting]:
    if not at.replicated:
        return (AS_IT_IS,)
    return (AS_IT_IS, *(Setting.of(bucket_size=size) for size in (10_000_000, 160_000_000, 640_000_000)))


def described() -> Iterator[tuple[str, str, bool]]:
    """(name, what it is, whether it is made by default) of all choices."""
    for name in CHOICES.names():
        choice = CHOICES.find(name)
        if choice is not None:
            yield name, choice.says, choice.by_default
