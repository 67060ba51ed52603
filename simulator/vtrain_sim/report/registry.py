"""The renderers by name: those that ship, those that were registered, and those of other packages.

Another package brings one with an entry point of the group ``vtrain.renderers`` whose value is a class without
arguments; or a program calls `register`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Protocol, cast

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.results import Result

GROUP = "vtrain.renderers"
_BUILT_IN = {
    "table": "vtrain_sim.report.terminal:TerminalRenderer",
    "json": "vtrain_sim.report.json:JsonRenderer",
    "csv": "vtrain_sim.report.files:CsvRenderer",
    "parquet": "vtrain_sim.report.files:ParquetRenderer",
    "markdown": "vtrain_sim.report.markdown:MarkdownRenderer",
    "html": "vtrain_sim.report.html:HtmlRenderer",
    "perfetto": "vtrain_sim.report.perfetto:PerfettoRenderer",
}


class Renderer(Protocol):
    """Renders any result into one medium. name: what `get` and ``--format`` call it."""

    @property
    def name(self) -> str:
        """Name of the medium."""
        ...

    def render(self, result: Result) -> str | bytes:
        """The result in this medium; text ends with a line break. Raises `UserError` where it has none."""
        ...


_registered: dict[str, Renderer] = {}


def register(renderer: Renderer) -> None:
    """Make a renderer known; one of the same name is replaced.

    >>> import vtrain as vt
    >>> class Shout:
    ...     name = "shout"
    ...
    ...     def render(self, result):
    ...         return repr(result).upper()
    >>> vt.register_renderer(Shout())
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> vt.render(vt.project(job), "shout")[:10]
    'PROJECTION'
    """
    _registered[renderer.name] = renderer


def get(name: str) -> Renderer:
    """The renderer of a name. Raises `UserError` for an unknown one, with the nearest."""
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        register(getattr(importlib.import_module(module), attribute)())
        return _registered[name]
    for point in entry_points(group=GROUP):
        if point.name == name:
            _registered[name] = cast(Renderer, point.load()())
            return _registered[name]
    raise UserError(f"there is no format {name!r}{nearest(name, names())}: known are {', '.join(names())}")


def names() -> list[str]:
    """Names of all renderers, those that ship first; other packages' are not loaded for it."""
    return list(dict.fromkeys((*_BUILT_IN, *_registered, *(point.name for point in entry_points(group=GROUP)))))
