"""Arms the capture: now if Megatron-Core's schedules are imported, else when they will be.

Importing the plugin must not import torch or Megatron: an environment variable may arm it in
processes that never train.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.settings import Settings, SettingsError

if TYPE_CHECKING:
    from vtrain_plugin.capture.session import Session

SCHEDULES = "megatron.core.pipeline_parallel.schedules"

_session: Session | None = None
_finder: _AfterImport | None = None


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls back once the schedules module has been executed."""

    def __init__(self) -> None:
        self._busy = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != SCHEDULES or self._busy:
            return None
        self._busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy = False
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if _session is not None:
                _session.attach(module)

        loader.exec_module = exec_module
        return spec


def arm(settings: Settings) -> Session | None:
    """Create the process's session; a second call returns the first one's."""
    global _session, _finder
    if _session is not None and not _session.finished:
        return _session
    from vtrain_plugin.capture.session import Session

    _session = Session(settings)
    module = sys.modules.get(SCHEDULES)
    if module is not None:
        _session.attach(module)
    elif _finder is None:
        _finder = _AfterImport()
        sys.meta_path.insert(0, _finder)
    return _session


def disarm() -> None:
    """Close the session and take the import hook out."""
    global _session, _finder
    if _session is not None:
        _session.close()
    _session = None
    if _finder is not None:
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        _finder = None


def arm_from_environment() -> None:
    """For ``VTRAIN_OUT``: arm if this looks like a training process; report bad settings once."""
    try:
        arm(Settings.from_environment())
    except SettingsError as error:
        report(f"capture not started: {error}")
    except Exception as error:
        report(f"capture not started: {type(error).__name__}: {error}")
