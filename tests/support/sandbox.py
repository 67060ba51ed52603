"""Whether launch scripts can be run here: the kernel may not allow user namespaces, in a container for example."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from vtrain_sim.inputs.script_run.run import NoSandboxError, run_script


@cache
def why_none() -> str:
    """Why scripts cannot be run; empty where they can."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "x.sh")
        script.write_text("true\n")
        try:
            run_script(script)
        except NoSandboxError as error:
            return str(error)
    return ""


needs_sandbox = pytest.mark.skipif(bool(why_none()), reason=f"scripts cannot be run here: {why_none()}")
