"""Fits coefficients to measurements: surfaces of a device, networks, whole training steps."""
