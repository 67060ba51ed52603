"""What a catalog refuses."""

from __future__ import annotations

from vtrain_sim.errors import UserError


class CatalogError(UserError):
    """A catalog operation that cannot be done; the message says why."""
