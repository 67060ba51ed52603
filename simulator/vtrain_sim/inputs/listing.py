"""What is known by name: Megatron's arguments with what is done with each, and the presets."""

from __future__ import annotations

from collections.abc import Iterator

from vtrain_sim.errors import UserError, nearest
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.flag_lists import approximated, ignored, refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, arity, opposite
from vtrain_sim.inputs.flag_words import words_of
from vtrain_sim.results import Row

KINDS = ("models", "devices", "clusters")
TREATMENTS = ("read", "approximated", "ignored", "refused")


def flags(treatment: str = "", word: str = "") -> list[Row]:
    """One row per argument: its name, what follows it, what is done with it, and what it sets or asks for.

    treatment: only those read, approximated (they change time or memory somewhat, which is not simulated), ignored
    (they change neither), or refused. word: only those with it in their name. Raises `UserError`.
    """
    if treatment and treatment not in TREATMENTS:
        raise UserError(f"--treatment is {treatment!r}{nearest(treatment, TREATMENTS)}: {', '.join(TREATMENTS)}")
    rows = [
        {"flag": flag, "takes": arity(flag), "treatment": done, "about": about}
        for flag, done, about in sorted(_flags())
        if treatment in ("", done) and word.strip("-") in flag
    ]
    if not rows:
        names = [flag for flag, _, _ in _flags()]
        raise UserError(f"no argument has {word!r} in its name{nearest(word, names)}")
    if not any(row["about"] for row in rows):
        # Nothing is known beside what is done with them.
        return [{name: value for name, value in row.items() if name != "about"} for row in rows]
    return rows


def _flags() -> Iterator[tuple[str, str, str]]:
    for flag, (field, *_) in (*VALUES.items(), *LISTS.items()):
        yield flag, "read", words_of(field)
    for flag, (field, value) in SWITCHES.items():
        # The negative form of a switch says nothing new.
        if opposite(flag) not in SWITCHES or not flag.startswith("--no-") or SWITCHES[opposite(flag)][1] is not True:
            yield flag, "read", words_of(field, value)
    known = {*VALUES, *LISTS, *SWITCHES}
    for flag in approximated().keys() - known:
        yield flag, "approximated", ""
    for flag in ignored().keys() - known:
        yield flag, "ignored", ""
    for flag, refusal in refused().items():
        simulated = f"simulated: {', '.join(refusal.simulated)}" if refusal.simulated else ""
        yield flag, "refused", "; ".join(filter(None, (refusal.what, simulated)))


def named_presets(kind: str = "", word: str = "") -> list[Row]:
    """One row per preset: its kind, its name and its figures.

    kind: only models, devices or clusters. word: only those with it in their name. Raises `UserError`.
    """
    if kind and kind not in KINDS:
        raise UserError(f"--kind is {kind!r}{nearest(kind, KINDS)}: it takes one of {', '.join(KINDS)}")
    rows = [
        {"kind": each.removesuffix("s"), "name": name, "about": _ABOUT[each](name)}
        for each in KINDS
        if kind in ("", each)
        for name in presets.names(each)
        if word.lower() in name
    ]
    if not rows:
        raise UserError(
            f"no preset has {word!r} in its name{nearest(word, [n for k in KINDS for n in presets.names(k)])}"
        )
    return rows


def _model(name: str) -> str:
    model = presets.model(name)
    experts = f", {model.num_experts} experts" if model.num_experts else ""
    return f"{model.num_layers} layers of {model.hidden_size}{experts}, sequence {model.seq_length}"


def _device(name: str) -> str:
    device = presets.device(name)
    return f"{device.name}, {device.memory_bytes / 2**30:.0f} GiB"


def _cluster(name: str) -> str:
    cluster = presets.cluster(name)
    return f"nodes of {cluster.gpus_per_node} {cluster.device.name}"


_ABOUT = {"models": _model, "devices": _device, "clusters": _cluster}
