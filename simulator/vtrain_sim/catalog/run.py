"""A run of a catalog, named."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.catalog.catalog import Catalog


@dataclass(frozen=True)
class CapturedRun:
    """A captured run, as something to compare with (`vtrain.compare`).

    >>> import vtrain as vt
    >>> vt.Catalog("vtrain.duckdb").captured("base").run_id
    'base'
    """

    catalog: Catalog
    run_id: str
