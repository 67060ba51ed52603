"""The adapters that are known: registered ones, those of the entry-point group, and ours."""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import cache

from vtrain_plugin.adapters.base import Adapter
from vtrain_plugin.capture.guard import report

GROUP = "vtrain.adapters"
_OURS = ("vtrain_plugin.adapters.megatron.adapter:MegatronAdapter",)

_registered: dict[str, type[Adapter]] = {}


class UnknownAdapterError(ValueError):
    """No adapter of that name; the message says which there are."""


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Make an adapter known, before those of the same name; usable as a decorator."""
    _registered[adapter.name] = adapter
    return adapter


def unregister(name: str) -> None:
    """Forget an adapter that was registered."""
    _registered.pop(name, None)


def get(name: str) -> type[Adapter]:
    """The adapter of a framework, by its name; raises `UnknownAdapterError`."""
    adapters = known()
    if name not in adapters:
        raise UnknownAdapterError(f"there is no adapter {name!r}: known are {', '.join(adapters)}")
    return adapters[name]


def known() -> dict[str, type[Adapter]]:
    """All adapters by name, in the order in which they are looked for: registered, of entry points, ours."""
    adapters = dict(_registered)
    for adapter in _packaged():
        adapters.setdefault(adapter.name, adapter)
    return adapters


@cache
def _packaged() -> tuple[type[Adapter], ...]:
    """Adapters of entry points, then ours."""
    external = (_load(point) for point in importlib.metadata.entry_points(group=GROUP))
    return (*(adapter for adapter in external if adapter is not None), *map(_import, _OURS))


def _import(place: str) -> type[Adapter]:
    module, _, name = place.partition(":")
    adapter: type[Adapter] = getattr(importlib.import_module(module), name)
    return adapter


def _load(point: importlib.metadata.EntryPoint) -> type[Adapter] | None:
    """The adapter of an entry point; None, and a report, where it cannot be imported."""
    try:
        adapter: type[Adapter] = point.load()
    except Exception as error:
        report(f"the adapter {point.name!r} ({point.value}) cannot be used: {type(error).__name__}: {error}")
        return None
    return adapter
