"""Whether torch is in the middle of something that hooks must not be taken out of.

A module reads which of its hooks take keyword arguments while it calls them, and a backward pass goes
through the hooks of the tensors it meets: a hook taken out there is called in another way than it was
registered for.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType


def torch_is_idle() -> bool:
    """Whether no thread is inside a module's forward call or a backward pass.

    Looks at the Python stacks of all threads, so it costs tens of microseconds.
    """
    if "torch" not in sys.modules:
        return True
    running = _running_codes()
    names = {code.co_name for code in running}
    return not any(_is_inside(frame, names, running) for frame in sys._current_frames().values())


def _running_codes() -> set[CodeType]:
    """The Python functions that a forward call and a backward pass are inside of."""
    import torch

    functions = [torch.autograd.backward, torch.autograd.grad]
    functions += [getattr(torch.nn.Module, name, None) for name in ("_wrapped_call_impl", "_call_impl", "__call__")]
    return {function.__code__ for function in functions if hasattr(function, "__code__")}


def _is_inside(frame: FrameType | None, names: set[str], codes: set[CodeType]) -> bool:
    while frame is not None:
        # Comparing names first: comparing code objects is slow.
        if frame.f_code.co_name in names and frame.f_code in codes:
            return True
        frame = frame.f_back
    return False
