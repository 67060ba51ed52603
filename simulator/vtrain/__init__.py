"""Project LLM training on clusters and configurations that were not run: the verbs of the command lines in Python.

    import vtrain as vt

    job = vt.job("gpt3-175b", cluster="dgx-a100-80gb", gpus=1024, tp=8, pp=16, mbs=1, gbs=1536, sequence_parallel=True)
    vt.project(job)
    vt.sweep(job, tp=[1, 2, 4, 8], pp=[8, 16])

Times are seconds, sizes bytes, shares 0 to 1, batches sequences. Input that is wrong raises `UserError` with one
sentence. Nothing is imported before it is used; torch never is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtrain_sim import __version__ as __version__
    from vtrain_sim.api.calibrate import calibrate as calibrate
    from vtrain_sim.api.catalog import Catalog as Catalog
    from vtrain_sim.api.compare import compare as compare
    from vtrain_sim.api.explain import explain as explain
    from vtrain_sim.api.job import Job as Job
    from vtrain_sim.api.job import job as job
    from vtrain_sim.api.plan import plan as plan
    from vtrain_sim.api.project import project as project
    from vtrain_sim.api.render import register_renderer as register_renderer
    from vtrain_sim.api.render import render as render
    from vtrain_sim.api.report import report as report
    from vtrain_sim.api.schedule import schedule as schedule
    from vtrain_sim.api.size import size as size
    from vtrain_sim.api.study import study as study
    from vtrain_sim.api.sweep import sweep as sweep
    from vtrain_sim.api.timeline import timeline as timeline
    from vtrain_sim.api.trace import save_trace as save_trace
    from vtrain_sim.api.tune import tune as tune
    from vtrain_sim.api.validate import validate as validate
    from vtrain_sim.api.validate import validate_run as validate_run
    from vtrain_sim.calibration.result import CalibrationResult as CalibrationResult
    from vtrain_sim.calibration.result import TuneResult as TuneResult
    from vtrain_sim.catalog.critical_path import CriticalPath as CriticalPath
    from vtrain_sim.catalog.run import CapturedRun as CapturedRun
    from vtrain_sim.catalog.timeline import CapturedTimeline as CapturedTimeline
    from vtrain_sim.decide.fleet.result import FleetResult as FleetResult
    from vtrain_sim.decide.plan_result import PlanResult as PlanResult
    from vtrain_sim.decide.sensitivity import Effect as Effect
    from vtrain_sim.decide.sensitivity import Sensitivity as Sensitivity
    from vtrain_sim.decide.sizing.result import SizeResult as SizeResult
    from vtrain_sim.decide.study.result import StudyResult as StudyResult
    from vtrain_sim.decide.sweep import SweepPoint as SweepPoint
    from vtrain_sim.decide.sweep import SweepResult as SweepResult
    from vtrain_sim.errors import UserError as UserError
    from vtrain_sim.report.page.model import Report as Report
    from vtrain_sim.results import Result as Result
    from vtrain_sim.results import Table as Table
    from vtrain_sim.simulate.result import Projection as Projection
    from vtrain_sim.simulate.spans import Timeline as Timeline
    from vtrain_sim.simulate.spans import TimelineSpan as TimelineSpan
    from vtrain_sim.validate.comparison import Comparison as Comparison
    from vtrain_sim.validate.difference import Cause as Cause
    from vtrain_sim.validate.difference import Difference as Difference
    from vtrain_sim.validate.result import ValidationResult as ValidationResult

_HOMES = {
    "__version__": "vtrain_sim",
    "job": "vtrain_sim.api.job",
    "project": "vtrain_sim.api.project",
    "sweep": "vtrain_sim.api.sweep",
    "compare": "vtrain_sim.api.compare",
    "explain": "vtrain_sim.api.explain",
    "timeline": "vtrain_sim.api.timeline",
    "save_trace": "vtrain_sim.api.trace",
    "plan": "vtrain_sim.api.plan",
    "study": "vtrain_sim.api.study",
    "schedule": "vtrain_sim.api.schedule",
    "size": "vtrain_sim.api.size",
    "validate": "vtrain_sim.api.validate",
    "validate_run": "vtrain_sim.api.validate",
    "calibrate": "vtrain_sim.api.calibrate",
    "tune": "vtrain_sim.api.tune",
    "Catalog": "vtrain_sim.api.catalog",
    "render": "vtrain_sim.api.render",
    "register_renderer": "vtrain_sim.api.render",
    "report": "vtrain_sim.api.report",
    "Job": "vtrain_sim.api.job",
    "Report": "vtrain_sim.report.page.model",
    "Result": "vtrain_sim.results",
    "Table": "vtrain_sim.results",
    "Projection": "vtrain_sim.simulate.result",
    "Timeline": "vtrain_sim.simulate.spans",
    "TimelineSpan": "vtrain_sim.simulate.spans",
    "CapturedRun": "vtrain_sim.catalog.run",
    "CapturedTimeline": "vtrain_sim.catalog.timeline",
    "CriticalPath": "vtrain_sim.catalog.critical_path",
    "SweepPoint": "vtrain_sim.decide.sweep",
    "SweepResult": "vtrain_sim.decide.sweep",
    "PlanResult": "vtrain_sim.decide.plan",
    "StudyResult": "vtrain_sim.decide.study.result",
    "FleetResult": "vtrain_sim.decide.fleet.result",
    "SizeResult": "vtrain_sim.decide.sizing.result",
    "ValidationResult": "vtrain_sim.validate.result",
    "Comparison": "vtrain_sim.validate.comparison",
    "Sensitivity": "vtrain_sim.decide.sensitivity",
    "Effect": "vtrain_sim.decide.sensitivity",
    "Cause": "vtrain_sim.validate.difference",
    "Difference": "vtrain_sim.validate.difference",
    "CalibrationResult": "vtrain_sim.calibration.result",
    "TuneResult": "vtrain_sim.calibration.result",
    "UserError": "vtrain_sim.errors",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vtrain' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
