"""Spans, operators and collectives of the current step, in memory."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from vtrain_plugin.capture.clock import Clock, Mark
from vtrain_plugin.capture.ranges import Ranges
from vtrain_schemas.operators import Operator


class Span:
    """One interval. `begin` and `end` are marks of the clock; None until taken."""

    __slots__ = (
        "begin",
        "chunk",
        "communication_role",
        "end",
        "id",
        "kind",
        "layer",
        "microbatch",
        "name",
        "operator",
        "parent",
        "phase",
        "range",
        "remainder",
        "stream",
    )

    def __init__(
        self,
        id: int,
        parent: Span | None,
        name: str,
        kind: str,
        phase: str,
        layer: int | None = None,
        microbatch: int | None = None,
        chunk: int | None = None,
    ) -> None:
        self.id = id
        self.parent = parent
        self.name = name
        self.kind = kind
        self.phase = phase
        self.layer = layer
        self.microbatch = microbatch
        self.chunk = chunk
        self.begin: Mark | None = None
        self.end: Mark | None = None
        # The operator that the span is, once enclosed spans and communication are taken off.
        self.operator: Operator | None = None
        self.remainder = ""
        # Of the group whose communication is inside the operator's kernels.
        self.communication_role = ""
        self.range: object = None
        # Where it is not the step's own.
        self.stream: int | None = None


@dataclass
class Call:
    """One collective or point-to-point call.

    stream: the one that it was issued on, where that is not the step's own: compute does not wait for it.
    """

    op: str
    role: str
    nbytes: int
    dtype: str
    ranks: tuple[int, ...]
    sequence: int
    is_async: bool
    span: Span | None
    begin: Mark
    end: Mark | None = None
    stream: int | None = None
    # (span, mark, mark): where and when a wait for an asynchronous call held up its caller.
    waits: list[tuple[Span | None, Mark, Mark]] = field(default_factory=list)


@dataclass
class StepRecord:
    """Everything recorded in one step.

    tokens: of this rank's data parallel replica. memory: peak bytes allocated and reserved. interval_ns: from the end
    of the step before, on the host's clock.
    """

    step: int
    root: Span
    spans: list[Span] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    tokens: int = 0
    microbatches: int = 0
    interval_ns: int | None = None
    memory: tuple[int | None, int | None] = (None, None)


@dataclass
class Position:
    """Where in the step the process is.

    direction: "forward" or "backward" inside a microbatch, "" outside. chunk: virtual pipeline chunk.
    """

    direction: str = ""
    microbatch: int | None = None
    chunk: int | None = None

    def enter(self, direction: str, microbatch: int | None, chunk: int | None) -> None:
        """A microbatch's forward or backward pass begins."""
        self.direction, self.microbatch, self.chunk = direction, microbatch, chunk

    def leave(self) -> None:
        """The pass is over."""
        self.direction = ""


class Recorder:
    """Opens and closes spans. Forward spans nest by a stack; backward ones by their twins."""

    def __init__(self, clock: Clock, ranges: Ranges, max_rows: int) -> None:
        self.clock = clock
        self.ranges = ranges
        self.record: StepRecord | None = None
        self.stack: list[Span] = []
        self.dropped = 0
        self._room = max_rows
        self._max_rows = max_rows
        self._next_id = 0
        self._sequences: dict[Hashable, int] = {}

    @property
    def recording(self) -> bool:
        return self.record is not None

    def start_step(self, step: int) -> None:
        self.clock.start_step()
        self.stack = []
        self._sequences = {}
        self._room = self._max_rows
        root = self.new_span("step", "step", "update")
        self.record = StepRecord(step, root)
        self.open(root)

    def end_step(self) -> StepRecord:
        record = self.record
        assert record is not None
        while self.stack:
            self.close(self.stack[-1])
        self.record = None
        return record

    def new_span(
        self,
        name: str,
        kind: str,
        phase: str,
        *,
        parent: Span | None = None,
        layer: int | None = None,
        microbatch: int | None = None,
        chunk: int | None = None,
    ) -> Span:
        """A span that is not running yet; parent defaults to the innermost open one."""
        self._next_id += 1
        if parent is None and self.stack:
            parent = self.stack[-1]
        return Span(self._next_id, parent, name, kind, phase, layer, microbatch, chunk)

    def open(self, span: Span) -> None:
        """Start a span and make it the innermost one."""
        self.stack.append(span)
        self.start(span)

    def close(self, span: Span) -> None:
        """End a span and all that is still open inside it."""
        if span not in self.stack:
            return
        while self.stack:
            inner = self.stack.pop()
            self.stop(inner)
            if inner is span:
                return

    def start(self, span: Span) -> None:
        span.range = self.ranges.push(span.name)
        span.stream = self.clock.side_stream()
        span.begin = self.clock.now()

    def stop(self, span: Span) -> None:
        """Take the end mark and keep the span, if there is room."""
        span.end = self.clock.now()
        if span.range is not None:
            self.ranges.pop(span.range)
            span.range = None
        record = self.record
        if record is None:
            return
        if self._room > 0 or span is record.root:
            self._room -= 1
            record.spans.append(span)
        else:
            self.dropped += 1

    def current(self) -> Span | None:
        return self.stack[-1] if self.stack else None

    def next_sequence(self, key: Hashable) -> int:
        """Ordinal of a call in its group within the step."""
        number = self._sequences.get(key, 0)
        self._sequences[key] = number + 1
        return number

    def add_call(self, call: Call) -> None:
        record = self.record
        if record is None:
            return
        if self._room > 0:
            self._room -= 1
            record.calls.append(call)
        else:
            self.dropped += 1
