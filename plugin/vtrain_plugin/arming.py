"""Arms the capture: now if a known framework is imported, else when one will be.

Importing the plugin must import neither torch nor a framework: an environment variable may arm it in
processes that never train.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from vtrain_plugin.adapters import Adapter, known
from vtrain_plugin.capture.guard import report
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.settings import Settings, SettingsError

_session: Session | None = None
_finder: _AfterImport | None = None


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls back once one of some modules has been executed. callbacks: by the module's name."""

    def __init__(self, callbacks: Mapping[str, Callable[[], None]]) -> None:
        self._callbacks = callbacks
        self._busy = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        callback = self._callbacks.get(fullname)
        if callback is None or self._busy:
            return None
        self._busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy = False
        if spec is None or spec.loader is None:
            return None
        loader = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            callback()

        try:
            loader.exec_module = exec_module  # type: ignore[method-assign]
        except AttributeError:
            report(f"capture not started: {fullname} is imported by a loader that takes no attributes")
            return None
        return spec


def arm(settings: Settings, certain: bool = True) -> Session | None:
    """Create the process's session; a second call returns the first one's. Raises `SettingsError`.

    certain: whether this process is to train, and not only some of its children.
    """
    global _session, _finder
    if _session is not None and not _session.finished:
        return _session
    try:
        _session = Session(settings, tuple(known()), certain)
    except ValueError as error:
        raise SettingsError(f"at is {settings.at!r}: {error}") from None
    adapters = known().values()
    imported = next((adapter for adapter in adapters if adapter.detect()), None)
    if imported is not None:
        _session.attach(imported())
    elif _finder is None:
        _finder = _AfterImport({adapter.trigger: _attacher(adapter) for adapter in adapters})
        sys.meta_path.insert(0, _finder)
    return _session


def arm_instead(settings: Settings) -> Session | None:
    """The same, in place of what the environment armed when the interpreter started."""
    global _session
    if _session is not None and not _session.certain:
        _session.cancel()
        _session = None
    return arm(settings)


def _attacher(adapter: type[Adapter]) -> Callable[[], None]:
    """Attaches the session of the time to an adapter that has just been imported."""

    def attach() -> None:
        session = _session
        if session is not None:
            session.guard.run(lambda: session.attach(adapter()))

    return attach


def disarm() -> None:
    """Close the session and take the import hook out. Never raises."""
    global _session, _finder
    if _session is not None:
        try:
            _session.close()
        except Exception as error:
            report(f"while switching off: {type(error).__name__}: {error}")
    _session = None
    if _finder is not None:
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        _finder = None


def arm_from_environment() -> None:
    """For ``VTRAIN_OUT``: arm if this looks like a training process; report bad settings once."""
    try:
        arm(Settings.from_environment(), certain=False)
    except SettingsError as error:
        report(f"capture not started: {error}")
    except Exception as error:
        report(f"capture not started: {type(error).__name__}: {error}")
