"""``vtrain-sim flags`` and ``vtrain-sim presets``: what is known by name."""

from __future__ import annotations

import typer

from vtrain_sim.commands.output import FORMAT, check_format, show

_WORD = typer.Argument("", help="Part of the names (default: all).")


def flags(
    word: str = _WORD,
    treatment: str = typer.Option("", "--treatment", help="Only those read, approximated, ignored or refused."),
    as_json: bool = typer.Option(False, "--json", help="Print the list as JSON."),
    form: str = FORMAT,
) -> None:
    """List Megatron's arguments: those that are read, approximated (noted), ignored, or refused, and why."""
    from vtrain_sim.api import listing as api

    form = check_format(form, as_json)
    show(api.flags(treatment, word), form)


def presets(
    word: str = _WORD,
    kind: str = typer.Option("", "--kind", help="Only models, devices or clusters."),
    as_json: bool = typer.Option(False, "--json", help="Print the list as JSON."),
    form: str = FORMAT,
) -> None:
    """List the presets of models, devices and clusters."""
    from vtrain_sim.api import listing as api

    form = check_format(form, as_json)
    show(api.presets(kind, word), form)
