"""``flags`` and ``presets``: what is known by name."""

from __future__ import annotations

from vtrain_sim.inputs import listing
from vtrain_sim.results import Table


def flags(treatment: str = "", word: str = "") -> Table:
    """Megatron's arguments: what follows each, what is done with it, and what it sets or asks for.

    treatment: read, approximated, ignored or refused. word: part of the names. Raises `UserError`.
    """
    return Table("flags", listing.flags(treatment, word))


def presets(kind: str = "", word: str = "") -> Table:
    """The presets: models, devices and clusters. word: part of the names. Raises `UserError`."""
    return Table("presets", listing.named_presets(kind, word))
