"""One side of a comparison, as it is written on the command line."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vtrain_sim.commands.notices import notice
from vtrain_sim.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vtrain_sim.api.flag_files import Given
    from vtrain_sim.api.job import Job
    from vtrain_sim.api.options import Option
    from vtrain_sim.catalog.run import CapturedRun
    from vtrain_sim.commands.job import Sources

SAME = "base"
RUN, SIMULATED = "run:", "sim:"
HELP = (
    "What to compare: settings (tp=4 pp=2, names as for sweep), a file (launch script, spec, config.json), a preset of "
    "a model or cluster, Megatron's flags, a captured run (run:ID) or its simulation (sim:ID); several in quotes; "
    "base: the common options as they are."
)


def read_side(text: str, common: Given, source: Sources, said: set[str]) -> Job | CapturedRun:
    """What one side of a comparison is, on top of what both sides have in common. Raises `UserError`.

    source: the options of both sides. said: what has been said on stderr about the other side, which is not said again.
    """
    from vtrain_sim.api.flag_files import is_job_file
    from vtrain_sim.api.job import job_from_given
    from vtrain_sim.api.options import read_options
    from vtrain_sim.api.understood import understood
    from vtrain_sim.inputs import presets
    from vtrain_sim.inputs.lookup import is_config
    from vtrain_sim.inputs.notes import approximations, left_out, vocabulary_assumed, without_effect

    words, runs = _words(text), source.run
    if len(words) == 1 and words[0].startswith(RUN):
        return _captured(words[0].removeprefix(RUN), source.catalog)
    settings: dict[str, Option] = {}
    given, has_file = common, False
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            given = replace(given, flags=(*given.flags, word, *words))
            words = []
        elif word == SAME:
            continue
        elif word.startswith(SIMULATED):
            runs = [word.removeprefix(SIMULATED)]
        elif word.startswith(RUN):
            raise UserError(f"{word} is a captured run: it has its own settings, give it alone (or sim:{word[4:]})")
        elif "=" in word:
            given = _setting(given, settings, word)
        elif is_job_file(word):
            given, has_file = given.over_file(Path(word), *source.script), True
        elif is_config(word) or word in presets.names("models"):
            given, has_file = replace(given, model=word), has_file or is_config(word)
        elif word in presets.names("clusters"):
            given = replace(given, cluster=word)
        else:
            raise UserError(_unknown(word))
    if not runs and not given.cluster:
        raise UserError(f"{text!r} does not say on what: give --cluster for both sides, or cluster=NAME")
    # Before anything is refused: they may say why.
    _say(given.notes, said)
    job = job_from_given(given, source.catalog, runs, read_options(settings))
    if has_file:
        notice(f"{text} read as: {understood(job.configuration)}")
    if not runs:
        _say(vocabulary_assumed(given.flags, given.model), said)
    model = job.configuration.model
    no_effect = without_effect(given.flags, model, job.configuration)
    _say((*approximations(given.flags), *no_effect, *left_out(given.model, model)), said)
    return job


def _say(sentences: Iterable[str], said: set[str]) -> None:
    """Notes on stderr, each once for both sides."""
    for sentence in sentences:
        if sentence not in said:
            notice(f"note: {sentence}")
            said.add(sentence)


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{text!r} cannot be read: {str(error).lower()}") from None
    if not words:
        raise UserError(f"there is nothing to compare: give {SAME} for the common options as they are")
    return words


def _captured(run_id: str, catalog: Path | None) -> CapturedRun:
    from vtrain_sim.api.catalog import Catalog

    if catalog is None:
        raise UserError(f"{RUN}{run_id} needs --catalog: the file that vtrain-catalog add made")
    return Catalog(catalog).captured(run_id)


def _setting(given: Given, settings: dict[str, Option], word: str) -> Given:
    """Take one ``name=value``."""
    from vtrain_sim.commands.values import value_of

    name, _, value = word.partition("=")
    name = name.replace("-", "_")
    if not value:
        raise UserError(f"{word!r} has no value: settings are name=value, for example tp=4")
    if name == "cluster":
        return replace(given, cluster=value)
    if name == "model":
        return replace(given, model=value)
    if name in settings:
        raise UserError(f"{name} is given twice: once is enough")
    settings[name] = value_of(value)
    return given


def _unknown(word: str) -> str:
    from vtrain_sim.errors import nearest
    from vtrain_sim.inputs import presets

    known = [*presets.names("models"), *presets.names("clusters")]
    return (
        f"{word!r} is neither a file nor a preset{nearest(word, known)}: a side is settings (tp=4 pp=2), a file, a "
        f"preset, flags, {RUN}ID, {SIMULATED}ID or {SAME}"
    )
