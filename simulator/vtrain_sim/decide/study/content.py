"""The content of what a unit is computed from, as one digest: the same content, the same result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

# What computes a plan, and the figures that it computes with.
_COMPUTING = (
    *("vtrain_data", "vtrain_schemas"),
    *(f"vtrain_sim.{part}" for part in ("schedules", "specs", "model", "costs", "simulate", "inputs", "decide")),
)
_COMPILED = (".pyc", ".nbi", ".nbc")


def digest(*values: object) -> str:
    """SHA-256 of values as canonical JSON: specs by their fields, tables in the order of their names."""
    return hashlib.sha256(json.dumps([_plain(value) for value in values], sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        content = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {"": type(value).__name__, **content}
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(entry) for entry in value), key=repr)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


@cache
def simulator_digest() -> str:
    """SHA-256 of the simulator that computes here: its code, its coefficients and its data."""
    content = hashlib.sha256()
    for package in _COMPUTING:
        root = Path(str(import_module(package).__file__)).parent
        for path in sorted(p for p in root.rglob("*") if p.is_file() and p.suffix not in _COMPILED):
            data = path.read_bytes()
            content.update(f"{package}/{path.relative_to(root)} {len(data)}\n".encode())
            content.update(data)
    return content.hexdigest()
