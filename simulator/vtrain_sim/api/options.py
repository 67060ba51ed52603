"""Keyword arguments of a job: short names, and Megatron's long ones with underscores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.inputs.flag_table import SWITCHES, VALUES, arity, known_flags
from vtrain_sim.inputs.megatron_flags import parse_flags
from vtrain_sim.inputs.short_names import SHORT_NAMES
from vtrain_sim.specs import Configuration
from vtrain_sim.specs.checks import whole
from vtrain_sim.specs.precision import precision

Option = str | int | float | bool | Sequence[str] | None

# What a precision does not say is as if it had not been said before.
_NARROW = {"fp8": "--fp8-format", "fp8_recipe": "--fp8-recipe", "fp4": "--fp4-format"}
WORLD_SIZE = ("gpus", "num_gpus")


@dataclass(frozen=True)
class Options:
    """Options read: Megatron's flags, switches to be off, and the world size (0: not given)."""

    flags: tuple[str, ...]
    switched_off: tuple[str, ...]
    gpus: int

    @property
    def fixes_dp(self) -> bool:
        """Whether the data parallel size is given, so that the world size follows from it."""
        return SHORT_NAMES["dp"] in self.flags

    def switch_off(self, configuration: Configuration) -> Configuration:
        """The configuration without the switches that are given as False. Raises `UserError`."""
        for part in ("model", "parallel", "train"):
            spec = getattr(configuration, part)
            off = {SWITCHES[flag][0]: not SWITCHES[flag][1] for flag in self.switched_off}
            changes = {name: value for name, value in off.items() if hasattr(spec, name)}
            if changes:
                configuration = replace(configuration, **{part: replace(spec, **changes)})
        return configuration


def read_options(options: Mapping[str, Option]) -> Options:
    """Keyword arguments as flags. An option that is None is left out. Raises `UserError` for an unknown name."""
    flags: list[str] = []
    switched_off: list[str] = []
    gpus = 0
    said: dict[str, tuple[str, object]] = {}  # field -> the name and the value that it was given with
    for name, value in options.items():
        if value is None:
            continue
        fields: dict[str, object] = {}
        if name in WORLD_SIZE:
            whole(name, value, 1)
            gpus = int(str(value))
            fields = {WORLD_SIZE[0]: gpus}
        elif value is False and name != "precision" and flag_of(name) in SWITCHES:
            switched_off.append(_boolean(name))
            fields = {SWITCHES[flag_of(name)][0]: not SWITCHES[flag_of(name)][1]}
        else:
            tokens = _precision(value) if name == "precision" else _tokens(name, value)
            flags += tokens
            fields = dict(parse_flags(tokens).values)
        for field, setting in fields.items():
            other, before = said.setdefault(field, (name, setting))
            if setting != before:
                raise UserError(f"{other} and {name} say the same thing in two ways, and differ: give one")
    if options.get("precision") is not None:
        # Also where the job before multiplied in fewer bits.
        flags += [word for field, flag in _NARROW.items() if field not in said for word in (flag, "")]
    return Options(tuple(flags), tuple(switched_off), gpus)


def flag_of(name: str) -> str:
    """Megatron's flag for a keyword argument. Raises `UserError` for an unknown one, with the nearest."""
    flag = SHORT_NAMES.get(name) or "--" + name.replace("_", "-")
    if arity(flag) is not None:
        return flag
    raise UserError(
        f"unknown argument {name!r}{nearest(name, known_names())}: it takes {', '.join((*SHORT_NAMES, 'precision'))}, "
        "gpus, or an argument of Megatron's with underscores"
    )


def check_name(name: str) -> None:
    """Raises `UserError` for a name that no job takes, with the nearest."""
    if name not in (*WORLD_SIZE, "precision"):
        flag_of(name)


def check_names(names: Iterable[str]) -> None:
    """Raises `UserError` for a name that no job takes, and for two that say the same thing."""
    said: dict[str, str] = {}
    for name in names:
        check_name(name)
        thing = _thing(name)
        if thing in said:
            raise UserError(f"{said[thing]} and {name} say the same thing: vary one of them")
        said[thing] = name


def _thing(name: str) -> str:
    """What a name sets: the same for two names of one argument."""
    if name in WORLD_SIZE:
        return WORLD_SIZE[0]
    if name == "precision":
        return SWITCHES["--bf16"][0]
    flag = flag_of(name)
    return (VALUES.get(flag) or SWITCHES.get(flag) or (flag,))[0]


def known_names() -> Iterator[str]:
    """Every name that a job takes."""
    yield from (*WORLD_SIZE, *SHORT_NAMES, "precision")
    for flag in known_flags():
        yield flag.removeprefix("--").replace("-", "_")


def _precision(value: Option) -> list[str]:
    return list(precision(str(value)).all_flags)


def _boolean(name: str) -> str:
    flag = flag_of(name)
    if not isinstance(SWITCHES[flag][1], bool):
        raise UserError(f"{name}=False says not what instead: give the one that is meant, for example precision='bf16'")
    return flag


def _tokens(name: str, value: Option) -> list[str]:
    flag = flag_of(name)
    takes = arity(flag)
    if takes == "switch":
        if value is not True and value is not False:
            raise UserError(f"{name} is {value!r}: it takes True or False")
        return [flag] if value else []
    if not isinstance(value, (list, tuple)):
        return [flag, str(value)]
    if takes != "list":
        raise UserError(f"{name} is {value!r}: it takes one value (a sweep takes several)")
    return [flag, *map(str, value)]
