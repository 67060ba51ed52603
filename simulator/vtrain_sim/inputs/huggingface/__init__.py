"""Reads a Hugging Face ``config.json`` into a model.

Fields that change a step in a way that is not simulated are refused; `left_out` names those that change it little.
"""

from vtrain_sim.inputs.huggingface.reader import known_types, left_out, read_config

__all__ = ["known_types", "left_out", "read_config"]
