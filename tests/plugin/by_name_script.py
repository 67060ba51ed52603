"""Sends and receives through functions that modules imported by name, before, during and after a capture.

Prints the recorded calls as JSON: (op, ranks, bytes).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from vtrain_plugin.capture import collectives
from vtrain_plugin.capture.clock import HostClock
from vtrain_plugin.capture.ranges import NoRanges
from vtrain_plugin.capture.recorder import Recorder
from vtrain_plugin.capture.session import Session
from vtrain_plugin.capture.settings import Settings

NAMES = "from torch.distributed import P2POp, batch_isend_irecv, irecv, isend, recv, send\n"


def imported(name: str) -> Any:
    """A module, of no package that the plugin knows, that imports the functions by name now."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(NAMES, vars(module))
    return module


def operations(module: Any) -> list[Any]:
    tensor = torch.ones(4)
    return [module.P2POp(module.isend, tensor, 1), module.P2POp(module.irecv, tensor, 1)]


def finish(works: list[Any]) -> None:
    for work in works:
        work.wait()


def exchange(module: Any) -> None:
    """Every way to send and receive."""
    tensor = torch.ones(4)
    module.send(tensor, 1)
    module.recv(tensor, 1)
    finish([module.isend(tensor, 1), module.irecv(tensor, 1)])
    finish(module.batch_isend_irecv(operations(module)))


def main() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    early = imported("early")
    made_early = operations(early)
    session = Session(Settings(out="unused"))
    session.recorder = Recorder(HostClock(), NoRanges(), 1000)
    framework: Any = SimpleNamespace(role_of_group=lambda group: None)
    collectives.install(session, framework)
    session.recorder.start_step(0)
    late = imported("late")
    recorded: list[Callable[[], None]] = [
        lambda: exchange(early),
        lambda: exchange(late),
        lambda: exchange(dist),
        lambda: finish(late.batch_isend_irecv(made_early)),
    ]
    for step in recorded:
        step()
    made_late = operations(late)
    record = session.recorder.end_step()
    session.finished = True
    session._tidy()
    for module in (early, late, dist):
        exchange(module)
    finish(early.batch_isend_irecv(made_late))
    print(json.dumps([(call.op, call.ranks, call.nbytes) for call in record.calls]))


if __name__ == "__main__":
    main()
