"""What limits a search: largest sizes, what is fixed, and numbers of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtrain_sim.decide.search.choices import DEFAULT, chosen
from vtrain_sim.decide.search.cuts import GivenCut, divisors
from vtrain_sim.inputs.short_names import SHORT_NAMES
from vtrain_sim.specs.checks import SpecError, positive

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
# Fields of a layout that divide something.
SIZES = ("tp", "pp", "vpp", "cp", "ep", "dp")


@dataclass(frozen=True)
class Bounds:
    """Limits of the search. A value in `fixed` (field of `ParallelSpec` or `TrainSpec`) is not searched.

    schedules: 1f1b and interleaved are Megatron-Core's; any other is searched when it is named. choices: names of what
    is chosen beside sizes and cuts (`search.choices`). cut: how flags cut the layers into stages; None: searched.
    """

    max_tp: int = 8
    max_pp: int = 1 << 16
    max_dp: int = 1 << 16
    max_cp: int = 8
    max_ep: int = 1 << 16
    micro_batches: tuple[int, ...] = MICRO_BATCHES
    recompute: tuple[str, ...] = ("none", "selective", "full")
    schedules: tuple[str, ...] = ("1f1b", "interleaved")
    fixed: tuple[tuple[str, Any], ...] = ()
    choices: tuple[str, ...] = (DEFAULT,)
    cut: GivenCut | None = None

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
            if name in SIZES:
                positive(SHORT_NAMES[name], fixed)
        chosen(self.choices)


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
