"""``calibrate``: fit a device's cost surfaces, and a network, to measurement tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vtrain_sim.api.machine import machine_of
from vtrain_sim.calibration import exchanges as token_exchanges
from vtrain_sim.calibration import experts as expert_blocks
from vtrain_sim.calibration import latent_attention as latent
from vtrain_sim.calibration import network, scans, surfaces
from vtrain_sim.calibration.result import CalibrationResult
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets

if TYPE_CHECKING:
    from vtrain_sim.api.catalog import Catalog

# Fewer shapes leave tiles undetermined; they sharpen a bundled surface instead (project --run --cluster).
LEAST_GEMMS = 20


@dataclass(frozen=True)
class _Tables:
    """Tables of single operators, and which of their rows to use."""

    gemm: Path
    system: str
    source: str
    dtype: str
    products: dict[str, str]
    attention: Path | None
    in_layer_source: str
    attention_backward_ratio: float


def calibrate(
    *,
    device: str = "",
    compute_units: int = 0,
    gemm: str | Path | None = None,
    gemm_source: str = "",
    gemm_dtype: str = "",
    products: Mapping[str, str] | None = None,
    system: str = "",
    attention: str | Path | None = None,
    in_layer_source: str = "",
    attention_backward_ratio: float = 2.9,
    catalog: str | Path | Catalog | None = None,
    run: str | Sequence[str] = (),
    collectives: str | Path | None = None,
    collectives_source: str = "",
    exchanges: str | Path | None = None,
    experts: str | Path | None = None,
    latent_attention: str | Path | None = None,
    mamba: str | Path | None = None,
    ranks_per_node: int = 8,
    cluster: str | Path = "",
) -> CalibrationResult:
    """Fit GEMM tiles and waves, attention, memory-bound kinds or a network; gives sections of a preset as TOML.

    gemm: Parquet or CSV with m, n, k and duration_us or latency (ms); attention: with batch_size, isl, num_heads,
    head_dim, latency (ms); or run (one or several) of a catalog. system: of tables that name several, the one to use.
    products: element types narrower than 16 bits to fit products to, each with the word that gemm has for it.
    compute_units: streaming multiprocessors of the device. collectives: with collective, gpus, nodes, bytes,
    duration_us, measured on cluster. exchanges: of tokens with their experts (DeepEP's table, or one of NVLink
    all-to-all), measured on cluster by nodes of ranks_per_node. experts: whole blocks of a rank's experts, of the rows
    that products, gemm_source and system choose, on a device whose plain products are calibrated. latent_attention:
    with batch_size, seq_length, num_heads, dtype, duration_us, on a device whose attention is calibrated. mamba:
    calls of Mamba2 scans and convolutions, of the rows of system, on device. in_layer_source: source of gemm that was
    timed inside a running layer; attention_backward_ratio: time of attention backward over forward. Raises
    `UserError`.

    >>> import vtrain as vt
    >>> vt.calibrate(collectives="collectives.csv", cluster="dgx-a100-80gb").summary()["sections"]
    'intra_node'
    """
    sections: list[CalibrationResult] = []
    runs = [run] if isinstance(run, str) and run else list(run)
    if collectives is not None:
        sections += _network(Path(collectives), collectives_source, system, str(cluster))
    if exchanges is not None:
        sections.append(_exchanges(Path(exchanges), system, str(cluster), ranks_per_node))
    if experts is not None:
        sections.append(_experts(device, Path(experts), gemm_source, system, dict(products or {})))
    if latent_attention is not None:
        sections.append(_latent_attention(device, Path(latent_attention), system))
    if mamba is not None:
        sections.append(_mamba(device, Path(mamba), system))
    if gemm is not None or runs:
        if not device or not compute_units:
            raise UserError("fitting a device takes --device and --compute-units (108 for A100, 132 for H100)")
        if runs:
            sections.append(_profile(device, compute_units, catalog, runs))
        elif gemm is not None:
            tables = _Tables(
                Path(gemm),
                system,
                gemm_source,
                gemm_dtype,
                dict(products or {}),
                Path(attention) if attention else None,
                in_layer_source,
                attention_backward_ratio,
            )
            sections.append(_operators(device, compute_units, tables))
    elif not sections:
        raise UserError(
            "nothing to fit to: give --gemm, --catalog and --run, --collectives, --exchanges, --experts, "
            "--latent-attention, or --mamba"
        )
    return CalibrationResult(
        "".join(s.toml for s in sections),
        tuple(line for s in sections for line in s.report),
        tuple(row for s in sections for row in s.collectives),
    )


def _network(path: Path, source: str, system: str, cluster: str) -> list[CalibrationResult]:
    if not cluster:
        raise UserError("--collectives needs --cluster: its number of GPUs per node is needed")
    spec = machine_of(cluster).cluster
    rows = network.read_collectives(path, source, system)
    intra, report = network.fit_intra_node(spec, rows)
    fitted = replace(spec, intra_node=intra)
    inside = tuple(network.beside_fit(fitted, [row for row in rows if row.nodes == 1]))
    fits = [CalibrationResult(network.network_toml("intra_node", intra) + "\n", (report,), inside)]
    if any(row.nodes > 1 for row in rows):
        inter, report = network.fit_inter_node(fitted, rows)
        between = network.beside_fit(replace(fitted, inter_node=inter), [row for row in rows if row.nodes > 1])
        fits.append(CalibrationResult(network.network_toml("inter_node", inter) + "\n", (report,), tuple(between)))
    return fits


def _experts(device: str, path: Path, source: str, system: str, products: dict[str, str]) -> CalibrationResult:
    if not device or not products:
        raise UserError("--experts takes --device, whose plain products are calibrated, and --product for each type")
    tables = {dtype: expert_blocks.read_experts(path, word, source, system) for dtype, word in products.items()}
    preset = Surfaces.from_dict(presets.device_surfaces(device))
    fit = expert_blocks.fit_experts(presets.device(device), preset, tables)
    lines = [f'"grouped_gemm/{dtype}" = {share:g}' for dtype, share in fit.efficiency.items()]
    overhead = f'"grouped_gemm" = {fit.overhead_s:g}'
    toml = "\n".join(["[surfaces.efficiency]", *lines, "", "[surfaces.overhead_s]", overhead]) + "\n"
    return CalibrationResult(toml, fit.report)


def _latent_attention(device: str, path: Path, system: str) -> CalibrationResult:
    if not device:
        raise UserError("--latent-attention takes --device, whose attention is calibrated")
    preset = Surfaces.from_dict(presets.device_surfaces(device))
    rates, report = latent.fit_latent_attention(presets.device(device), preset, path, system)
    lines = [f'"{size}" = {rate:g}' for size, rate in rates.items()]
    return CalibrationResult("\n".join(["[surfaces.head_dim]", *lines]) + "\n", (report,))


def _mamba(device: str, path: Path, system: str) -> CalibrationResult:
    if not device:
        raise UserError("--mamba takes --device")
    fit = scans.fit_scans(presets.device(device), scans.read_scans(path, system))
    lines = []
    for name in ("efficiency", "overhead_s", "sigma"):
        lines += [f"[surfaces.{name}]", *(f'"{key}" = {value:g}' for key, value in getattr(fit, name).items()), ""]
    return CalibrationResult("\n".join(lines), fit.report)


def _exchanges(path: Path, system: str, cluster: str, ranks_per_node: int) -> CalibrationResult:
    if not cluster:
        raise UserError("--exchanges needs --cluster: the latencies of its networks are needed")
    rates, report = token_exchanges.fit_exchanges(
        machine_of(cluster).cluster, token_exchanges.read_exchanges(path, system, ranks_per_node)
    )
    toml = "".join(f"[{level}]\nexchange_bandwidth = {rate:.4g}\n\n" for level, rate in rates.items())
    return CalibrationResult(toml, report)


def _operators(device: str, units: int, tables: _Tables) -> CalibrationResult:
    spec = presets.device(device)
    rows = surfaces.read_gemms(tables.gemm, tables.source, tables.dtype, tables.system)
    fit = surfaces.fit_gemms(spec, units, rows)
    fitted, report = fit.surfaces, list(fit.report)
    for dtype, rows_of in tables.products.items():
        rows = surfaces.read_gemms(tables.gemm, tables.source, rows_of, tables.system)
        low = surfaces.fit_gemms(spec, units, rows, dtype)
        sigma = {**fitted.sigma, f"gemm/{dtype}": low.surfaces.sigma["gemm"]}
        fitted = replace(fitted, gemm={**fitted.gemm, **low.surfaces.gemm}, sigma=sigma)
        report += low.report
    if tables.in_layer_source:
        rows = surfaces.read_gemms(tables.gemm, tables.in_layer_source)
        factor = surfaces.in_layer_factor(spec, fitted, rows)
        fitted = replace(fitted, efficiency={**fitted.efficiency, "gemm": round(1 / factor, 4)})
        report.append(f"gemm inside a running layer: {factor:.3f} of the time alone")
    if tables.attention is not None:
        fit = surfaces.fit_attention(spec, fitted, surfaces.read_attention(tables.attention, tables.system))
        fitted = fit.surfaces
        report += fit.report
        backward = fitted.efficiency["attention/forward"] * 2 / tables.attention_backward_ratio
        fitted = replace(fitted, efficiency={**fitted.efficiency, "attention/backward": round(backward, 4)})
    return CalibrationResult(surfaces.to_toml(fitted), tuple(report))


def _profile(device: str, units: int, catalog: str | Path | Catalog | None, runs: Sequence[str]) -> CalibrationResult:
    from vtrain_sim import catalog as indexed
    from vtrain_sim.costs.profile import load_profile

    if catalog is None:
        raise UserError("--run needs --catalog: the file that vtrain-catalog add made")
    path = Path(catalog) if isinstance(catalog, (str, Path)) else catalog.path
    profile = load_profile(indexed.Catalog(path), runs)
    spec = presets.device(device)
    told = profile.configuration
    dtype = told.train.params_dtype if told is not None else surfaces.usual_dtype(profile.operators)
    gemms, rates = surfaces.from_profile(profile.operators, dtype)
    if len(gemms) < LEAST_GEMMS:
        raise UserError(
            f"the profile has {len(gemms)} forward GEMM shapes of {surfaces.SMALLEST} or more in every dimension; a "
            f"surface takes {LEAST_GEMMS} (vtrain-profile ops measures more). Fewer sharpen a bundled one: "
            "vtrain-sim project --run and --cluster together"
        )
    fit = surfaces.fit_gemms(spec, units, gemms, dtype)
    memory_bound = {kind: round(rate / spec.memory_bandwidth, 4) for kind, rate in rates.items()}
    fitted = replace(fit.surfaces, efficiency={**fit.surfaces.efficiency, **memory_bound})
    return CalibrationResult(surfaces.to_toml(fitted), tuple(fit.report))
