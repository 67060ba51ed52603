"""Pictures. Needs matplotlib, which ``pip install vtrain[report]`` brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtrain_sim.errors import UserError
from vtrain_sim.whole_file import write_file

_FORMATS = (".png", ".svg", ".pdf")


def new_figure(path: Path, width: float = 6.4, height: float = 6.0) -> tuple[Any, Any]:
    """A figure and its axes, to be saved at `path`. Raises `UserError` for a format or library that is missing."""
    if path.suffix not in _FORMATS:
        raise UserError(f"{path} is no picture that can be drawn: give a name that ends in {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"there is no directory {path.parent}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'vtrain[report]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Any, path: Path) -> None:
    """Write the picture whole or not at all."""
    write_file(path, lambda stream: figure.savefig(stream, dpi=150, format=path.suffix[1:]))


def scatter(path: Path, points: dict[str, list[tuple[float, float]]]) -> None:
    """Projected over measured seconds, one colour a file, with the diagonal and lines at 10% from it."""
    figure, axes = new_figure(path)
    everything = [value for pairs in points.values() for pair in pairs for value in pair]
    low, high = min(everything) * 0.8, max(everything) * 1.25
    axes.plot([low, high], [low, high], color="black", linewidth=1)
    for factor in (0.9, 1.1):
        axes.plot([low, high], [low * factor, high * factor], color="grey", linewidth=0.8, linestyle="--")
    for name, pairs in points.items():
        measured, projected = zip(*pairs, strict=True)
        axes.scatter(measured, projected, s=16, alpha=0.7, label=f"{name} ({len(pairs)})")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        xlabel="measured iteration time (s)",
        ylabel="projected iteration time (s)",
    )
    axes.legend(fontsize=8, title="dashed: 10% off")
    save(figure, path)
