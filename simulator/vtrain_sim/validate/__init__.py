"""Projections beside what was measured: published tables, captured steps."""
