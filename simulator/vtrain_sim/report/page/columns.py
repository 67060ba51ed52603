"""Columns of tables: their titles, and units in which their numbers read well."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vtrain_sim.results import Document, Row, columns_of

FLAGS = "megatron_args"
# Six digits are more than any of the numbers deserves.
_DIGITS = 6
_HOURS = "h"
_SECONDS = ((7200.0, 1 / 3600, _HOURS), (0.1, 1.0, "s"), (1e-4, 1e3, "ms"), (0.0, 1e6, "µs"))
_BYTES = ((2.0**29, 2.0**-30, "GiB"), (2.0**19, 2.0**-20, "MiB"), (2.0**9, 2.0**-10, "KiB"), (0.0, 1.0, "B"))
_COUNTS = ((1e14, 1e-12, "trillion"), (1e8, 1e-9, "billion"), (0.0, 1.0, ""))
_RATES = ((1e8, 1e-9, "GB/s"), (1e5, 1e-6, "MB/s"), (0.0, 1.0, "B/s"))
_PER_CENT = ((0.0, 100.0, "%"),)
_PLAIN = ((0.0, 1.0, ""),)
_SHARES = {
    *("mfu", "hfu", "share", "error", "mape", "median_ape", "bias", "p90", "coverage", "regret", "memory_mape"),
    *("deadline_satisfactory_ratio", "gpu_utilisation", "pairwise_order", "idle_share", "change"),
    *("fragmented_share", "stranded_share", "down_share"),
}
# Endings of names: the scale of such numbers, and what one is in the scale's own unit. The first that fits counts.
_ENDINGS = (
    ("_bytes_per_s", _RATES, 1.0),
    ("_per_s", ((0.0, 1.0, "/s"),), 1.0),
    ("_ns", _SECONDS, 1e-9),
    ("_s", _SECONDS, 1.0),
    ("_bytes", _BYTES, 1.0),
    ("_usd", ((0.0, 1.0, "US$"),), 1.0),
    ("_gb", ((0.0, 1.0, "GB"),), 1.0),
)
_WHOLE = {
    "bytes": (_BYTES, 1.0),
    "tokens": (_COUNTS, 1.0),
    "parameters": (_COUNTS, 1.0),
    "days": (((0.0, 1.0, "days"),), 1.0),
    "naive_days": (((0.0, 1.0, "days"),), 1.0),
}
_TITLES = {
    "num_gpus": "GPUs",
    "gpus": "GPUs",
    "mbs": "micro batch",
    "gbs": "global batch",
    "global_batch_size": "global batch",
    "mfu": "MFU",
    "hfu": "HFU",
    "mape": "mean error",
    "median_ape": "median error",
    "r2": "R²",
    "peak_bytes": "peak memory",
    "model_tflops_per_s_per_gpu": "model TFLOP/s per GPU",
    "tokens_per_s_per_gpu": "tokens/s per GPU",
    "deadline_satisfactory_ratio": "deadlines met",
    "gpu_utilisation": "GPUs in use",
    "mean_jct_s": "mean completion",
    "p95_jct_s": "p95 completion",
    "predicted_s": "projected",
    "predicted_memory_gb": "projected memory",
    "measured_memory_gb": "measured memory",
    "transfer_s": "transfer time",
    "fitted_s": "fitted time",
    "bus_bytes_per_s": "bus bandwidth",
    "fitted_bytes_per_s": "fitted bandwidth",
    "naive_days": "days at 100% MFU",
    FLAGS: "Megatron's flags",
}


Scale = tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Unit:
    """How numbers of a kind are written: `factor` times what they are in rows. bare: the name without the unit."""

    unit: str = ""
    factor: float = 1.0
    bare: str = ""


def table(rows: Sequence[Row], titles: Mapping[str, str] | None = None) -> Document:
    """Rows as columns, for the scripts of a page: {"count": rows, "columns": [...]}.

    A column has a name, a title, a kind (number, text, truth or flags) and values. Numbers are in the column's unit
    and rounded; None where there is none, or where it is not finite. Columns of one kind of number share a unit; those
    without any value are left out. Texts are places in ``words``, the list of the different ones; flags are lists of
    such places.
    """
    every = {name: [row.get(name) for row in rows] for name in columns_of(rows)}
    columns = {name: values for name, values in every.items() if not all(map(_is_empty, values))}
    units = _units(columns)
    return {
        "count": len(rows),
        "columns": [_encoded(name, values, units.get(name), titles or {}) for name, values in columns.items()],
    }


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, (str, list, tuple)) and not value)


def _units(columns: Mapping[str, Sequence[object]]) -> dict[str, Unit]:
    """The unit of each column that has numbers."""
    sizes: dict[Scale, list[float]] = {}
    scales: dict[str, tuple[Scale, float, str]] = {}
    for name, values in columns.items():
        if _has_numbers(values):
            scale, base, _ = scales[name] = _scale(name)
            numbers = [base * abs(float(value)) for value in values if value is not None]  # type: ignore[arg-type]
            sizes.setdefault(scale, []).extend(size for size in numbers if 0 < size < math.inf)
    return {name: _unit(scale, sizes[scale], base, bare) for name, (scale, base, bare) in scales.items()}


def _has_numbers(values: Sequence[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(_is_number(value) for value in known)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))


def _scale(name: str) -> tuple[Scale, float, str]:
    """Units for a column, what one in its rows is in the scale's own unit, and its name without the unit."""
    if name in _SHARES:
        return _PER_CENT, 1.0, name
    if name in _WHOLE:
        scale, base = _WHOLE[name]
        return scale, base, name
    for ending, scale, base in _ENDINGS:
        if name.endswith(ending):
            return scale, base, name[: -len(ending)]
    return _PLAIN, 1.0, name


def _unit(scale: Scale, sizes: Sequence[float], base: float, bare: str) -> Unit:
    """The unit in which the largest reads well; hours only where most are that long."""
    largest, usual = max(sizes, default=0.0), statistics.median(sizes) if sizes else 0.0
    reach = {_HOURS: usual}
    factor, unit = next((factor, unit) for least, factor, unit in scale if reach.get(unit, largest) >= least)
    return Unit(unit, factor * base, bare)


def _encoded(name: str, values: Sequence[object], unit: Unit | None, titles: Mapping[str, str]) -> Document:
    title = titles.get(name) or _TITLES.get(name) or (unit.bare if unit else name).replace("_", " ").strip() or name
    document: Document = {"name": name, "title": title}
    if unit is not None:
        numbers = [number(value, unit.factor) for value in values]
        return document | {"kind": "number", "unit": unit.unit, "factor": unit.factor, "values": numbers}
    if name == FLAGS:
        words: dict[str, int] = {}
        lists = [[words.setdefault(word, len(words)) for word in _words(value)] for value in values]
        return document | {"kind": "flags", "words": list(words), "values": lists}
    if all(isinstance(value, (bool, np.bool_)) for value in values if value is not None):
        return document | {"kind": "truth", "values": [None if value is None else bool(value) for value in values]}
    texts: dict[str, int] = {}
    places = [None if value is None else texts.setdefault(_text(value), len(texts)) for value in values]
    return document | {"kind": "text", "words": list(texts), "values": places}


def _words(value: object) -> list[str]:
    """A command line, or a list of arguments, cut before each flag."""
    text = value if isinstance(value, str) else ""
    first, *others = text.split(" --")
    return [word for word in (first, *(f"--{other}" for other in others)) if word]


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)


def number(value: object, factor: float = 1.0) -> float | int | None:
    """A number that JSON can hold, in another unit; None for what is none or not finite."""
    if value is None or isinstance(value, str):
        return None
    scaled = float(value) * factor  # type: ignore[arg-type]
    if not math.isfinite(scaled):
        return None
    rounded = float(f"{scaled:.{_DIGITS}g}")
    # Counts stay what they are.
    if factor == 1.0 and isinstance(value, (int, np.integer)):
        return int(value)
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded
