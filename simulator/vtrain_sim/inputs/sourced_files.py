"""Files that launch scripts read as a part of themselves (``source``)."""

from __future__ import annotations

import re

# Files that prepare the environment of a shell and say nothing of a training.
_PREPARES = re.compile(
    r"(activate|conda\.sh|mamba\.sh|\.bashrc|\.bash_profile|\.profile|/etc/.*|setvars\.sh|modules?(\.sh)?|/init/\w+"
    r"|set_env\.sh|\.env|env_vars\.sh)$"
)


def prepares_environment(name: str) -> bool:
    """Whether a file, by its name, prepares the environment of a shell, and says nothing of a training."""
    return _PREPARES.search(name) is not None
