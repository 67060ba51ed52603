"""Making and saving figures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from vtrain_sim.errors import UserError
from vtrain_sim.whole_file import check_place, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg", ".pdf")
_MISSING = "pictures need matplotlib: pip install matplotlib"


def check_name(path: Path | None) -> None:
    """Refuse a picture that could not be drawn or written when the work is done."""
    if path is None:
        return
    if path.suffix not in _FORMATS:
        raise UserError(f"{path} is no picture that can be drawn: give a name that ends in {', '.join(_FORMATS)}")
    check_place(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(_MISSING)


def new_figure(width: float = 6.4, height: float = 6.0) -> Figure:
    """An empty figure of so many inches. Raises `UserError` where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(_MISSING) from None
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write the picture whole or not at all."""
    write_file(path, lambda stream: figure.savefig(stream, dpi=150, format=path.suffix[1:]))
