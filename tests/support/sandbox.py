"""Whether launch scripts can be run here: the kernel may not allow user namespaces, in a container for example."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from vtrain_sim.inputs.script_run.run import NoSandboxError, Script, run_script


@cache
def why_none() -> str:
    """Why scripts cannot be run; empty where they can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_script(Script.of(Path(folder, "x.sh"), "true\n"))
        except NoSandboxError as error:
            return str(error)
    return ""


needs_sandbox = pytest.mark.skipif(bool(why_none()), reason=f"scripts cannot be run here: {why_none()}")
