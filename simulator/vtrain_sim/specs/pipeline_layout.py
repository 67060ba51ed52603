"""How many layers each virtual pipeline stage has, from Megatron's several ways to say it."""

from __future__ import annotations

import re

from vtrain_sim.specs.checks import SpecError, whole

_FLAG = "--pipeline-model-parallel-layout"
_MOST = 1 << 16


def uneven(
    num_layers: int, pp: int, vpp: int, first: int | None, last: int | None, embedding: bool, loss: bool
) -> tuple[int, ...]:
    """Layers of each virtual stage, () if they are the same everywhere.

    first, last: layers of the first and last stage (None: as the others). embedding, loss: counted as a
    layer each. The stage counts follow Megatron-Core's `get_num_layers_to_build`.
    """
    if first is None and last is None and not (embedding or loss):
        return ()
    if (first is not None or last is not None) and (embedding or loss):
        raise SpecError(
            "--decoder-first-pipeline-num-layers and --decoder-last-pipeline-num-layers do not go with "
            "--account-for-embedding-in-pipeline-split and --account-for-loss-in-pipeline-split"
        )
    if embedding or loss:
        return _with_counted_ends(num_layers, pp * vpp, embedding, loss)
    return _with_given_ends(num_layers, pp, vpp, first, last)


def _with_counted_ends(num_layers: int, virtual_stages: int, embedding: bool, loss: bool) -> tuple[int, ...]:
    """Even stages in which the embedding and the loss each stand for a layer."""
    at_first, at_last = (1 if embedding else 0), (1 if loss else 0)
    total = num_layers + at_first + at_last
    if total % virtual_stages:
        raise SpecError(
            f"--num-layers with the embedding and the loss counted is {total}, which the {virtual_stages} virtual "
            "pipeline stages do not divide"
        )
    counts = [total // virtual_stages] * virtual_stages
    counts[0] -= at_first
    counts[-1] -= at_last
    return tuple(counts)


def _with_given_ends(num_layers: int, pp: int, vpp: int, first: int | None, last: int | None) -> tuple[int, ...]:
    """Even stages between a first and a last one of given sizes."""
    middle = pp - sum(end is not None for end in (first, last))
    if middle < 0:
        raise SpecError(
            "--decoder-first-pipeline-num-layers and --decoder-last-pipeline-num-layers are of two stages: "
            f"--pipeline-model-parallel-size is {pp}"
        )
    for flag, end in (("first", first), ("last", last)):
        if end is not None:
            whole(f"--decoder-{flag}-pipeline-num-layers", end, 0)
    left = num_layers - (first or 0) - (last or 0)
    if left < 0 or (middle == 0 and left) or (middle and left % middle):
        raise SpecError(
            f"--decoder-first-pipeline-num-layers and --decoder-last-pipeline-num-layers leave {left} layers, which "
            f"the {middle} other stages do not divide"
        )
    each = left // middle if middle else 0
    stages = [each] * pp
    if first is not None:
        stages[0] = first
    if last is not None:
        stages[-1] = last
    if any(count % vpp for count in stages):
        raise SpecError(f"stages of {stages} layers cannot be split into {vpp} virtual stages each")
    return tuple(stages[stage] // vpp for _ in range(vpp) for stage in range(pp))


def parse_layout(layout: str, pp: int, mtp: int = 0) -> tuple[int, ...]:
    """Layers of each virtual stage from Megatron's layout, for example ``"Ett|(tt|)*29,m|L"``.

    t: a transformer layer; E: embedding (first); L: loss (last); m: multi-token prediction, with the loss, mtp times;
    stages are separated by |. Raises `SpecError`.
    """
    expanded = _expand(layout.replace(",", "").replace(" ", ""))
    if re.search(r"[^EtLm|]", expanded):
        raise SpecError(f"{_FLAG} is {layout!r}: it takes E, t, m, L, | and repetitions such as (tt|)*4")
    stages = expanded.split("|")
    if len(stages) % pp:
        raise SpecError(f"{_FLAG} has {len(stages)} stages, which is no multiple of the {pp} pipeline stages")
    once = expanded.count("E") == expanded.count("L") == 1
    if not (once and expanded.startswith("E") and expanded.endswith("L")):
        raise SpecError(
            f"{_FLAG} is {layout!r}: it begins with the embedding (E) in the first stage and ends with the loss (L) in "
            "the last, each once"
        )
    if expanded.count("m") != mtp:
        raise SpecError(f"{_FLAG} has {expanded.count('m')} m, --mtp-num-layers is {mtp}: they are the same layers")
    if not stages[-1].endswith("m" * mtp + "L"):
        raise SpecError(
            f"{_FLAG} is {layout!r}: multi-token prediction (m) is simulated right before the loss (L) only"
        )
    return tuple(stage.count("t") for stage in stages)


def _expand(text: str) -> str:
    """Repetitions written out: ``x*3`` and ``(xy)*3``."""
    repeated = re.compile(r"(?:\(([^()]*)\)|([EtLm|]))\*(\d{1,5})")
    while True:
        match = repeated.search(text)
        if match is None:
            return text
        once = match[1] if match[1] is not None else match[2]
        if len(once) * int(match[3]) > _MOST:
            raise SpecError(f"{_FLAG} is longer than any model")
        text = text[: match.start()] + once * int(match[3]) + text[match.end() :]


def write_layout(layers: tuple[int, ...], mtp: int = 0) -> str:
    """Megatron's layout of these virtual stages, with so many depths of multi-token prediction."""
    stages = ["t" * count for count in layers]
    stages[0] = "E" + stages[0]
    stages[-1] += "m" * mtp + "L"
    return "|".join(stages)
