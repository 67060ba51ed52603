"""Copies of an operator's tensors, called in turn so that none finds its inputs in the cache.

In training, what an operator reads was written long before it, with gigabytes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

_MOST_COPIES = 256
# Of the free memory; the rest is for what the calls themselves allocate.
_SHARE_OF_MEMORY = 0.4
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE = 32 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Copies:
    """count: copies to call in turn. beyond_cache: whether a copy has left the cache when its turn comes again."""

    count: int
    beyond_cache: bool


def copies(call_bytes: float, cache_bytes: int, free_bytes: int | None) -> Copies:
    """As many as it takes for `cache_bytes` to pass between two turns of one copy, whose call moves `call_bytes`."""
    size = max(1.0, call_bytes)
    wanted = 1 + int(-(-cache_bytes // size))
    possible = _MOST_COPIES if free_bytes is None else max(1, int(_SHARE_OF_MEMORY * free_bytes / size))
    count = min(wanted, possible, _MOST_COPIES)
    # One call that moves several times the cache leaves nothing of its own inputs in it.
    return Copies(count, count >= wanted or (count == 1 and size >= 4 * cache_bytes))


class Rotation(Generic[T]):
    """Things in turn, from the first again after the last."""

    def __init__(self, things: Sequence[T]) -> None:
        self._things = things
        self._next = 0

    def take(self, count: int) -> list[T]:
        """The next `count`."""
        taken = [self._things[(self._next + i) % len(self._things)] for i in range(count)]
        self._next = (self._next + count) % len(self._things)
        return taken


def last_level_cache(caches: Path = _CACHES, read: Callable[[Path], str] = Path.read_text) -> int:
    """Bytes of the processor's largest cache; 32 MiB where the system does not say."""
    sizes = [_bytes(read(path).strip()) for path in caches.glob("index*/size")] if caches.is_dir() else []
    return max(sizes, default=0) or _UNKNOWN_CACHE


def _bytes(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    number = text.rstrip("KMG")
    return int(number) << units.get(text[len(number) :], 0) if number.isdigit() else 0
