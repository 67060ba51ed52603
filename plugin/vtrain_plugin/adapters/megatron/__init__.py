"""Megatron-Core. Everything here tolerates the absence of what it looks for in other versions."""
