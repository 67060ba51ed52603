"""NVTX ranges under the domain ``vtrain``, with the names of the spans."""

from __future__ import annotations

from typing import Protocol


class Ranges(Protocol):
    """Marks ranges for another profiler."""

    def push(self, name: str) -> object:
        """Begin a range; the handle that ends it."""
        ...

    def pop(self, handle: object) -> None:
        """End a range."""
        ...


class NoRanges:
    """Where NVTX is off or not installed."""

    def push(self, name: str) -> None:
        return None

    def pop(self, handle: object) -> None:
        pass


class NvtxRanges:
    """Start/end ranges (not push/pop): backward spans may end in another order than they began."""

    def __init__(self) -> None:
        import nvtx

        self._domain = nvtx.get_domain("vtrain")
        self._attributes: dict[str, object] = {}

    def push(self, name: str) -> object:
        attributes = self._attributes.get(name)
        if attributes is None:
            attributes = self._domain.get_event_attributes(message=name)
            self._attributes[name] = attributes
        handle: object = self._domain.start_range(attributes)
        return handle

    def pop(self, handle: object) -> None:
        self._domain.end_range(handle)


def choose_ranges(wanted: bool) -> Ranges:
    """NVTX where wanted and installed."""
    if not wanted:
        return NoRanges()
    try:
        return NvtxRanges()
    except ImportError:
        return NoRanges()
