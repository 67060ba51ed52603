"""Collectives and point-to-point calls: every call of torch.distributed's functions.

A blocking call is timed around it. An asynchronous one is timed from its issue to the end of the
wait for it, and the wait itself is kept as the exposed part. NCCL's own duration needs
``--kernels``: on the issuing stream only the wait is visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vtrain_plugin.adapters.megatron.context import ModelContext, dtype_name
from vtrain_plugin.adapters.megatron.groups import Groups
from vtrain_plugin.capture.recorder import Call

# function -> (op, positions of the tensors whose largest total is the payload)
_COLLECTIVES = {
    "all_reduce": ("all_reduce", ("tensor",)),
    "all_gather_into_tensor": ("all_gather", ("output_tensor", "input_tensor")),
    "_all_gather_base": ("all_gather", ("output_tensor", "input_tensor")),
    "all_gather": ("all_gather", ("tensor_list", "tensor")),
    "reduce_scatter_tensor": ("reduce_scatter", ("output", "input")),
    "_reduce_scatter_base": ("reduce_scatter", ("output", "input")),
    "reduce_scatter": ("reduce_scatter", ("output", "input_list")),
    "all_to_all_single": ("all_to_all", ("output", "input")),
    "all_to_all": ("all_to_all", ("output_tensor_list", "input_tensor_list")),
    "broadcast": ("broadcast", ("tensor",)),
    "reduce": ("reduce", ("tensor",)),
    "barrier": ("barrier", ()),
}
_GROUP_POSITION = {
    "all_reduce": 2,
    "all_gather_into_tensor": 2,
    "_all_gather_base": 2,
    "all_gather": 2,
    "reduce_scatter_tensor": 3,
    "_reduce_scatter_base": 3,
    "reduce_scatter": 3,
    "all_to_all_single": 4,
    "all_to_all": 2,
    "broadcast": 2,
    "reduce": 3,
    "barrier": 0,
}
_POINT_TO_POINT = {"send": "send", "recv": "recv", "isend": "send", "irecv": "recv"}


def install(session: Any, context: ModelContext) -> None:
    """Wrap torch.distributed's functions and the wait of asynchronous work."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    recorder = CallRecorder(session)
    for name, (op, tensors) in _COLLECTIVES.items():
        session.patches.wrap_function(c10d, name, recorder.wrap_collective(name, op, tensors))
    for name, op in _POINT_TO_POINT.items():
        session.patches.wrap_function(c10d, name, recorder.wrap_point_to_point(op, name[0] == "i"))
    session.patches.wrap_function(c10d, "batch_isend_irecv", recorder.wrap_batch)
    session.patches.wrap_function(c10d, "_coalescing_manager", recorder.wrap_coalescing)
    session.patches.wrap(dist.Work, "wait", recorder.wrap_wait)
    _install_pipeline_spans(session)


def _install_pipeline_spans(session: Any) -> None:
    """A span around each communication call of the pipeline schedule."""
    try:
        from megatron.core.pipeline_parallel import p2p_communication
    except ImportError:
        return

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def _communicate(*args: Any, **kwargs: Any) -> Any:
            span = session.guard.run(begin)
            result = original(*args, **kwargs)
            if span is not None:
                session.guard.run(session.recorder.close, span)
            return result

        return _communicate

    def begin() -> Any:
        recorder = session.recorder
        if recorder is None or not recorder.recording:
            return None
        span = recorder.new_span("p2p", "p2p", "update")
        recorder.open(span)
        return span

    communicator = getattr(p2p_communication, "P2PCommunicator", None)
    if communicator is not None:
        session.patches.wrap(communicator, "_communicate", wrap)
    else:
        session.patches.wrap_function(p2p_communication, "_communicate", wrap)


class CallRecorder:
    """Turns calls into `Call` records. A call made by another recorded call is not recorded."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.groups = Groups()
        self._inside = False
        # Calls inside a coalescing manager: the communication happens when it is left.
        self._coalesced: list[Call] | None = None
        # id(work) -> (the work itself, so that its id is not reused, and its calls)
        self._open: dict[int, tuple[Any, list[Call]]] = {}

    # -- wrappers --------------------------------------------------------------------------

    def wrap_collective(
        self, name: str, op: str, tensors: tuple[str, ...]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._wrapper(lambda args, kwargs: self._begin(name, op, tensors, args, kwargs))

    def wrap_point_to_point(self, op: str, is_async: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._wrapper(lambda args, kwargs: self._begin_p2p(op, is_async, args, kwargs))

    def _wrapper(
        self, begin: Callable[[tuple[Any, ...], dict[str, Any]], Call | None]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A function that is recorded as the call that `begin` describes."""
        session = self.session

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
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

    def wrap_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        session = self.session

        def batch_isend_irecv(p2p_op_list: Any, *args: Any, **kwargs: Any) -> Any:
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

    def wrap_coalescing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        session = self.session

        @contextmanager
        def _coalescing_manager(*args: Any, **kwargs: Any) -> Iterator[Any]:
            self._coalesced = []
            begin = None
            try:
                with original(*args, **kwargs) as manager:
                    yield manager
                    if self._coalesced and session.recorder.recording:
                        begin = session.guard.run(session.recorder.clock.now)
                    self._inside = True
            finally:
                self._inside = False
                calls, self._coalesced = self._coalesced, None
            if calls and begin is not None:
                session.guard.run(self._left_coalescing, calls, begin, manager)

        return _coalescing_manager

    def wrap_wait(self, original: Callable[..., Any]) -> Callable[..., Any]:
        session = self.session

        def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
            calls = session.guard.run(self._pop_open, work)
            if not calls:
                return original(work, *args, **kwargs)
            begin = session.guard.run(session.recorder.clock.now)
            result = original(work, *args, **kwargs)
            session.guard.run(self._waited, calls, begin)
            return result

        return wait

    # -- records ---------------------------------------------------------------------------

    def _ready(self) -> Any:
        recorder = self.session.recorder
        if recorder is None or not recorder.recording or self._inside:
            return None
        return recorder

    def _begin(
        self, name: str, op: str, tensors: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call | None:
        recorder = self._ready()
        if recorder is None:
            return None
        position = _GROUP_POSITION[name]
        group = kwargs["group"] if "group" in kwargs else (args[position] if len(args) > position else None)
        role, ranks = self.groups.describe(group)
        values = [kwargs.get(t, args[i] if i < len(args) else None) for i, t in enumerate(tensors)]
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
            bool(kwargs.get("async_op", False)),
            self._span(),
            recorder.clock.now(),
        )

    def _begin_p2p(self, op: str, is_async: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        recorder = self._ready()
        if recorder is None:
            return None
        tensor = kwargs.get("tensor", args[0] if args else None)
        peer = kwargs.get("dst", kwargs.get("src", args[1] if len(args) > 1 else None))
        group = kwargs.get("group", args[2] if len(args) > 2 else None)
        return self._point_to_point(recorder, op, is_async, tensor, peer, group)

    def _point_to_point(self, recorder: Any, op: str, is_async: bool, tensor: Any, peer: Any, group: Any) -> Call:
        import torch.distributed as dist

        me = dist.get_rank()
        peer = -1 if peer is None else int(peer)
        ranks = (me, peer) if op == "send" else (peer, me)
        role, _ = self.groups.describe(group)
        # With two stages Megatron sends one direction over the world's group.
        role = "pp" if role == "world" else role
        sequence = recorder.next_sequence(("p2p", ranks))
        return Call(
            op,
            role,
            _bytes(tensor),
            _dtype(tensor),
            ranks,
            sequence,
            is_async,
            self._span(),
            recorder.clock.now(),
        )

    def _begin_batch(self, operations: Any) -> list[Call] | None:
        recorder = self._ready()
        if recorder is None:
            return None
        calls = []
        for operation in operations:
            function = getattr(operation.op, "__name__", "")
            op = "recv" if "recv" in function else "send"
            calls.append(self._point_to_point(recorder, op, True, operation.tensor, operation.peer, operation.group))
        return calls

    def _span(self) -> Any:
        recorder = self.session.recorder
        top = recorder.current()
        if top is not None and top.kind == "backward_step":
            return self.session.hooks_innermost() or top
        return top

    def _issued(self, call: Call, result: Any) -> None:
        from torch.distributed import Work

        recorder = self.session.recorder
        if self._coalesced is not None:
            self._coalesced.append(call)
            return
        recorder.add_call(call)
        if isinstance(result, Work):
            call.is_async = True
            self._open[id(result)] = (result, [call])
            if len(self._open) > 4096:
                # Work that nobody waits for: forget the oldest rather than hold its tensors.
                self._open.pop(next(iter(self._open)))
        else:
            call.is_async = False
            call.end = recorder.clock.now()

    def _issued_batch(self, calls: list[Call], works: Any) -> None:
        recorder = self.session.recorder
        for call in calls:
            recorder.add_call(call)
        works = list(works or [])
        # NCCL coalesces a batch into one work item, gloo returns one an operation.
        for index, work in enumerate(works):
            own = calls[index : index + 1] if len(works) == len(calls) else calls
            self._open[id(work)] = (work, own)
        if not works:
            for call in calls:
                call.end = recorder.clock.now()

    def _left_coalescing(self, calls: list[Call], begin: Any, manager: Any) -> None:
        """Record the calls of a coalescing manager as one: they are one communication."""
        from torch.distributed import Work

        recorder = self.session.recorder
        merged = calls[0]
        merged.nbytes = sum(call.nbytes for call in calls)
        merged.begin = begin
        recorder.add_call(merged)
        works = [w for w in getattr(manager, "works", []) if isinstance(w, Work)]
        merged.is_async = bool(works)
        if works:
            self._open[id(works[-1])] = (works[-1], [merged])
        else:
            merged.end = recorder.clock.now()

    def _pop_open(self, work: Any) -> list[Call] | None:
        entry = self._open.pop(id(work), None)
        if entry is None:
            return None
        return entry[1] if self.session.recorder.recording else None

    def _waited(self, calls: list[Call], begin: Any) -> None:
        end = self.session.recorder.clock.now()
        for call in calls:
            call.waits.append((self._span(), begin, end))
            call.end = end


def _bytes(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return sum(_bytes(v) for v in value)
    return int(value.numel()) * int(value.element_size()) if hasattr(value, "element_size") else 0


def _dtype(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return next((d for d in map(_dtype, value) if d), "")
    return dtype_name(value.dtype) if hasattr(value, "dtype") else ""
