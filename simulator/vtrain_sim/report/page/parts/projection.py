"""A projection: where the time goes, and the memory of each stage."""

from __future__ import annotations

import shlex

from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.inputs.notes import left_out, not_megatrons
from vtrain_sim.report import amounts
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.tables import as_sentence, counted, duration, gib
from vtrain_sim.simulate.memory import TERMS
from vtrain_sim.simulate.projection import WAITING
from vtrain_sim.simulate.result import BAND_PROBABILITY, Projection

# Colours of what takes time, by a word of its name.
_TONES = (
    ("communication", "communication"),
    ("bubble", "idle"),
    ("waiting", "idle"),
    ("host", "host"),
    ("overhead", "host"),
    ("backward", "backward"),
    ("recompute", "recompute"),
    ("forward", "forward"),
    ("optimizer", "optimizer"),
)
_MODELLED = "modelled"
_BAND = f"{BAND_PROBABILITY:.0%} band"


@pages.register(Projection)
def page_of_projection(projection: Projection) -> Page:
    """Figures, the breakdown of the bottleneck stage, and memory."""
    c = projection.configuration
    return Page(
        "projection",
        f"{c.model.name or 'The model'} on {counted(c.parallel.world_size, 'GPUs')}",
        described(projection),
        figures_of(projection),
        (breakdown_section(projection), memory_section(projection)),
        notes_of(projection),
        texts=flags_of(projection),
    )


def flags_of(projection: Projection) -> tuple[tuple[str, str], ...]:
    """Megatron's flags, to copy."""
    return (("Megatron's flags of the configuration", shlex.join(emit_flags(projection.configuration))),)


def notes_of(projection: Projection) -> tuple[str, ...]:
    """What the numbers leave out, and what the flags cannot ask for."""
    c = projection.configuration
    notes = list(left_out(c.model.name, c.model)) if c.model.name in presets.names("models") else []
    if projection.cluster.device.modelled_only:
        notes.append("no training step on this device was compared with its coefficients")
    return tuple(map(as_sentence, (*notes, *not_megatrons(c))))


def described(projection: Projection) -> str:
    """The layout and the step in one line."""
    c, cluster = projection.configuration, projection.cluster
    p, t = c.parallel, c.train
    return (
        f"{cluster.name} ({cluster.device.name}); {p.in_words}; micro batch {t.micro_batch_size}, global batch "
        f"{t.global_batch_size:,} sequences of {c.model.seq_length:,} tokens; {t.precision.name}, schedule {c.schedule}"
    )


def provenance_of(projection: Projection) -> str:
    """Shares of the time that were measured, interpolated and modelled."""
    return ", ".join(f"{share:.0%} {name}" for name, share in projection.provenance.items() if share > 0)


def figures_of(projection: Projection) -> tuple[Figure, ...]:
    """What a projection says, number by number."""
    source = provenance_of(projection)
    low, high = duration(projection.iteration_time_low_s), duration(projection.iteration_time_high_s)
    memory = projection.memory
    bubble = projection.breakdown_s.get(WAITING, 0.0) / projection.iteration_time_s
    state = "good" if memory.fits else "bad"
    capacity, where, rate = (
        gib(memory.capacity_bytes),
        f"stage {memory.worst.stage}",
        projection.model_tflops_per_s_per_gpu,
    )
    figures = [
        Figure("Iteration time", duration(projection.iteration_time_s), f"{_BAND} {low} to {high}; {source}"),
        Figure(
            "Peak memory", gib(memory.worst.peak_bytes), f"of {capacity}: {memory.state}; {where}, {_MODELLED}", state
        ),
        Figure("MFU", f"{projection.mfu:.1%}", f"model FLOPs over peak; HFU {projection.hfu:.1%}; {source}"),
        Figure("Model FLOP rate", f"{rate:,.0f} TFLOP/s", f"per GPU, as Megatron logs it; {source}"),
        Figure("Tokens", f"{projection.tokens_per_s_per_gpu:,.0f} /s", f"per GPU; {source}"),
        Figure("Pipeline bubble", f"{bubble:.1%}", f"of the step, transfers included; {_MODELLED}"),
    ]
    if projection.train_tokens:
        figures += _training(projection)
    return tuple(figures)


def _training(projection: Projection) -> list[Figure]:
    tokens, cluster = projection.train_tokens, projection.cluster
    price = amounts.price(cluster.name, cluster.price_per_gpu_hour)
    figures = [
        Figure("Training", amounts.days(projection.days(tokens)), f"{amounts.tokens(tokens)}; {_MODELLED}"),
    ]
    if price:
        cost = amounts.dollars(projection.cost_usd(tokens))
        figures.append(Figure("Cost", cost, f"US dollars, at {price}; {_MODELLED}"))
    return figures


def breakdown_section(projection: Projection) -> Section:
    """Seconds of the bottleneck stage by what they are spent on."""
    rows = projection.tables()["where the time goes"]
    top = ", ".join(f"{row['part']} {row['share']:.0%}" for row in rows[:3])
    return Section(
        "Where the time goes",
        f"The step of stage {projection.critical_stage}, which works longest: {top}. The parts add up to "
        f"{duration(projection.iteration_time_s)}.",
        rows,
        {
            "draw": "bars",
            "category": "part",
            "values": ["time_s"],
            "tones": {str(row["part"]): tone(str(row["part"])) for row in rows},
            "lying": True,
            "hover": ["time_s", "share"],
        },
        provenance_of(projection),
        folded=True,
    )


def tone(part: str) -> str:
    """The colour of a part of the time."""
    return next((colour for word, colour in _TONES if word in part), "other")


def memory_section(projection: Projection) -> Section:
    """Bytes of one rank of each stage, by what they hold."""
    memory = projection.memory
    return Section(
        "Memory per stage",
        f"{as_sentence(memory.sentence())} The line is the device's capacity.",
        projection.tables()["memory by stage"],
        {
            "draw": "bars",
            "category": "stage",
            "values": [f"{term}_bytes" for term in TERMS],
            "stacked": True,
            "limit": {"value": memory.capacity_bytes, "label": f"capacity {gib(memory.capacity_bytes)}"},
        },
        _MODELLED,
        folded=True,
    )
