"""A projection for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.report import amounts
from vtrain_sim.report.tables import duration, gib, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.simulate.result import BAND_PROBABILITY, Projection
from vtrain_sim.specs.optimizer import ADAM


@printers.register(Projection)
def print_projection(projection: Projection, console: Console, rows: bool = True) -> None:
    """Print what the configuration would do, where the time goes, and where the numbers come from."""
    print_configuration(projection, console)
    if not projection.memory.fits:
        console.print(f"memory: [bold]{projection.memory.state}[/bold] (more below)")
    console.print(
        f"iteration time [bold]{duration(projection.iteration_time_s)}[/bold], "
        f"{BAND_PROBABILITY:.0%} band {duration(projection.iteration_time_low_s)} to "
        f"{duration(projection.iteration_time_high_s)}"
    )
    _print_breakdown(projection, console)
    console.print(
        f"MFU {projection.mfu:.1%}, HFU {projection.hfu:.1%} ({_peak(projection)}; modelled), "
        f"{projection.model_tflops_per_s_per_gpu:,.0f} TFLOP/s and {projection.tokens_per_s_per_gpu:,.0f} tokens/s "
        "per device"
    )
    worst = projection.memory.worst
    console.print(f"memory (modelled): {projection.memory.sentence()}")
    terms = ", ".join(f"{name} {gib(size)}" for name, size in worst.terms().items())
    console.print(f"  stage {worst.stage}: {terms}")
    if projection.train_tokens:
        console.print(_training(projection, projection.train_tokens))


def _peak(projection: Projection) -> str:
    """What MFU is a share of."""
    dtype = projection.configuration.train.precision.product_dtype
    return f"of {projection.peak_tflops_per_s_per_gpu:,.5g} TFLOP/s, the {dtype} peak"


def print_configuration(projection: Projection, console: Console) -> None:
    """Print what was projected: model, devices, layout, batch."""
    c, cluster = projection.configuration, projection.cluster
    p, t = c.parallel, c.train
    ranks = f"{p.world_size} device" + ("s" if p.world_size > 1 else "")
    layout = f"tp {p.tp}, pp {p.pp}" + (f" x {p.vpp} chunks" if p.vpp > 1 else "") + f", dp {p.dp}"
    layout += f", cp {p.cp}" if p.cp > 1 else ""
    layout += f", ep {p.ep}" if p.ep > 1 else ""
    settings = [t.precision.name, f"{t.attention_kernel} attention"]
    settings += ["sequence parallel"] if p.sequence_parallel else []
    settings += [t.optimizer.capitalize()] if t.optimizer != ADAM else []
    settings += ["fully sharded"] if p.fsdp else ["distributed optimizer"] if p.distributed_optimizer else []
    settings += [f"{t.recompute_granularity} recomputation"] if t.recompute_granularity != "none" else []
    console.print(f"[bold]{c.model.name or 'the model'}[/bold], {', '.join(settings)}")
    console.print(f"[bold]{ranks}[/bold] on {cluster.name} ({cluster.device.name})")
    if cluster.device.modelled_only:
        console.print("modelled only: no training step on this device was compared with its coefficients")
    console.print(
        f"{layout}; micro batch {t.micro_batch_size}, global batch {t.global_batch_size} sequences "
        f"of {c.model.seq_length} tokens ({c.num_microbatches} microbatches), schedule {c.schedule}"
    )


def _print_breakdown(projection: Projection, console: Console) -> None:
    total = projection.iteration_time_s
    lines = [
        (name, duration(seconds), f"{seconds / total:.1%}")
        for name, seconds in sorted(projection.breakdown_s.items(), key=lambda part: -part[1])
    ]
    lines.append(("iteration", duration(sum(projection.breakdown_s.values())), "100.0%"))
    title = f"where the time goes (bottleneck stage {projection.critical_stage})"
    console.print(table(title, ("", "time", "share"), lines))
    shares = ", ".join(f"{share:.0%} {name}" for name, share in projection.provenance.items())
    console.print(f"provenance of the time: {shares}")


def _training(projection: Projection, tokens: float) -> str:
    """Days and dollars of a whole training run."""
    cluster = projection.cluster
    line = f"{amounts.tokens(tokens)} {'take' if tokens > 1 else 'takes'} {amounts.days(projection.days(tokens))}"
    price = amounts.price(cluster.name, cluster.price_per_gpu_hour)
    return f"{line} and {amounts.dollars(projection.cost_usd(tokens))} at {price}" if price else line
