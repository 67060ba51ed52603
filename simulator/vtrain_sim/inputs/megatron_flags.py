"""Reads Megatron's own command-line flags into a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vtrain_sim.errors import nearest_flag
from vtrain_sim.file_table import SpecFields
from vtrain_sim.inputs.flag_lists import approximated, refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, arity, entry, known_flags
from vtrain_sim.inputs.layout_values import layout_from_values
from vtrain_sim.inputs.model_values import model_from_values
from vtrain_sim.inputs.short_names import SHORT_NAMES
from vtrain_sim.inputs.step_values import train_from_values
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec

# Megatron's switch, which does not say of how many layers.
_OFFLOADING = "--cpu-offloading"


@dataclass(frozen=True)
class Flags:
    """Values read from flags, by field name."""

    values: SpecFields
    given: dict[str, str]  # field -> the flag that gave it
    approximated: tuple[str, ...]
    """Flags that change time or memory in a way that is not simulated, as they were given."""


def parse_flags(tokens: Sequence[str]) -> Flags:
    """Read a list of arguments; raises `SpecError` for an unknown or malformed one.

    Megatron's arguments that change neither time nor memory are accepted and left out.
    """
    values: SpecFields = {}
    given: dict[str, str] = {}
    approximate: dict[str, None] = {}
    position = 0
    while position < len(tokens):
        flag, following, position = _next(tokens, position)
        if flag in SWITCHES:
            field, constant = SWITCHES[flag]
            values[field], given[field] = constant, flag
        elif flag in VALUES:
            if not following:
                raise SpecError(f"{flag} needs a value")
            field, read = VALUES[flag]
            values[field], given[field] = read(flag, following[0]), flag
        elif flag in LISTS:
            if not following:
                raise SpecError(f"{flag} needs values")
            field, read_words = LISTS[flag]
            values[field], given[field] = read_words(flag, following), flag
        elif flag in refused() and not (flag == _OFFLOADING and _given(f"{_OFFLOADING}-num-layers", tokens)):
            _refuse(flag, following)
        elif flag in approximated():
            approximate[flag] = None
    return Flags(values, given, tuple(approximate))


def _next(tokens: Sequence[str], position: int) -> tuple[str, list[str], int]:
    """A flag, what follows it, and the position of the next one. Raises `SpecError` for an unknown one."""
    flag, equals, inline = tokens[position].partition("=")
    takes = arity(flag)
    if takes is None and flag.startswith(("$", "`")):
        raise SpecError(
            f"{flag} stands where an argument should, and what the shell puts there is not known: write the arguments "
            "themselves in its place"
        )
    if takes is None:
        raise SpecError(f"unknown argument {tokens[position]!r}{_meant(flag)}")
    begin = position + 1
    if equals:
        if takes == "switch":
            raise SpecError(f"{tokens[position]} gives a value to a switch: give {flag} alone")
        return flag, [inline], begin
    end = begin
    if flag in VALUES:
        end = min(begin + 1, len(tokens))
    else:
        # Some arguments' values are optional.
        most = {"switch": 0, "value": 1}.get(takes, len(tokens))
        while end < min(begin + most, len(tokens)) and not tokens[end].startswith("--"):
            end += 1
    return flag, list(tokens[begin:end]), end


def _meant(flag: str) -> str:
    """The argument that an unknown one stands for, or that it is much like; may be empty."""
    short = SHORT_NAMES.get(flag.lstrip("-").replace("-", "_"))
    return f" (did you mean {short!r}?)" if short else nearest_flag(flag, known_flags())


def without(tokens: Sequence[str], fields: Iterable[str]) -> tuple[list[str], list[str]]:
    """The arguments that set none of some fields, and the flags of those left out. Raises `SpecError`."""
    names = frozenset(fields)
    kept: list[str] = []
    left_out: dict[str, None] = {}
    position = 0
    while position < len(tokens):
        begin = position
        flag, _, position = _next(tokens, position)
        read = entry(flag)
        if read is not None and read[0] in names:
            left_out[flag] = None
        else:
            kept += tokens[begin:position]
    return kept, list(left_out)


def _given(flag: str, tokens: Sequence[str]) -> bool:
    """Whether an argument is given anywhere."""
    return any(token.partition("=")[0] == flag for token in tokens)


def _refuse(flag: str, values: Sequence[str]) -> None:
    """Refuse an argument unless all its values are simulated."""
    refusal = refused()[flag]
    other = [value for value in values if value not in refusal.simulated]
    if other or not (refusal.simulated and values):
        raise SpecError(refusal.sentence(other[0] if other and refusal.simulated else ""))


def check_contradictions(tokens: Sequence[str]) -> None:
    """Raise `SpecError` where one list of arguments asks for two precisions.

    Lists of two sources may: the later one then goes before the other.
    """
    types = dict.fromkeys(token for token in tokens if SWITCHES.get(token, ("",))[0] == "params_dtype")
    if len(types) > 1:
        raise SpecError(f"{' and '.join(types)} contradict each other: give one")


def configuration_from_flags(
    tokens: Sequence[str],
    base: Configuration | None = None,
    num_gpus: int = 0,
    base_model: ModelSpec | None = None,
) -> Configuration:
    """The configuration that flags describe, on top of `base` (or of a model) where there is one.

    num_gpus: world size; 0: as many as tp x pp x cp x dp. Raises `SpecError`.
    """
    flags = parse_flags(tokens)
    values = dict(flags.values)
    model = model_from_values(values, base.model if base is not None else base_model)
    old = base.parallel if base is not None else ParallelSpec()
    parallel = layout_from_values(values, flags.given, old, model, num_gpus)
    if base is None and num_gpus and "micro_batch_size" in values and "final_batch" not in values:
        # Megatron's default: no accumulation of gradients.
        values.setdefault("global_batch_size", values["micro_batch_size"] * parallel.dp)
    return Configuration(model, parallel, train_from_values(values, base.train if base is not None else None))
