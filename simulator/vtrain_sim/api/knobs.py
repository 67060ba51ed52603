"""The knobs of the local page: what each sets, and what a setting of all of them says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vtrain_sim import schedules
from vtrain_sim.api.flag_files import Given
from vtrain_sim.api.job import Job, job_from_given
from vtrain_sim.api.project import project
from vtrain_sim.api.report import passes
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.notes import approximations, without_effect
from vtrain_sim.inputs.short_names import SHORT_NAMES
from vtrain_sim.report.page import Report
from vtrain_sim.report.page.document import document
from vtrain_sim.results import Document
from vtrain_sim.specs.precision import precision, precisions
from vtrain_sim.specs.train import AUTO

# Layers times microbatches of a step whose passes are drawn while knobs are turned: a fraction of a second.
MOST_LAYER_PASSES = 12_000
_NONE = "none"
_MOST_DIGITS = 40


@dataclass(frozen=True)
class Knob:
    """One setting. kind: choice (of choices), number (whole, 1 to most), amount (any number) or switch.

    flag: of the command; a switch's value is "on" or "". usual: where the page starts. off: what needs no flag.
    """

    name: str
    label: str
    group: str
    kind: str
    flag: str
    usual: str
    choices: tuple[str, ...] = ()
    most: int = 0
    off: str = ""
    title: str = ""


def knobs() -> tuple[Knob, ...]:
    """All knobs, in the order in which a page shows them."""
    clusters, models = tuple(presets.names("clusters")), tuple(presets.names("models"))
    return (
        Knob("model", "Model", "What", "choice", "--model", "gpt3-13b", models),
        Knob("cluster", "Cluster", "What", "choice", "--cluster", "dgx-a100-80gb", clusters),
        Knob("gpus", "GPUs", "What", "number", "--num-gpus", "64", most=1_000_000),
        *(
            Knob(name, label, "Layout", "number", SHORT_NAMES[name], usual, most=4096, off="1", title=title)
            for name, label, usual, title in (
                ("tp", "tp", "2", "tensor parallel size"),
                ("pp", "pp", "4", "pipeline parallel size"),
                ("vpp", "vpp", "1", "virtual pipeline chunks of a stage"),
                ("cp", "cp", "1", "context parallel size"),
                ("ep", "ep", "1", "expert parallel size"),
            )
        ),
        Knob("sp", "Sequence parallel", "Layout", "switch", SHORT_NAMES["sp"], "on"),
        Knob(
            "distributed_optimizer", "Distributed optimizer", "Layout", "switch", _flag("distributed_optimizer"), "on"
        ),
        Knob("overlap_grad_reduce", "Overlap gradients", "Layout", "switch", "--overlap-grad-reduce", "on"),
        Knob("mbs", "Micro batch", "Step", "number", SHORT_NAMES["mbs"], "1", most=4096),
        Knob("gbs", "Global batch", "Step", "number", SHORT_NAMES["gbs"], "256", most=1_000_000),
        Knob(
            "recompute",
            "Recompute",
            "Step",
            "choice",
            _flag("recompute"),
            _NONE,
            (_NONE, "selective", "full"),
            off=_NONE,
        ),
        Knob(
            "precision",
            "Precision",
            "Step",
            "choice",
            "",
            "bf16",
            tuple(dict.fromkeys(each.usual_name for each in precisions())),
        ),
        Knob("schedule", "Schedule", "Step", "choice", "--schedule", AUTO, (AUTO, *schedules.names()), off=AUTO),
        Knob("tokens", "Tokens to train on", "Cost", "amount", "--train-tokens", "300e9", off="0"),
        Knob("price", "US$ per GPU-hour", "Cost", "amount", "--price-per-gpu-hour", "", title="empty: the cluster's"),
    )


def _flag(name: str) -> str:
    return SHORT_NAMES[name]


def knobs_document() -> Document:
    """The knobs as the page reads them."""
    return {"knobs": [asdict(knob) for knob in knobs()]}


@dataclass(frozen=True)
class Setting:
    """All knobs set: the options of the equivalent command, those of Megatron apart."""

    model: str
    cluster: str
    gpus: int
    tokens: float
    price: float | None
    flags: tuple[str, ...]

    def job(self) -> Job:
        """What the command would project. Raises `UserError`."""
        return job_from_given(Given(self.flags, self.cluster, self.model, self.gpus).over(None, None))

    def command(self) -> str:
        """The command line that says the same."""
        words = [
            "vtrain-sim",
            "project",
            "--model",
            self.model,
            "--cluster",
            self.cluster,
            "--num-gpus",
            str(self.gpus),
        ]
        words += self.flags
        words += ["--train-tokens", f"{self.tokens:g}"] if self.tokens else []
        words += ["--price-per-gpu-hour", f"{self.price:g}"] if self.price is not None else []
        return shlex.join(words)


def read_setting(values: Mapping[str, str]) -> Setting:
    """The knobs as a page sends them; those that it does not send stay where they usually are. Raises `UserError`."""
    known = {knob.name: knob for knob in knobs()}
    for name in values:
        if name not in known:
            raise UserError(f"there is no knob {name!r}")
    said = {name: _checked(knob, values.get(name, knob.usual).strip()) for name, knob in known.items()}
    flags: list[str] = []
    for name, knob in known.items():
        if name in ("model", "cluster", "gpus", "tokens", "price") or said[name] in ("", knob.off):
            continue
        if name == "precision":
            flags += precision(said[name]).all_flags
        else:
            flags += [knob.flag] if knob.kind == "switch" else [knob.flag, said[name]]
    price = float(said["price"]) if said["price"] else None
    tokens = float(said["tokens"] or 0)
    return Setting(said["model"], said["cluster"], int(said["gpus"]), tokens, price, tuple(flags))


def _checked(knob: Knob, value: str) -> str:
    """The value of a knob, which the page alone need not have checked. Raises `UserError`."""
    flag = knob.flag or knob.name
    if knob.kind == "choice" and value not in knob.choices:
        raise UserError(f"{flag} is {value!r}: this page has {', '.join(knob.choices)}")
    if knob.kind == "switch" and value not in ("", "on"):
        raise UserError(f"{flag} is {value!r}: it is on, or empty")
    if knob.kind == "number":
        if not (value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS) or int(value) < 1:
            raise UserError(f"{flag} is {value[:_MOST_DIGITS]!r}: it must be a whole number, 1 or more")
        if int(value) > knob.most:
            raise UserError(f"{flag} is {value}: this page goes up to {knob.most:,}")
    if knob.kind == "amount" and value:
        try:
            float(value)
        except ValueError:
            raise UserError(f"{flag} is {value!r}: it must be a number") from None
    return value


def turn(values: Mapping[str, str]) -> Document:
    """What a setting says: the content of a page, as a report of the same command has it. Raises `UserError`."""
    setting = read_setting(values)
    job = setting.job()
    page = document(Report(project(job, setting.tokens, setting.price)))
    model = job.configuration.model
    said = (*approximations(setting.flags), *without_effect(setting.flags, model, job.configuration))
    page["notes"] = [*page["notes"], *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said)]
    page["texts"] = [["The same as a command", setting.command()], *page["texts"]]
    page["draws_passes"] = _layer_passes(job) <= MOST_LAYER_PASSES
    return page


def turn_passes(values: Mapping[str, str]) -> Document:
    """The passes of a setting's step, as sections of a page; none where it is too long. Raises `UserError`."""
    job = read_setting(values).job()
    drawn = passes(job.machine, job.configuration, MOST_LAYER_PASSES)
    sections = document(Report(drawn[0]))["sections"] if drawn else []
    return {"sections": sections}


def _layer_passes(job: Job) -> int:
    return job.configuration.num_microbatches * job.configuration.model.num_layers
