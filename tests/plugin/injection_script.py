"""Trains again and again, each time with a failure in another function of the plugin, at another of its calls.

Prints a line per training that was not as without the plugin, then how many there were. Arguments: an output
directory, and what to do: "fail" at every function of the plugin, "fail-kernels" at those of ``--kernels``, or
"disable" from a hook of the user's on every module.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import vtrain_plugin
from plugin.toy_training import ToyTraining, replaced_functions

PLUGIN = os.path.dirname(os.path.abspath(vtrain_plugin.__file__)) + os.sep
STEPS = 3
# What catches the failures of the others, or is called by it once something has failed.
SHELLS = ("Guard.run", "Guard.fail", "report", "Session.on_optimizer_end", "Session._tidy", "Session.close")


def is_guarded(frame: FrameType) -> bool:
    """Whether this is a call of the plugin's by the plugin: what torch and Megatron call are the shells around it."""
    caller = frame.f_back
    if not frame.f_code.co_filename.startswith(PLUGIN) or caller is None:
        return False
    return caller.f_code.co_filename.startswith(PLUGIN) and name_of(frame.f_code) not in SHELLS


def name_of(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)


class Tracer:
    """Counts the guarded calls of each function; fails in one of them, if told to. call: counted from 1."""

    def __init__(self, target: CodeType | None = None, call: int = 0) -> None:
        self.target, self.call = target, call
        self.counts: Counter[CodeType] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if not is_guarded(frame):
            return
        self.counts[code] += 1
        if code is self.target and self.counts[code] == self.call:
            raise ZeroDivisionError("injected")


class Injections:
    """Trainings under the plugin, compared with one without it."""

    def __init__(self, out: str, kernels: bool) -> None:
        self.out, self.kernels = out, kernels
        self.training = ToyTraining()
        self.functions = replaced_functions()
        self.expected = self.training.run(STEPS)
        self.trainings = self.bad = 0

    def train(self, what: str, tracer: Tracer | None) -> None:
        """Train with the plugin; say so if training was changed or anything of the plugin is left."""
        self.trainings += 1
        problems = []
        vtrain_plugin.enable(self.out, warmup=1, steps=1, kernels=self.kernels, nvtx=False, run_id=f"r{self.trainings}")
        sys.settrace(tracer)
        threading.settrace(tracer)
        try:
            if self.training.run(STEPS) != self.expected:
                problems.append("other losses")
        except Exception as error:
            problems.append(f"training failed with {type(error).__name__}: {error}")
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        vtrain_plugin.disable()
        if self.training.hooks_left():
            problems.append("hooks left at the end")
        after = replaced_functions()
        problems += [f"{name} is left replaced" for name in after if after[name] is not self.functions[name]]
        if problems:
            self.bad += 1
            print(f"{what}: {'; '.join(problems)}")

    def fail_everywhere(self, only: Callable[[str], bool]) -> None:
        counting = Tracer()
        self.train("no failure", counting)
        for code, calls in counting.counts.items():
            if not only(code.co_filename):
                continue
            for call in sorted({1, calls}):
                self.train(f"{name_of(code)}, call {call} of {calls}", Tracer(code, call))

    def disable_everywhere(self) -> None:
        """Switch off in a hook of the user's, registered before the plugin's or after, at several calls."""
        for name, module in list(self.training.model.named_modules()):
            if isinstance(module, torch.nn.ModuleList):  # is not called
                continue
            for register in (module.register_forward_pre_hook, module.register_forward_hook):
                # Two microbatches a step; the plugin's hooks come in the last step of the warm-up.
                for call in (2, 3, 4):
                    self._disable_at(register, name, call)

    def _disable_at(self, register: Callable[..., Any], name: str, at: int) -> None:
        calls = [0]

        def hook(*arguments: object, **keywords: object) -> None:
            calls[0] += 1
            if calls[0] == at:
                vtrain_plugin.disable()
            if calls[0] == 2 * STEPS:
                handle.remove()

        handle = register(hook)
        self.train(f"disabled in {register.__name__} of {name or 'the model'}, call {at}", None)


def main() -> None:
    out, what = sys.argv[1:3]
    injections = Injections(out, what == "fail-kernels")
    if what == "disable":
        injections.disable_everywhere()
    elif what == "fail-kernels":
        injections.fail_everywhere(lambda path: "kineto" in os.path.basename(path))
    else:
        injections.fail_everywhere(lambda path: True)
    print(f"{injections.trainings} trainings, {injections.bad} bad")


if __name__ == "__main__":
    main()
