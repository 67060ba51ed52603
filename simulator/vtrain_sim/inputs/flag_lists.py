"""Megatron's arguments that are not read: those that do not matter, those that matter a little, those refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Refusal:
    """An argument of which no value, or only some values, are simulated."""

    flag: str
    arity: str
    """What follows the flag: "switch", "value" or "list"."""
    simulated: tuple[str, ...]
    """Values that change nothing."""
    what: str
    """What the other values ask for; may be empty."""

    def others(self, value: object) -> list[object]:
        """What is not simulated of the value of a configuration's field of the same name; nothing where it is off."""
        values = value if isinstance(value, (list, tuple)) and self.arity == "list" else [value]
        return [one for one in values if one and str(one) not in self.simulated]

    def sentence(self, value: str = "") -> str:
        """Why the argument is refused."""
        asked = f"{self.flag} {value}".rstrip()
        instead = f"it takes {' or '.join(self.simulated)}" if self.simulated else "leave it out"
        if not self.what:
            return f"{asked} changes the training step in a way that is not simulated: {instead}"
        return f"{asked} asks for {self.what}, which is not simulated: {instead}"


def _lines(name: str) -> list[str]:
    lines = (files("vtrain_data") / "megatron" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@cache
def ignored() -> dict[str, str]:
    """Arguments that change neither time nor memory: what follows each: "switch", "value" or "list"."""
    return dict(line.split() for line in _lines("arguments.txt"))


@cache
def numerics() -> frozenset[str]:
    """Arguments among the ignored that say what numbers the model computes."""
    return frozenset(_lines("numerics.txt"))


@cache
def approximated() -> dict[str, str]:
    """Arguments that change time or memory somewhat, which is not simulated: what follows each."""
    return dict(line.split() for line in _lines("approximated.txt"))


@cache
def refused() -> dict[str, Refusal]:
    """Arguments that change what a step does, in ways that are not simulated."""
    refusals = {}
    for line in _lines("refused.txt"):
        flag, arity, simulated, *what = line.split(maxsplit=3)
        values = () if simulated == "-" else tuple(simulated.split(","))
        refusals[flag] = Refusal(flag, arity, values, "".join(what))
    return refusals
