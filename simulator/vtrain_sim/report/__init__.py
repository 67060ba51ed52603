"""Renders results; computes nothing. One renderer per medium, each for any result."""
