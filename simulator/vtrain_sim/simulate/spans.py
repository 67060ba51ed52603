"""What a timeline says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vtrain_schemas.operators import DIMENSIONS
from vtrain_sim.costs import Estimate
from vtrain_sim.errors import UserError
from vtrain_sim.model import Communication, Compute
from vtrain_sim.results import Document, Result, Row
from vtrain_sim.specs import Configuration

SCHEMA = "vtrain.timeline/1"
# The tracks of whole passes, of the parts of the model in them, and of what a stage sends; the others are streams.
PASSES, LAYERS, SENDS = "passes", "layers", "pp send"
# How much of a step a timeline keeps, each with what is before it.
DETAILS = ("passes", "layers", "operators")


def check_detail(detail: str) -> None:
    """Raise `UserError` for what is none of `DETAILS`."""
    if detail not in DETAILS:
        raise UserError(f"--detail is {detail!r}: it takes one of {', '.join(DETAILS)}")


@dataclass(frozen=True)
class TimelineSpan:
    """Something that a stage does, seconds from the beginning of the step.

    track: a stream by its name, or `PASSES`, `LAYERS` or `SENDS`. item, estimate: the operator or communication and
    its cost, where it is one. chunk, microbatch: of the pass; None for what is done once per step. transfer: number
    that the two ends of a transfer between stages share.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> span = vt.timeline(job, microbatches=[0]).spans[0]
    >>> span.track, span.name
    ('compute', 'zero_grad')
    """

    stage: int
    track: str
    name: str
    start_s: float
    end_s: float
    chunk: int | None = None
    microbatch: int | None = None
    item: Compute | Communication | None = None
    estimate: Estimate | None = None
    transfer: int | None = None

    def details(self) -> Row:
        """What the operator or communication is: its kind, shape, FLOPs and bytes, and where its time is from.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.timeline(job, microbatches=[0]).spans[0].details()["provenance"]
        'modelled'
        """
        details: Row = {}
        if isinstance(self.item, Compute):
            operator = self.item.operator
            shape = {name: size for name, size in zip(DIMENSIONS, operator.dims, strict=True) if size > 1}
            details |= {"kind": operator.kind, "phase": operator.phase, "dtype": operator.dtype, **shape}
            details |= {"flops": operator.flops() * self.item.share, "bytes": operator.bytes() * self.item.share}
        elif isinstance(self.item, Communication):
            group = self.item.group
            details |= {"op": self.item.op, "role": group.role, "ranks": group.size, "bytes": self.item.nbytes}
        if self.estimate is not None:
            details |= {"provenance": self.estimate.provenance, "sigma": self.estimate.sigma}
        return details


@dataclass(frozen=True)
class Held:
    """What one rank of a stage holds from a moment on, until the next one of the same stage.

    at_s: seconds from the beginning of the step. microbatches: of one chunk each, whose activations are kept. nbytes:
    all memory, with what a pass needs while it runs: its largest value is the stage's peak (`StageMemory.peak_bytes`).

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, pp=2, mbs=1, gbs=16)
    >>> held = vt.timeline(job, detail="passes").held
    >>> max(moment.microbatches for moment in held if moment.stage == 0)
    2
    """

    stage: int
    at_s: float
    microbatches: int
    nbytes: float


@dataclass(frozen=True, repr=False)
class Timeline(Result):
    """A step of one rank per stage, operator by operator.

    begin_s: when the passes begin. end_s: [stages] when the passes of each are over, from their begin; exposed_s:
    [stages] how much longer the exchange of gradients takes. spans: by stage, then by start. held: likewise, of all
    microbatches of the stages that are kept. detail: one of `DETAILS`.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> timeline = vt.timeline(job, detail="passes")
    >>> abs(timeline.iteration_time_s / vt.project(job).iteration_time_s - 1) < 1e-9
    True
    """

    configuration: Configuration
    iteration_time_s: float
    begin_s: float
    end_s: tuple[float, ...]
    exposed_s: tuple[float, ...]
    spans: tuple[TimelineSpan, ...]
    held: tuple[Held, ...] = ()
    detail: str = DETAILS[-1]

    def summary(self) -> Mapping[str, object]:
        """Iteration time, stages and spans."""
        return {"iteration_time_s": self.iteration_time_s, "stages": len(self.end_s), "spans": len(self.spans)}

    def rows(self) -> list[Row]:
        """One row per span."""
        return [
            {
                "stage": span.stage,
                "track": span.track,
                "name": span.name,
                "chunk": span.chunk,
                "microbatch": span.microbatch,
                "start_s": span.start_s,
                "end_s": span.end_s,
                **span.details(),
            }
            for span in self.spans
        ]

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.timeline/1."""
        return {"schema": SCHEMA, "iteration_time_s": self.iteration_time_s, "spans": self.rows()}
