"""``vtrain-sim calibrate``: fit a device's cost surfaces, and a network, to measurement tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from vtrain_sim.errors import UserError

# Fewer shapes leave tiles undetermined; they sharpen a bundled surface instead (project --run --cluster).
LEAST_GEMMS = 20


def calibrate(
    device: str = typer.Option("", "--device", help="Device preset whose published peaks to use."),
    compute_units: int = typer.Option(0, min=0, help="Streaming multiprocessors of the device."),
    gemm: Path = typer.Option(None, "--gemm", help="Parquet or CSV with m, n, k and duration_us or latency (ms)."),
    gemm_source: str = typer.Option("", help="Use only the rows of this source."),
    gemm_dtype: str = typer.Option("", help="Use only the rows with this gemm_dtype."),
    fp8_gemm_dtype: str = typer.Option("", help="gemm_dtype of the rows of --gemm to fit 8-bit products to."),
    attention: Path = typer.Option(
        None, help="Parquet or CSV with batch_size, isl, num_heads, head_dim, latency (ms)."
    ),
    in_layer_source: str = typer.Option("", help="Source of --gemm that was timed inside a running layer."),
    attention_backward_ratio: float = typer.Option(2.9, min=1.0, help="Time of attention backward over forward."),
    catalog: Path = typer.Option(None, "--catalog", help="Fit to a profile of your own instead of tables."),
    run: list[str] = typer.Option([], "--run", help="Run in the catalog; repeat to pool several."),
    collectives: Path = typer.Option(
        None, "--collectives", help="Parquet or CSV with collective, gpus, nodes, bytes, duration_us."
    ),
    collectives_source: str = typer.Option("", help="Use only the rows whose source has this in it."),
    cluster: str = typer.Option("", "--cluster", help="Cluster preset or file that --collectives were measured on."),
) -> None:
    """Fit GEMM tiles and waves, attention, memory-bound kinds or a network; prints sections of a preset."""
    if collectives is not None:
        _network(collectives, collectives_source, cluster)
    if gemm is not None or run:
        if not device or not compute_units:
            raise UserError("fitting a device takes --device and --compute-units (108 for A100, 132 for H100)")
        if run:
            _profile(device, compute_units, catalog, run)
        else:
            _tables(
                device,
                compute_units,
                gemm,
                gemm_source,
                gemm_dtype,
                fp8_gemm_dtype,
                attention,
                in_layer_source,
                attention_backward_ratio,
            )
    elif collectives is None:
        raise UserError("nothing to fit to: give --gemm, --catalog and --run, or --collectives")


def _network(path: Path, source: str, cluster: str) -> None:
    from vtrain_sim.calibration import network as fitting
    from vtrain_sim.inputs.lookup import find_cluster

    if not cluster:
        raise UserError("--collectives needs --cluster: its number of GPUs a node is needed")
    machine = find_cluster(cluster)[0]
    rows = fitting.read_collectives(path, source)
    intra, report = fitting.fit_intra_node(machine, rows)
    print(report, file=sys.stderr)
    print(fitting.network_toml("intra_node", intra))
    if any(nodes > 1 for *_, nodes, _ in rows):
        inter, report = fitting.fit_inter_node(replace(machine, intra_node=intra), rows)
        print(report, file=sys.stderr)
        print(fitting.network_toml("inter_node", inter))


def _tables(
    device: str,
    units: int,
    gemm: Path,
    source: str,
    dtype: str,
    fp8: str,
    attention: Path | None,
    in_layer: str,
    ratio: float,
) -> None:
    from vtrain_sim.calibration import surfaces as fitting
    from vtrain_sim.inputs import presets

    spec = presets.device(device)
    fit = fitting.fit_gemms(spec, units, fitting.read_gemms(gemm, source, dtype))
    surfaces, report = fit.surfaces, list(fit.report)
    if fp8:
        low = fitting.fit_gemms(spec, units, fitting.read_gemms(gemm, source, fp8), "float8")
        sigma = {**surfaces.sigma, "gemm/float8": low.surfaces.sigma["gemm"]}
        surfaces = replace(surfaces, gemm={**surfaces.gemm, **low.surfaces.gemm}, sigma=sigma)
        report += low.report
    if in_layer:
        factor = fitting.in_layer_factor(spec, surfaces, fitting.read_gemms(gemm, in_layer))
        surfaces = replace(surfaces, efficiency={**surfaces.efficiency, "gemm": round(1 / factor, 4)})
        report.append(f"gemm inside a running layer: {factor:.3f} of the time alone")
    if attention is not None:
        fit = fitting.fit_attention(spec, surfaces, fitting.read_attention(attention))
        surfaces = fit.surfaces
        report += fit.report
        backward = surfaces.efficiency["attention/forward"] * 2 / ratio
        surfaces = replace(surfaces, efficiency={**surfaces.efficiency, "attention/backward": round(backward, 4)})
    for line in report:
        print(line, file=sys.stderr)
    print(fitting.to_toml(surfaces), end="")


def _profile(device: str, units: int, catalog: Path | None, run: list[str]) -> None:
    from vtrain_sim.calibration import surfaces as fitting
    from vtrain_sim.catalog import Catalog
    from vtrain_sim.costs import load_profile
    from vtrain_sim.inputs import presets

    if catalog is None:
        raise UserError("--run needs --catalog: the file that vtrain-catalog add made")
    profile = load_profile(Catalog(catalog), run)
    spec = presets.device(device)
    told = profile.configuration
    dtype = told.train.params_dtype if told is not None else fitting.usual_dtype(profile.operators)
    gemms, rates = fitting.from_profile(profile.operators, dtype)
    if len(gemms) < LEAST_GEMMS:
        raise UserError(
            f"the profile has {len(gemms)} forward GEMM shapes of {fitting.SMALLEST} or more in every dimension; a "
            f"surface takes {LEAST_GEMMS} (vtrain-profile ops measures more). Fewer sharpen a bundled one: "
            "vtrain-sim project --run and --cluster together"
        )
    fit = fitting.fit_gemms(spec, units, gemms, dtype)
    own = {kind: round(rate / spec.memory_bandwidth, 4) for kind, rate in rates.items()}
    surfaces = replace(fit.surfaces, efficiency={**fit.surfaces.efficiency, **own})
    for line in fit.report:
        print(line, file=sys.stderr)
    print(fitting.to_toml(surfaces), end="")
