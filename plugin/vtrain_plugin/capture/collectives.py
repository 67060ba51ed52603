"""Collectives and point-to-point calls: every call of torch.distributed's functions.

A blocking call is timed around it. Of an asynchronous one only the wait for it is seen here, the exposed part: when it
began and ended needs ``--kernels``. One that is issued, or waited for, on a side stream holds up that stream alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vtrain_plugin.capture.clock import Mark
from vtrain_plugin.capture.framework import Framework
from vtrain_plugin.capture.groups import Groups
from vtrain_plugin.capture.patches import Args, Function, Kwargs, Wrapper
from vtrain_plugin.capture.recorder import Call, Recorder, Span, StepRecord
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.tensors import dtype_name

if TYPE_CHECKING:
    from torch.distributed import P2POp, ProcessGroup, Work

# function -> (op, arguments whose largest total is the payload)
COLLECTIVES = {
    "all_reduce": ("all_reduce", ("tensor",)),
    "all_reduce_coalesced": ("all_reduce", ("tensors",)),
    "all_gather_single": ("all_gather", ("output_tensor", "input_tensor")),
    "all_gather_into_tensor": ("all_gather", ("output_tensor", "input_tensor")),
    "_all_gather_base": ("all_gather", ("output_tensor", "input_tensor")),
    "all_gather": ("all_gather", ("tensor_list", "tensor")),
    "all_gather_coalesced": ("all_gather", ("output_tensor_lists", "input_tensor_list")),
    "reduce_scatter_single": ("reduce_scatter", ("output", "input")),
    "reduce_scatter_tensor": ("reduce_scatter", ("output", "input")),
    "_reduce_scatter_base": ("reduce_scatter", ("output", "input")),
    "reduce_scatter": ("reduce_scatter", ("output", "input_list")),
    "all_to_all_single": ("all_to_all", ("output", "input")),
    "all_to_all": ("all_to_all", ("output_tensor_list", "input_tensor_list")),
    "broadcast": ("broadcast", ("tensor",)),
    "reduce": ("reduce", ("tensor",)),
    "gather": ("gather", ("tensor", "gather_list")),
    "scatter": ("scatter", ("tensor", "scatter_list")),
    "barrier": ("barrier", ()),
}
# Methods of a process group, which every function that sends or receives calls: `P2POp` and `batch_isend_irecv`
# compare the functions themselves with the ones that a module imported by name, so these are never replaced.
_POINT_TO_POINT = {"send": "send", "recv": "recv", "recv_anysource": "recv"}


def install(session: Session, framework: Framework) -> CallRecorder:
    """Wrap torch.distributed's functions and the wait of asynchronous work."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    recorder = CallRecorder(session, Groups(framework.role_of_group))
    for name, (op, tensors) in COLLECTIVES.items():
        session.patches.wrap_function(c10d, name, recorder.wrap_collective(op, tensors))
    for name, op in _POINT_TO_POINT.items():
        session.patches.wrap(dist.ProcessGroup, name, recorder.wrap_point_to_point(op))
    session.patches.wrap_function(c10d, "batch_isend_irecv", recorder.wrap_batch)
    session.patches.wrap_function(c10d, "_coalescing_manager", recorder.wrap_coalescing)
    session.patches.wrap(dist.Work, "wait", recorder.wrap_wait)
    return recorder


class CallRecorder:
    """Turns calls into `Call` records. A call made by another recorded call is not recorded."""

    def __init__(self, session: Session, groups: Groups) -> None:
        self.session = session
        self.groups = groups
        self._inside = False
        # Calls inside a coalescing manager: the communication happens when it is left.
        self._coalesced: list[Call] | None = None
        # id(work) -> the work itself, so that its id is not reused, its calls, and the step that they are of
        self._open: dict[int, tuple[Work, list[Call], StepRecord | None]] = {}

    # -- wrappers --------------------------------------------------------------------------

    def wrap_collective(self, op: str, tensors: tuple[str, ...]) -> Wrapper:
        """A function that all ranks of a group call; tensors: names of the arguments that are moved."""

        def wrap(original: Function) -> Function:
            position = {name: number for number, name in enumerate(inspect.signature(original).parameters)}

            def begin(args: Args, kwargs: Kwargs) -> Call | None:
                given = {name: args[at] for name, at in position.items() if at < len(args)} | kwargs
                return self._begin(op, [given.get(name) for name in tensors], given)

            return self._wrapper(begin)(original)

        return wrap

    def wrap_point_to_point(self, op: str) -> Wrapper:
        """A method of a process group that sends or receives: (group, tensors, the peer's rank in the group, tag)."""
        return self._wrapper(lambda args, kwargs: self._begin_p2p(op, args))

    def wrap_exchange(self, op: str, moved: Callable[[Args], tuple[object, ProcessGroup | None]]) -> Wrapper:
        """A function of a library that communicates without torch.distributed, and is waited for when it returns.

        moved: from its arguments, what it is given to move, and the group. The payload is the larger of that and of
        the first thing that it returns.
        """

        def wrap(original: Function) -> Function:
            session = self.session

            def begin(args: Args) -> Call | None:
                value, group = moved(args)
                return self._begin(op, [value], {"group": group})

            def end(call: Call, result: object) -> None:
                first = result[0] if isinstance(result, tuple) and result else result
                call.nbytes = max(call.nbytes, _bytes(first))
                self._issued(call, None)

            def exchange(*args: Any, **kwargs: Any) -> Any:
                call = session.guard.run(begin, args)
                result = original(*args, **kwargs)
                if call is not None:
                    session.guard.run(end, call, result)
                return result

            return exchange

        return wrap

    def _wrapper(self, begin: Callable[[Args, Kwargs], Call | None]) -> Wrapper:
        """A function that is recorded as the call that `begin` describes."""
        session = self.session

        def wrap(original: Function) -> Function:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                call = session.guard.run(begin, args, kwargs)
                if call is None:
                    return original(*args, **kwargs)
                self._inside = True
                try:
                    result = original(*args, **kwargs)
                finally:
                    self._inside = False
                session.guard.run(self._issued, call, result)
                return result

            return recorded

        return wrap

    def wrap_batch(self, original: Function) -> Function:
        """Several sends and receives that start together."""
        session = self.session

        def batch_isend_irecv(p2p_op_list: list[P2POp], *args: Any, **kwargs: Any) -> Any:
            calls = session.guard.run(self._begin_batch, p2p_op_list)
            if calls is None:
                return original(p2p_op_list, *args, **kwargs)
            self._inside = True
            try:
                works = original(p2p_op_list, *args, **kwargs)
            finally:
                self._inside = False
            session.guard.run(self._issued_batch, calls, works)
            return works

        return batch_isend_irecv

    def wrap_coalescing(self, original: Function) -> Function:
        """A context whose collectives become one communication when it is left."""
        session = self.session

        @contextmanager
        def _coalescing_manager(*args: Any, **kwargs: Any) -> Iterator[object]:
            # On leaving it compares the functions that were called with those of the module.
            session.pinned += 1
            self._coalesced = []
            begin = None
            try:
                with original(*args, **kwargs) as manager:
                    yield manager
                    begin = session.guard.run(self._leave_coalescing)
                    self._inside = True
            finally:
                session.pinned -= 1
                self._inside = False
                calls, self._coalesced = self._coalesced, None
            if calls and begin is not None:
                session.guard.run(self._left_coalescing, calls, begin, manager)

        return _coalescing_manager

    def wrap_wait(self, original: Function) -> Function:
        """The wait for asynchronous work."""
        session = self.session

        def wait(work: Work, *args: Any, **kwargs: Any) -> Any:
            waiting = session.guard.run(self._begin_wait, work)
            if waiting is None:
                return original(work, *args, **kwargs)
            result = original(work, *args, **kwargs)
            session.guard.run(self._waited, *waiting)
            return result

        return wait

    # -- records ---------------------------------------------------------------------------

    def _ready(self) -> Recorder | None:
        return None if self._inside else self.session.recording()

    def _begin(self, op: str, values: Sequence[object], given: Kwargs) -> Call | None:
        """values: what is moved, in one of several forms. given: all arguments, by name."""
        recorder = self._ready()
        if recorder is None:
            return None
        role, ranks = self.groups.describe(given.get("group"))
        nbytes = max((_bytes(v) for v in values), default=0)
        dtype = next((d for d in map(_dtype, values) if d), "")
        sequence = recorder.next_sequence((ranks, op))
        return Call(
            op,
            role,
            nbytes,
            dtype,
            ranks,
            sequence,
            bool(given.get("async_op", False)),
            self._span(recorder),
            recorder.clock.now(),
            stream=recorder.clock.side_stream(),
        )

    def _begin_p2p(self, op: str, args: Args) -> Call | None:
        import torch.distributed as dist

        recorder = self._ready()
        if recorder is None or len(args) < 3:
            return None
        group, tensors = args[0], args[1]
        # recv_anysource is given no peer: the tag follows.
        peer = dist.get_global_rank(group, int(args[2])) if len(args) > 3 else None
        return self._point_to_point(recorder, op, tensors, peer, None if group is dist.group.WORLD else group)

    def _point_to_point(
        self,
        recorder: Recorder,
        op: str,
        tensor: object,
        peer: int | None,
        group: ProcessGroup | None,
    ) -> Call:
        import torch.distributed as dist

        me = dist.get_rank()
        peer = -1 if peer is None else int(peer)
        ranks = (me, peer) if op == "send" else (peer, me)
        role, _ = self.groups.describe(group)
        # A pipeline of two stages may send one direction over the world's group.
        role = "pp" if role == "world" else role
        sequence = recorder.next_sequence(("p2p", ranks))
        return Call(
            op,
            role,
            _bytes(tensor),
            _dtype(tensor),
            ranks,
            sequence,
            True,
            self._span(recorder),
            recorder.clock.now(),
            stream=recorder.clock.side_stream(),
        )

    def _begin_batch(self, operations: Iterable[P2POp]) -> list[Call] | None:
        recorder = self._ready()
        if recorder is None:
            return None
        calls = []
        for operation in operations:
            function = getattr(operation.op, "__name__", "")
            op = "recv" if "recv" in function else "send"
            calls.append(self._point_to_point(recorder, op, operation.tensor, operation.peer, operation.group))
        return calls

    def _span(self, recorder: Recorder) -> Span | None:
        top = recorder.current()
        if top is not None and top.kind == "backward_step":
            return self.session.backward_span() or top
        return top

    def _issued(self, call: Call, result: object) -> None:
        from torch.distributed import Work

        recorder = self.session.recorder
        assert recorder is not None
        if self._coalesced is not None:
            self._coalesced.append(call)
            return
        recorder.add_call(call)
        if isinstance(result, Work):
            call.is_async = True
            self._add_issue_time(recorder, call)
            self._keep(recorder, result, [call])
        else:
            call.is_async = False
            call.end = recorder.clock.now()

    def _add_issue_time(self, recorder: Recorder, call: Call) -> None:
        """Gloo may block in the call that issues asynchronous work; on a GPU that holds up the host alone."""
        if recorder.clock.source == "host":
            call.waits.append((call.span, call.begin, recorder.clock.now()))

    def _issued_batch(self, calls: list[Call], returned: Iterable[Work] | None) -> None:
        recorder = self.session.recorder
        assert recorder is not None
        for call in calls:
            recorder.add_call(call)
        works = list(returned or [])
        if works and calls:
            self._add_issue_time(recorder, _waited_for(calls))
        # NCCL coalesces a batch into one work item, gloo returns one per operation.
        for index, work in enumerate(works):
            waited_for = calls[index : index + 1] if len(works) == len(calls) else calls
            self._keep(recorder, work, waited_for)
        if not works:
            for call in calls:
                call.end = recorder.clock.now()

    def _keep(self, recorder: Recorder, work: Work, calls: list[Call]) -> None:
        """Remember what a wait for the work will be for."""
        self._open[id(work)] = (work, calls, recorder.record)
        if len(self._open) > 4096:
            # Work that nobody waits for: forget the oldest rather than hold its tensors.
            self._open.pop(next(iter(self._open)))

    def _leave_coalescing(self) -> Mark | None:
        """When the communication of a coalescing manager begins; None where nothing is recorded."""
        recorder = self.session.recording()
        return recorder.clock.now() if recorder is not None and self._coalesced else None

    def _left_coalescing(self, calls: list[Call], begin: Mark, manager: object) -> None:
        """Record the calls of a coalescing manager as one: they are one communication."""
        from torch.distributed import Work

        recorder = self.session.recorder
        assert recorder is not None
        merged = calls[0]
        merged.nbytes = sum(call.nbytes for call in calls)
        merged.begin = begin
        recorder.add_call(merged)
        works = [w for w in getattr(manager, "works", []) if isinstance(w, Work)]
        merged.is_async = bool(works)
        if works:
            self._keep(recorder, works[-1], [merged])
        else:
            merged.end = recorder.clock.now()

    def _begin_wait(self, work: Work) -> tuple[list[Call], Mark] | None:
        """The recorded calls that the work is, and when the wait for them begins."""
        _, calls, step = self._open.pop(id(work), (None, None, None))
        recorder = self.session.recording()
        if not calls or recorder is None:
            return None
        now = recorder.clock.now()
        if step is not recorder.record:
            # Issued in the step before: the wait is a call of this one.
            calls = [replace(_waited_for(calls), begin=now, span=self._span(recorder), waits=[])]
            recorder.add_call(calls[0])
        return calls, now

    def _waited(self, calls: list[Call], begin: Mark) -> None:
        recorder = self.session.recorder
        assert recorder is not None
        end = recorder.clock.now()
        for call in calls:
            call.end = end
        if recorder.clock.side_stream() is None:
            _waited_for(calls).waits.append((self._span(recorder), begin, end))


def _waited_for(calls: Sequence[Call]) -> Call:
    """Several operations of one batch are one wait: for what is received, where something is."""
    return next((call for call in calls if call.op == "recv"), calls[0])


def _bytes(value: object) -> int:
    """Size of a tensor or of a list of them; 0 for anything else."""
    if isinstance(value, (list, tuple)):
        return sum(_bytes(v) for v in value)
    if hasattr(value, "numel") and hasattr(value, "element_size"):
        return int(value.numel()) * int(value.element_size())
    return 0


def _dtype(value: object) -> str:
    """Element type of a tensor or of the first of a list; "" for anything else."""
    if isinstance(value, (list, tuple)):
        return next((d for d in map(_dtype, value) if d), "")
    return dtype_name(value.dtype) if hasattr(value, "dtype") else ""
