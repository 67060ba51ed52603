"""The DuckDB catalog of profiles: index, check, query. Parquet stays where it is."""

from vtrain_sim.catalog.catalog import AddReport, Catalog, CatalogError
from vtrain_sim.catalog.problems import Problem

__all__ = ["AddReport", "Catalog", "CatalogError", "Problem"]
