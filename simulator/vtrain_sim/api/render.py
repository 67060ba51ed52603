"""``render``: a result in a medium."""

from __future__ import annotations

from vtrain_sim.errors import UserError
from vtrain_sim.report import registry
from vtrain_sim.report.registry import register as register_renderer
from vtrain_sim.results import Result

__all__ = ["register_renderer", "render"]


def render(result: Result, form: str = "table") -> str | bytes:
    """A result as text or bytes. form: table, json, csv, parquet, markdown, html, or a registered renderer's name.

    Raises `UserError` for an unknown form, with the nearest.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> vt.render(vt.sweep(job, tp=[1, 2]), "csv").splitlines()[0]
    'tp,num_gpus,iteration_time_s,mfu,hfu,tokens_per_s_per_gpu,peak_bytes,fits,reason'
    """
    if not isinstance(result, Result):
        raise UserError(f"{result!r} is no result: the verbs give them, for example vt.project(job)")
    return registry.get(form).render(result)
