"""The jobs that `schedule` is given: of a trace of its own, or of one that a cluster's owner published."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.decide.fleet import Job, read_trace, traces
from vtrain_sim.decide.fleet.traces import Recording
from vtrain_sim.errors import UserError


def check_unheeded(trace: str | Path | None, load: bool, mean_hours: bool, no_deadlines: bool) -> None:
    """Raise `UserError` for what is said of random traces beside one that is given: whether each is."""
    said = {"--load": load, "--mean-hours": mean_hours, "--no-deadlines": no_deadlines}
    flags = [flag for flag, given in said.items() if given]
    if trace is not None and flags:
        raise UserError(f"{' and '.join(flags)} say how a random trace is made: give --jobs N instead of --trace")


def jobs_given(trace: str | Path | None, trace_format: str) -> tuple[list[Job], Recording | None]:
    """Jobs, or what a cluster recorded, which need models first; neither where there is no trace. Raises `UserError`
    for a file that is no trace."""
    if trace is None:
        if trace_format:
            raise UserError("--trace-format needs --trace: the file that has this format")
        return [], None
    path = Path(trace)
    if trace_format:
        chosen = traces.get(trace_format)
    elif path.exists() and (found := traces.detect(path)):
        chosen = found
    else:
        return read_trace(path), None
    if not path.exists():
        raise UserError(f"there is no file {path}")
    recording = chosen.read(path)
    if not recording.jobs and not recording.dropped:
        raise UserError(f"{path} has no jobs")
    return [], recording
