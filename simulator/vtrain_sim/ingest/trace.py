"""One rank's trace, whatever profiler wrote it: columns of events, before anything is derived from them.

Times are nanoseconds since the Unix epoch. -1 stands for "none" in every integer column.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.ingest.notes import Notes

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
# Input sizes, element types and values of an operator call, JSON.
Signature: TypeAlias = tuple[bytes, bytes, bytes]
_Value = TypeVar("_Value", bound=Hashable)

# Categories of host events, the outer one first where two have the same times.
RANGE, MODULE, OPERATOR = 0, 1, 2
# Categories of device events.
KERNEL, MEMCPY, MEMSET = 0, 1, 2


class Interned(Generic[_Value]):
    """Values that repeat, numbered in order of first use."""

    def __init__(self) -> None:
        self.numbers: dict[_Value, int] = {}

    def number(self, value: _Value) -> int:
        """The number of a value."""
        return self.numbers.setdefault(value, len(self.numbers))

    @property
    def values(self) -> list[_Value]:
        """The values, each at its number."""
        return list(self.numbers)


class Columns:
    """Integer columns of one kind of event, collected block by block."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._blocks: dict[str, list[Ints]] = {name: [] for name in names}

    def add(self, **columns: Ints) -> None:
        """Append a block; every column has the same length."""
        for name in self._names:
            self._blocks[name].append(np.asarray(columns[name], dtype=np.int64))

    def finish(self) -> Events:
        """All blocks together; they are given up."""
        columns = {}
        for name in self._names:
            blocks = self._blocks.pop(name)
            columns[name] = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.int64)
        return Events(columns)


class Events:
    """Columns of equal length, by name."""

    def __init__(self, columns: dict[str, Ints]) -> None:
        self.columns = columns

    def __getattr__(self, name: str) -> Ints:
        try:
            columns: dict[str, Ints] = self.__dict__["columns"]
            return columns[name]
        except KeyError:
            raise AttributeError(name) from None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, index: Ints | Bools) -> Events:
        """The rows that an index or a mask picks, in its order."""
        return Events({name: column[index] for name, column in self.columns.items()})


HOST = ("category", "name", "thread", "start", "duration", "sequence", "signature", "external")
LAUNCHES = ("thread", "start", "duration", "correlation")
DEVICE = ("category", "name", "start", "duration", "stream", "device", "correlation", "external", "bytes", "call")
GPU_RANGES = ("name", "start", "duration", "external", "device")
MEMORY = ("time", "thread", "gpu", "device", "sized", "bytes", "allocated", "reserved")
BESIDE = ("start", "duration", "device")
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Call:
    """What a profiler says of one collective or point-to-point call; "" and 0 where it does not."""

    op: str = ""
    dtype: str = ""
    elements: int = 0
    bytes: int = 0
    group_size: int = 0
    group: str = ""
    description: str = ""
    ranks: tuple[int, ...] = ()
    source: int = -1
    destination: int = -1


@dataclass
class Trace:
    """One process's events, all of them or those of a window of time. `host` holds ranges, modules and operators.

    signatures: what an operator's signature number stands for.
    calls: what the call numbers of device events mean.
    coordinates: place of the rank in its groups by column of the ranks table, as far as the trace says.
    dated: its times count from 1970; otherwise from an unknown moment.
    on_device: whether anything of the whole trace ran on a GPU. beside: compute kernels of other windows while kernels
    of this one run. end: of the window, ns.
    """

    source: str
    host: Events
    launches: Events
    device: Events
    gpu_ranges: Events
    memory: Events
    names: list[str]
    signatures: list[Signature]
    calls: list[Call]
    # Numbers of calls by host event of a communication library, for traces without kernels.
    host_calls: dict[int, int]
    rank: int
    world_size: int
    notes: Notes
    host_name: str = ""
    device_name: str = ""
    device_memory: int = 0
    devices: int = 0
    backend: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    coordinates: dict[str, int] = field(default_factory=dict)
    dated: bool = True
    on_device: bool = False
    beside: Events = field(default_factory=lambda: Columns(*BESIDE).finish())
    end: int = NEVER

    def __post_init__(self) -> None:
        self.on_device = self.on_device or len(self.device) > 0

    @property
    def is_last(self) -> bool:
        """Whether no window follows."""
        return self.end == NEVER
