"""Results as JSON."""

from __future__ import annotations

import json

import numpy as np

from vtrain_sim.results import Result


class JsonRenderer:
    """The machine-readable document of a result."""

    name = "json"

    def render(self, result: Result) -> str:
        """Indented JSON."""
        return json.dumps(result.document(), indent=2, default=_plain) + "\n"


def _plain(value: object) -> object:
    """numpy's numbers as numbers; a value that JSON has no type for (a date, bytes) as text."""
    return value.item() if isinstance(value, np.generic) else str(value)
