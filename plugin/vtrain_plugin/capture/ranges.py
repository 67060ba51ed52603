"""NVTX ranges under the domain ``vtrain``, with the names of the spans."""

from __future__ import annotations

from typing import Any


class NoRanges:
    """Where NVTX is off or not installed."""

    def push(self, name: str) -> Any:
        return None

    def pop(self, handle: Any) -> None:
        pass


class NvtxRanges:
    """Start/end ranges (not push/pop): backward spans may end in another order than they began."""

    def __init__(self) -> None:
        import nvtx

        self._domain = nvtx.get_domain("vtrain")
        self._attributes: dict[str, Any] = {}

    def push(self, name: str) -> Any:
        attributes = self._attributes.get(name)
        if attributes is None:
            attributes = self._domain.get_event_attributes(message=name)
            self._attributes[name] = attributes
        return self._domain.start_range(attributes)

    def pop(self, handle: Any) -> None:
        self._domain.end_range(handle)


def choose_ranges(wanted: bool) -> NoRanges | NvtxRanges:
    """NVTX where asked for and installed."""
    if not wanted:
        return NoRanges()
    try:
        return NvtxRanges()
    except ImportError:
        return NoRanges()
