"""The space that a search covers: every layout that Megatron runs, within bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from vtrain_sim import schedules
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.short_names import SHORT_NAMES
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.checks import SpecError, positive
from vtrain_sim.specs.recompute import DEFAULT

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
# Chunks of a stage: more only add messages.
MOST_CHUNKS = 12
# An uneven pipeline is worth a try where even ones are few, or where few of them divide the GPUs.
FEW_DIVISORS = 6
FEW_OF_THE_GPUS = 3
UNEVEN_STAGES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

# Fields of a layout that divide something.
_SIZES = ("tp", "pp", "vpp", "cp", "ep", "dp")


@dataclass(frozen=True)
class Bounds:
    """Limits of the search. A value in `fixed` (field of `ParallelSpec` or `TrainSpec`) is not searched.

    schedules: 1f1b and interleaved are Megatron-Core's; any other is searched when it is named.
    """

    max_tp: int = 8
    max_pp: int = 1 << 16
    max_dp: int = 1 << 16
    max_cp: int = 8
    max_ep: int = 1 << 16
    micro_batches: tuple[int, ...] = MICRO_BATCHES
    recompute: tuple[str, ...] = ("none", "selective", "full")
    schedules: tuple[str, ...] = ("1f1b", "interleaved")
    fixed: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        for flag, value in (
            ("--max-tp", self.max_tp),
            ("--max-pp", self.max_pp),
            ("--max-dp", self.max_dp),
            ("--max-cp", self.max_cp),
            ("--max-ep", self.max_ep),
        ):
            positive(flag, value)
        for size in self.micro_batches:
            positive("--micro-batch-size", size)
        for name, fixed in self.fixed:
            if name in _SIZES:
                positive(SHORT_NAMES[name], fixed)


def gpu_counts(exact: Sequence[int], most: int, domain: int, segment: int = 0) -> list[int]:
    """Numbers of GPUs to search: those given, or all whole domains, and whole segments of them, up to `most`.

    domain: GPUs of a node or an NVLink domain; its divisors and powers of two are parts of one. segment: GPUs of
    each domain that a job of several takes (`NetworkLevel`); 0: all.
    """
    for count in exact:
        positive("--num-gpus", count)
    if exact:
        return sorted(set(exact))
    if not most:
        raise SpecError("how many GPUs there are is missing: give --num-gpus (a list) or --max-gpus")
    positive("--max-gpus", most)
    # A batch is mostly a power of two: divisors of 72 alone would leave most of a domain idle.
    parts = {*divisors(domain), *(1 << bits for bits in range(domain.bit_length()))}
    segments = range(segment, most + 1, segment) if segment else ()
    return sorted({*(n for n in parts if n <= most), *range(domain, most + 1, domain), *segments})


def filled(
    counts: Sequence[int], model: ModelSpec, batches: Sequence[int], bounds: Bounds, base: TrainSpec
) -> list[int]:
    """Those of many numbers of GPUs that some layout of the model may fill, in their order.

    The others have no configuration: a data parallel size divides the batch, and the sizes within one copy of the
    model are few. Searching them takes as long as searching those that have some.
    """
    fixed = dict(bounds.fixed)
    most = max(counts, default=0)
    sizes = product(
        _tensor(model, bounds, fixed), _context(model, bounds, base, fixed), _stages(model, None, bounds, fixed)
    )
    copies = {dp for batch in batches for dp in divisors(batch) if dp <= bounds.max_dp}
    ranks = {tp * cp * pp for tp, cp, pp in sizes}
    totals = {one * dp for one in ranks for dp in copies if one * dp <= most}
    return [n for n in counts if n in totals]


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def configurations(
    model: ModelSpec, gpus: int, batches: Sequence[int], bounds: Bounds, base: TrainSpec
) -> Iterator[Configuration]:
    """Every configuration of the model on exactly so many GPUs.

    base: what the training step has besides micro batch, recomputation and schedule. Sequence
    parallelism goes with tensor parallelism (it costs the same and saves memory) unless fixed.
    """
    fixed = dict(bounds.fixed)
    for tp, cp, pp in product(
        _tensor(model, bounds, fixed), _context(model, bounds, base, fixed), _stages(model, gpus, bounds, fixed)
    ):
        ranks = tp * cp * pp
        if gpus % ranks or gpus // ranks > bounds.max_dp or fixed.get("dp", gpus // ranks) != gpus // ranks:
            continue
        dp = gpus // ranks
        for ep in _experts(model, dp * cp * tp, bounds, fixed):
            # The busiest of few ranks has at most all tokens.
            routed = replace(model, moe_imbalance_factor=float(ep)) if model.moe_imbalance_factor > ep else model
            for vpp, schedule in _chunks(model, pp, bounds, fixed):
                layers = () if model.num_layers % (pp * vpp) == 0 else _balanced(model.num_layers, pp)
                for parallel in _parallel(tp, pp, vpp, cp, ep, dp, layers, fixed):
                    yield from _steps(routed, parallel, schedule, batches, bounds, base, fixed)


def _fixed(name: str, values: Sequence[int], fixed: dict[str, object]) -> list[int]:
    given = fixed.get(name)
    return [int(str(given))] if given is not None else list(values)


def _tensor(model: ModelSpec, bounds: Bounds, fixed: dict[str, object]) -> list[int]:
    fitting = [t for t in (1, 2, 4, 8, 16, 32, 64) if t <= bounds.max_tp and model.num_attention_heads % t == 0]
    return _fixed("tp", fitting, fixed)


def _context(model: ModelSpec, bounds: Bounds, base: TrainSpec, fixed: dict[str, object]) -> list[int]:
    sizes = [1] if base.attention_kernel == "unfused" else [1, 2, 4, 8, 16, 32]
    # Shorter pieces than this leave attention nothing to hide the exchange behind.
    fitting = [cp for cp in sizes if cp == 1 or (cp <= bounds.max_cp and model.seq_length // (2 * cp) >= 1024)]
    return _fixed("cp", fitting, fixed)


def _stages(model: ModelSpec, gpus: int | None, bounds: Bounds, fixed: dict[str, object]) -> list[int]:
    """Pipeline sizes for a number of GPUs; for None those for any."""
    even = divisors(model.num_layers)
    few = len(even) < FEW_DIVISORS or gpus is None or sum(gpus % p == 0 for p in even) < FEW_OF_THE_GPUS
    uneven = [p for p in UNEVEN_STAGES if p <= model.num_layers] if few else []
    return _fixed("pp", [p for p in sorted({*even, *uneven}) if p <= bounds.max_pp], fixed)


def _balanced(num_layers: int, pp: int) -> tuple[int, ...]:
    """As even as can be; the stages with the embedding and the loss are the short ones."""
    short = pp - num_layers % pp
    lacking = {pp - 1, 0} if short >= 2 else {pp - 1}
    lacking |= set(range(1, short - len(lacking) + 1)) if short > len(lacking) else set()
    return tuple(num_layers // pp + (0 if stage in lacking else 1) for stage in range(pp))


def _experts(model: ModelSpec, ranks: int, bounds: Bounds, fixed: dict[str, object]) -> list[int]:
    if not model.num_experts:
        return _fixed("ep", [1], fixed)
    fitting = [e for e in divisors(model.num_experts) if ranks % e == 0 and e <= bounds.max_ep]
    return _fixed("ep", fitting, fixed)


def _chunks(model: ModelSpec, pp: int, bounds: Bounds, fixed: dict[str, object]) -> list[tuple[int, str]]:
    counts = [1]
    if pp > 1 and model.num_layers % pp == 0:
        counts += [v for v in divisors(model.num_layers // pp) if 1 < v <= MOST_CHUNKS]
    chunks = [(v, name) for name in bounds.schedules for v in counts if schedules.get(name).takes_chunks(v)]
    if pp == 1:
        chunks = chunks[:1]
    given = fixed.get("vpp")
    return [(v, name) for v, name in chunks if given is None or v == given]


def _parallel(
    tp: int, pp: int, vpp: int, cp: int, ep: int, dp: int, layers: tuple[int, ...], fixed: dict[str, object]
) -> Iterator[ParallelSpec]:
    given = {k: v for k, v in fixed.items() if k in ParallelSpec.__dataclass_fields__ and k not in (*_SIZES, "layers")}
    sharded = [bool(given["distributed_optimizer"])] if "distributed_optimizer" in given else [False, True]
    if dp * cp == 1 and "distributed_optimizer" not in given:
        sharded = [False]
    for zero in sharded:
        if given.get("fsdp") and zero:
            continue
        settings = {
            "sequence_parallel": tp > 1,
            "distributed_optimizer": zero,
            "overlap_grad_reduce": dp * cp > 1,
            "overlap_param_gather": zero and dp * cp > 1,
            "overlap_p2p": vpp > 1,
            # Experts whole on a rank multiply larger matrices than sliced ones.
            "expert_tp": 1 if ep > 1 else 0,
            **given,
        }
        try:
            yield ParallelSpec(tp=tp, pp=pp, vpp=vpp, cp=cp, ep=ep, dp=dp, layers=layers, **settings)  # type: ignore[arg-type]
        except UserError:
            continue  # Megatron refuses this combination


def _steps(
    model: ModelSpec,
    parallel: ParallelSpec,
    schedule: str,
    batches: Sequence[int],
    bounds: Bounds,
    base: TrainSpec,
    fixed: dict[str, object],
) -> Iterator[Configuration]:
    recompute = bounds.recompute
    scores_alone = base.recompute_modules == DEFAULT
    if base.attention_kernel == "flash" and scores_alone and "recompute_granularity" not in fixed:
        # Fused attention keeps no scores: recomputing it frees next to nothing.
        recompute = tuple(r for r in recompute if r != "selective") or recompute
    name = "auto" if schedule in ("1f1b", "interleaved") else schedule
    for batch, size, granularity in product(batches, bounds.micro_batches, recompute):
        if batch % (size * parallel.dp):
            continue
        try:
            yield Configuration(model, parallel, _train(base, size, batch, granularity, name))
        except UserError:
            continue  # Megatron refuses this combination


@lru_cache(maxsize=1 << 12)
def _train(base: TrainSpec, size: int, batch: int, granularity: str, schedule: str) -> TrainSpec:
    return replace(
        base,
        micro_batch_size=size,
        global_batch_size=batch,
        recompute_granularity=granularity,
        schedule=schedule,
    )
