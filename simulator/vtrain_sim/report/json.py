"""Results as JSON."""

from __future__ import annotations

import json
import math

import numpy as np

from vtrain_sim.results import Result


class JsonRenderer:
    """The machine-readable document of a result."""

    name = "json"

    def render(self, result: Result) -> str:
        """Indented JSON, as RFC 8259 has it: numbers that are none or endless are null."""
        try:
            return json.dumps(result.document(), indent=2, default=_plain, allow_nan=False) + "\n"
        except ValueError:
            return json.dumps(_finite(result.document()), indent=2, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    """numpy's numbers as numbers; a value that JSON has no type for (a date, bytes) as text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _finite(value: object) -> object:
    """The same with null in place of numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    plain = value if isinstance(value, float) else _plain(value)
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
