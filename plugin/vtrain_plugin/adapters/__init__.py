"""Training frameworks that a capture can hook into."""

from vtrain_plugin.adapters.base import Adapter
from vtrain_plugin.adapters.registry import UnknownAdapterError, get, known, register, unregister

__all__ = ["Adapter", "UnknownAdapterError", "get", "known", "register", "unregister"]
