"""Which of the commands that a launch script started is the training, and what it says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vtrain_sim.inputs.launch_script import Launch, allocates, script_position
from vtrain_sim.inputs.megatron_flags import parse_flags
from vtrain_sim.inputs.process_count import processes, slurm_directives, slurm_options, slurm_variables, starts_many
from vtrain_sim.inputs.script_run.notes import check_sources, may_be_set, missing_source, notes, why_nothing_started
from vtrain_sim.inputs.script_run.run import Command, Run, Script, run_script
from vtrain_sim.inputs.training_programs import other_training, other_work
from vtrain_sim.specs.checks import SpecError

# Of the first process of a job, and of the job.
_FIRST = ("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_ARRAY_TASK_ID")
_JOB = {
    **dict.fromkeys(("SLURM_JOB_ID", "SLURM_JOBID"), "1"),
    **dict.fromkeys(("SLURM_JOB_NODELIST", "SLURM_NODELIST"), "node1"),
    "SLURM_JOB_NAME": "job",
}
# Jobs that a script hands in, and those that each of these may hand in in turn.
_MOST_JOBS = (20, 2, 1)
_FILES = 5


@dataclass(frozen=True)
class _Started:
    """A program with its arguments. before: all words before it."""

    before: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]
    directives: Mapping[str, str]
    command: Command


def resolve(path: Path, text: str, script_arguments: Sequence[str] = ()) -> Launch:
    """What a launch script starts, found by running it. Raises `SpecError`, `NoSandboxError`.

    path: where it lies, or is to lie while it runs. text: what it holds.
    """
    shell = re.match(r"#!\s*\S*?(?:/env\s+(?:-\S+\s+)*)?([\w.-]+)(?:\s|$)", text)
    if shell and shell[1] not in ("bash", "sh", "dash", "ash", "env"):
        raise SpecError(f"{path} is a script of {shell[1]}: bash scripts are read")
    directives = slurm_directives(text)
    script = Script.of(path, text)
    run = _best_run(path, script, script_arguments, directives)
    variables = _slurm(directives, Path(run.folder))
    said = notes(text, run, script_arguments, variables)
    try:
        if (absent := missing_source(run)) and (names := may_be_set(text, run, absent)):
            run = _run_without(path, script, script_arguments, variables, run, names)
            said = (f"the script reads {absent}, which is not there: what that sets is not known", *said)
        else:
            check_sources(path, run)
        chosen = _training(path, _started(run.commands, directives, path, script, 0))
        if chosen is None:
            raise SpecError(f"{path} starts no training: {why_nothing_started(run)}")
        if run.missing:
            _check_missing(path, script, run, chosen, script_arguments, directives)
    except SpecError as error:
        # What was not given may be why.
        reasons = [sentence for sentence in said if "--script-args" in sentence or sentence.startswith("not set")]
        raise SpecError("; ".join((str(error), *reasons))) from None
    extra = allocates(chosen.command.environment)
    counted = processes(chosen.before, chosen.directives, chosen.command.attached)
    return Launch((*chosen.arguments, *extra), *counted, said)


def _run_without(
    path: Path, script: Script, arguments: Sequence[str], variables: Mapping[str, str], run: Run, names: Iterable[str]
) -> Run:
    """The script's run with empty files for those that it reads and that are not there.

    names: what these may set; no value of theirs is then taken for one that is known.
    """
    given = {**{name: f"%unknown_{name}%" for name in names}, **variables}
    empty: list[Path] = []
    for _ in range(_FILES):
        run = run_script(script, arguments, given, Path(run.folder), empty=empty)
        if not (absent := missing_source(run)):
            break
        empty.append(Path(run.folder, absent))
    check_sources(path, run)
    return run


def _check_missing(
    path: Path, script: Script, run: Run, chosen: _Started, arguments: Sequence[str], directives: Mapping[str, str]
) -> None:
    """Raise `SpecError` where the arguments depend on how much a program prints that is not known."""
    other = run_script(script, arguments, _slurm(directives, Path(run.folder)), Path(run.folder), unknown_lines=3)
    again = _training(path, _started(other.commands, directives, path, script, 0))
    if again is None or not _same(chosen, again):
        raise SpecError(
            f"{path} computes arguments from what {', '.join(run.missing)} says, which is not known: put values there"
        )


def _best_run(path: Path, script: Script, arguments: Sequence[str], directives: Mapping[str, str]) -> Run:
    """The run in the first folder in which all is found that the script reads; else the first."""
    runs = []
    for folder in _folders(script):
        run = run_script(script, arguments, _slurm(directives, folder), folder)
        if run.status is None:
            return run
        if any(command.kind in ("run", "batch") for command in run.commands):
            try:
                check_sources(path, run)
                return run
            except SpecError:
                pass
        runs.append(run)
    return next((run for run in runs if run.commands), runs[0])


def _folders(script: Script) -> list[Path]:
    """Folders that a script may be meant to be run in: the current one, where the script can see it, first."""
    here = Path.cwd()
    folders = [here] if here == script.top or script.top in here.parents else []
    return list(dict.fromkeys([*folders, script.path.parent, script.top]))


def _slurm(directives: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The variables that Slurm sets in the first process of a job, which was handed in from a folder."""
    if not directives:
        return {}
    named = {"SLURM_JOB_NAME": directives["--job-name"]} if "--job-name" in directives else {}
    of_job = {**_JOB, "SLURM_SUBMIT_DIR": str(folder), **named}
    return {**dict.fromkeys(_FIRST, "0"), **of_job, **slurm_variables(directives)}


def _started(
    commands: Sequence[Command],
    directives: Mapping[str, str],
    path: Path,
    script: Script,
    depth: int,
    around: tuple[str, ...] = (),
) -> list[_Started]:
    """Programs that commands start, those of jobs that they hand in included."""
    started = []
    jobs = sum(command.kind == "batch" for command in commands)
    if depth < len(_MOST_JOBS) and jobs > _MOST_JOBS[depth]:
        raise SpecError(f"{path} hands in {jobs} jobs: give the script of one of them")
    for command in commands:
        words = (*around, *command.around, *command.words)
        if command.kind == "batch" and depth < len(_MOST_JOBS):
            started += _of_job(command, directives, path, script, depth)
        elif command.kind == "run" and (position := script_position(words)) is not None:
            arguments = words[position + 1 :]
            if any(word.startswith("--") for word in arguments):
                started.append(_Started(words[: position + 1], words[position], arguments, directives, command))
    return started


def _of_job(command: Command, directives: Mapping[str, str], path: Path, script: Script, depth: int) -> list[_Started]:
    """Programs that a batch system's job starts."""
    asked = {**directives, **slurm_directives(command.attached), **slurm_options(command.words)}
    position = next((i for i, word in enumerate(command.words) if i and word.endswith((".sh", ".slurm", ".sbatch"))), 0)
    arguments = command.words[position + 1 :] if position else ()
    environment = {k: v for k, v in command.environment.items() if not k.startswith("SLURM_")}
    job = replace(script, text=command.attached)
    run = run_script(job, arguments, _slurm(asked, Path(command.folder)), Path(command.folder), environment)
    if run.status is None:
        raise SpecError(f"{path} hands in a job that starts no training: {why_nothing_started(run)}")
    check_sources(path, run)
    return _started(run.commands, asked, path, script, depth + 1, (*command.around,))


def _training(path: Path, started: Sequence[_Started]) -> _Started | None:
    """The one training among the programs, None where there is none. Raises `SpecError` for another, or for several."""
    works = [one for one in started if not other_work(one.program)]
    candidates = [one for one in works if starts_many(one.before)] or works
    simulated = [one for one in candidates if not other_training(one.program)]
    if candidates and not simulated:
        what = other_training(candidates[0].program)
        raise SpecError(f"{path} trains {what} ({candidates[0].program}), which is not simulated")
    if started and not simulated:
        program = started[0].program
        raise SpecError(f"{path} runs {program}: {other_work(program)}, no training")
    distinct: list[_Started] = []
    for one in simulated:
        if not any(_same(one, other) for other in distinct):
            distinct.append(one)
    if len(distinct) > 1:
        raise SpecError(
            f"{path} starts {len(distinct)} trainings with different arguments: leave one of them in, or give its "
            "arguments in a file"
        )
    return distinct[0] if distinct else None


def _same(one: _Started, other: _Started) -> bool:
    """Whether two programs are one training: the same where the arguments that are read are."""
    if one.arguments == other.arguments and one.before == other.before:
        return True
    if processes(one.before, one.directives) != processes(other.before, other.directives):
        return False
    try:
        first, second = parse_flags(one.arguments), parse_flags(other.arguments)
    except SpecError:
        return one.arguments == other.arguments
    return first.values == second.values
