"""The table of a device, and that of its cost surfaces, in presets and in users' files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields

from vtrain_schemas.operators import ELEMENT_TYPES, Family, kinds
from vtrain_sim.errors import nearest
from vtrain_sim.file_table import FileTable
from vtrain_sim.specs.checks import Range, SpecError
from vtrain_sim.specs.cluster import DeviceSpec

_PHASES = ("forward", "backward", "recompute", "dgrad", "wgrad")
# Coefficients of kernels that are part of an operator.
_PARTS = ("batched gemm", "unaligned batched gemm", "unfused attention")
_SECONDS, _SIGMA = Range(0.0, 1e4), Range(0.0, 5.0)
# A product reaches at most its peak, but for the clock that the peak is of; a small tensor comes from cache.
_SHARE, _OF_PEAK, _OF_MEMORY = Range(1e-6, 1.0), Range(1e-6, 1.2), Range(1e-6, 4.0)
_NUMBERS = {
    "compute_units": Range(0, 1_000_000, whole=True),
    "half_seq": Range(0.0, 1e6),
    "half_dim": Range(0.0, 1e6),
    "launch_s": _SECONDS,
    "step_sigma": _SIGMA,
}
_BY_KIND = ("efficiency", "overhead_s", "host_s", "host_each_s", "sigma")
_EDGE = Range(1, 1 << 20, whole=True)


def device_from_table(table: object) -> DeviceSpec:
    """A device, from its table; `source` says where its numbers are from. Raises `SpecError`."""
    names = [f.name for f in fields(DeviceSpec)]
    values = dict(check_table("device", table, [*names, "source"], ("name", "peak_flops", *names[2:4])))
    values.pop("source", None)
    if not isinstance(values["name"], str) or not values["name"]:
        raise SpecError(f"name of the device is {values['name']!r}: it takes a text")
    check_table("peak_flops", values["peak_flops"], ELEMENT_TYPES, ())
    if not values["peak_flops"]:
        raise SpecError("peak_flops has no entry: it takes FLOP/s by type, for example bfloat16 = 312e12")
    called = values.get("cuda_names", ())
    if not isinstance(called, (list, tuple)) or not all(isinstance(name, str) for name in called):
        raise SpecError(f"cuda_names of device {values['name']} is {called!r}: it takes a list of texts")
    if not isinstance(values.get("modelled_only", False), bool):
        raise SpecError(f"modelled_only of device {values['name']} takes true or false")
    return DeviceSpec(**{**values, "cuda_names": tuple(called)})


def check_surfaces(table: object) -> FileTable:
    """The table of a device's cost surfaces, every number of it checked. Raises `SpecError`."""
    surfaces = check_table("surfaces", table, (*_NUMBERS, *_BY_KIND, "gemm", "head_dim"), ())
    for entry, allowed in _NUMBERS.items():
        if entry in surfaces:
            allowed.check(f"surfaces.{entry}", surfaces[entry])
    for entry in _BY_KIND:
        for name, value in check_table(f"surfaces.{entry}", surfaces.get(entry, {}), None, ()).items():
            _check_name(f"surfaces.{entry}", name)
            allowed = {"overhead_s": _SECONDS, "host_s": _SECONDS, "host_each_s": _SECONDS, "sigma": _SIGMA}.get(
                entry
            ) or _efficiency(name)
            allowed.check(f"surfaces.{entry}.{name}", value)
    for size, rate in check_table("surfaces.head_dim", surfaces.get("head_dim", {}), None, ()).items():
        if not str(size).isdigit():
            raise SpecError(f"surfaces.head_dim has {size!r}: it takes head dimensions")
        _OF_MEMORY.check(f"surfaces.head_dim.{size}", rate)
    for dtype, product in check_table("surfaces.gemm", surfaces.get("gemm", {}), ELEMENT_TYPES, ()).items():
        _check_product(f"surfaces.gemm.{dtype}", product)
    return surfaces


def check_table(what: str, table: object, known: Collection[str] | None, needed: Collection[str]) -> FileTable:
    """A table of a file; raises `SpecError` for what is none, for an entry that is not known, for one that lacks."""
    if not isinstance(table, Mapping):
        raise SpecError(f"{what} is {table!r}: it takes a table")
    for name in table:
        if known is not None and name not in known:
            raise SpecError(f"{what} has an unknown entry {name!r}{nearest(str(name), known)}")
    missing = [name for name in needed if name not in table]
    if missing:
        raise SpecError(f"{what} does not say {', '.join(missing)}")
    return table


def _check_product(what: str, table: object) -> None:
    product = check_table(what, table, ("tiles", "wave_s"), ("tiles",))
    _SECONDS.check(f"{what}.wave_s", product.get("wave_s", 0.0))
    tiles = product["tiles"]
    if not isinstance(tiles, list) or not tiles:
        raise SpecError(f"{what}.tiles is {tiles!r}: it takes a list of tiles, each with m, n and efficiency")
    for number, each in enumerate(tiles, 1):
        tile = check_table(f"{what}, tile {number}", each, ("m", "n", "efficiency"), ("m", "n", "efficiency"))
        for entry, allowed in (("m", _EDGE), ("n", _EDGE), ("efficiency", _SHARE)):
            allowed.check(f"{what}, tile {number}: {entry}", tile[entry])


def _check_name(what: str, name: str) -> None:
    """Coefficients go by "kind", "kind/phase" or "kind/dtype"."""
    kind, slash, rest = str(name).partition("/")
    known = [*(k.name for k in kinds()), *_PARTS]
    if kind not in known:
        raise SpecError(f"{what} has an unknown entry {name!r}{nearest(kind, known)}: it takes kinds of operators")
    if slash and rest not in (*_PHASES, *ELEMENT_TYPES):
        raise SpecError(f"{what} has an unknown entry {name!r}: after the kind it takes a phase or an element type")


def _efficiency(name: str) -> Range:
    # Of a grouped product, the rate over that of a plain one; of others, over the peak.
    products = [k.name for k in kinds() if k.family in (Family.MATRIX_PRODUCT, Family.ATTENTION) and not k.routed]
    return _OF_PEAK if name.partition("/")[0] in (*products, *_PARTS) else _OF_MEMORY
