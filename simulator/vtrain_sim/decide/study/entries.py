"""What a study file may say: `plan`'s options by their names, and which part of a request each decides.

An option that is new in `plan` is one line here.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.file_table import FileTable, SpecFields

# What an entry decides: a field of `Request`, of `Bounds`, an argument of `failures_given`, or something of the study.
REQUEST, BOUNDS, FAILURES, STUDY = "request", "bounds", "failures", "study"


def whole_number(value: object) -> int:
    """A whole number, also as a text or as 1e3. Raises `ValueError`."""
    figure = number(value)
    if figure != int(figure):
        raise ValueError
    return int(figure)


def number(value: object) -> float:
    """A finite number, also as a text: YAML reads 3e11 as one. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def whole_numbers(value: object) -> tuple[int, ...]:
    """One whole number or a list of them. Raises `ValueError`."""
    return tuple(whole_number(entry) for entry in (value if isinstance(value, list) else [value]))


def yes_or_no(value: object) -> bool:
    """True or false. Raises `ValueError`."""
    if not isinstance(value, bool):
        raise ValueError
    return value


def word(value: object) -> str:
    """A text. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError
    return value


def words(value: object) -> tuple[str, ...]:
    """A list of texts, or one with commas between. Raises `ValueError`."""
    return tuple(map(word, value)) if isinstance(value, list) else tuple(word(value).split(","))


def arguments(value: object) -> tuple[str, ...]:
    """Megatron's arguments: a list, or one text as in a shell. Raises `ValueError`."""
    return tuple(map(str, value)) if isinstance(value, list) else tuple(shlex.split(word(value)))


_TAKES: dict[Callable[[object], object], str] = {
    whole_number: "a whole number",
    number: "a number",
    whole_numbers: "a whole number, or a list of them",
    yes_or_no: "true or false",
    word: "a text",
    words: "a list of texts",
    arguments: "Megatron's arguments, as a list or a text",
}


@dataclass(frozen=True)
class Entry:
    """One entry. read: its value; part, field: what it decides; field "": the same name."""

    name: str
    read: Callable[[object], object]
    part: str
    field: str = ""

    def value(self, given: object) -> object:
        """The value as it is meant. Raises `UserError`."""
        try:
            return self.read(given)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{self.name} is {given!r}, which is not {_TAKES[self.read]}") from None


ENTRIES = (
    Entry("models", words, STUDY),
    Entry("clusters", words, STUDY),
    Entry("global_batch_sizes", whole_numbers, STUDY),
    Entry("flags", arguments, STUDY),
    Entry("top", whole_number, STUDY),
    Entry("price_per_gpu_hour", number, STUDY),
    Entry("num_gpus", whole_numbers, REQUEST),
    Entry("max_gpus", whole_number, REQUEST),
    Entry("train_tokens", number, REQUEST, "tokens"),
    Entry("rank_by", word, REQUEST),
    Entry("deadline_days", number, REQUEST),
    Entry("allow_tight", yes_or_no, REQUEST),
    Entry("max_tp", whole_number, BOUNDS),
    Entry("max_pp", whole_number, BOUNDS),
    Entry("max_dp", whole_number, BOUNDS),
    Entry("max_cp", whole_number, BOUNDS),
    Entry("max_ep", whole_number, BOUNDS),
    Entry("schedules", words, BOUNDS),
    Entry("search", words, BOUNDS, "choices"),
    Entry("exhaustive", yes_or_no, REQUEST),
    Entry("micro_batch_sizes", whole_numbers, BOUNDS, "micro_batches"),
    Entry("gpu_mtbf_hours", number, FAILURES, "mtbf_hours"),
    Entry("checkpoint_seconds", number, FAILURES, "checkpoint_s"),
    Entry("restart_seconds", number, FAILURES, "restart_s"),
    Entry("checkpoint_interval", number, FAILURES, "interval_s"),
)
# A unit has one of each.
_LISTS = ("models", "clusters", "global_batch_sizes")
_BY_NAME = {entry.name: entry for entry in ENTRIES}


@dataclass(frozen=True)
class Entries:
    """The entries of a study file, read. values: as they are meant, by name."""

    values: SpecFields

    @classmethod
    def read(cls, table: FileTable) -> Entries:
        """What a file says. Raises `UserError` for an unknown entry, with the nearest, and a value of another kind."""
        for name in table:
            if name not in _BY_NAME:
                raise UserError(
                    f"unknown entry {name!r}{nearest(str(name), _BY_NAME)}: known are {', '.join(_BY_NAME)}"
                )
        return cls({name: _BY_NAME[name].value(value) for name, value in table.items()})

    def of(self, part: str) -> SpecFields:
        """Fields of a part that the file decides."""
        chosen = [entry for entry in ENTRIES if entry.part == part and entry.name in self.values]
        return {entry.field or entry.name: self.values[entry.name] for entry in chosen}

    def listed(self, name: str) -> tuple[Any, ...]:
        """A list that must be there, with something in it. Raises `UserError`."""
        values: tuple[Any, ...] = self.values.get(name, ())
        if not values:
            raise UserError(f"it does not list its {name}")
        return values

    def names(self, part: str) -> list[str]:
        """Names of the entries of a part that the file has."""
        return [entry.name for entry in ENTRIES if entry.part == part and entry.name in self.values]

    def said(self) -> SpecFields:
        """What is said of all units."""
        return {name: value for name, value in self.values.items() if name not in _LISTS}
