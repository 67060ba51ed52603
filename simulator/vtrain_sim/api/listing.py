"""``flags`` and ``presets``: what is known by name."""

from __future__ import annotations

from vtrain_sim.inputs import listing
from vtrain_sim.results import Listing


def flags(treatment: str = "", word: str = "") -> Listing:
    """Megatron's arguments: what follows each, what is done with it, and what it sets or asks for.

    treatment: read, approximated, ignored or refused. word: part of the names. Raises `UserError`.
    """
    return Listing("flags", listing.flags(treatment, word), "arguments of Megatron", "treatment")


def presets(kind: str = "", word: str = "") -> Listing:
    """The presets: models, devices and clusters. word: part of the names. Raises `UserError`."""
    return Listing("presets", listing.named_presets(kind, word), "presets", "kind")
