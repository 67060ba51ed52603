"""The DuckDB catalog of profiles: index, check, query. Parquet stays where it is."""

from vtrain_sim.catalog.catalog import Catalog
from vtrain_sim.catalog.errors import CatalogError
from vtrain_sim.catalog.problems import Problem
from vtrain_sim.catalog.querying import Limits
from vtrain_sim.catalog.reports import AddReport

__all__ = ["AddReport", "Catalog", "CatalogError", "Limits", "Problem"]
