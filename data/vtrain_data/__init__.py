"""Presets and calibrated coefficients that ship with vtrain. Data only: no code imports from here."""
