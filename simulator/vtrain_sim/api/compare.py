"""``compare``: why one step takes longer than another."""

from __future__ import annotations

from dataclasses import replace

from vtrain_sim.api.job import Job
from vtrain_sim.catalog.run import CapturedRun
from vtrain_sim.errors import UserError
from vtrain_sim.report.difference_words import sentences
from vtrain_sim.results import short
from vtrain_sim.validate.account import Account, projected_account
from vtrain_sim.validate.captured_account import captured_account
from vtrain_sim.validate.difference import Difference


def compare(a: Job | CapturedRun, b: Job | CapturedRun, name_a: str = "", name_b: str = "") -> Difference:
    """Two steps, and where the difference comes from: compute by kind, communication by role, bubble, and the rest.

    a, b: jobs, which are projected, or captured runs (``vt.Catalog(...).captured(run)``). name_a, name_b: what they are
    called (default: by what differs). Raises `UserError` where a cost is not known, or a run is not there.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-13b", cluster="dgx-a100-80gb", gpus=64, tp=8, mbs=1, gbs=128, sp=True)
    >>> print(vt.compare(job, job.with_(tp=4, pp=2)).sentences[0])
    tp communication takes ... less...
    """
    difference = Difference(_account(a), _account(b), name_a, name_b)
    if not name_a or not name_b:
        names = [_name(one, difference, number) for number, one in enumerate((a, b))]
        difference = replace(difference, name_a=name_a or names[0], name_b=name_b or names[1])
    return replace(difference, sentences=sentences(difference))


def _account(one: Job | CapturedRun) -> Account:
    if isinstance(one, CapturedRun):
        return captured_account(one.catalog, one.run_id)
    if isinstance(one, Job):
        return projected_account(one.machine.projector, one.configuration)
    raise UserError(f"{one!r} is neither a job (vt.job) nor a captured run (vt.Catalog(...).captured)")


def _name(one: Job | CapturedRun, difference: Difference, number: int) -> str:
    if isinstance(one, CapturedRun):
        return f"run {one.run_id}"
    parts = [f"{name} {short(values[number])}" for name, values in difference.settings.items()]
    return ", ".join(parts[:4]) or ("simulated" if one.run else "ab"[number])
