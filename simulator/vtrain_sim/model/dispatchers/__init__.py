"""Token dispatchers of mixture of experts layers, one file each: what communication brings tokens to their experts."""

from vtrain_sim.model.dispatchers.allgather import AllGatherDispatcher
from vtrain_sim.model.dispatchers.alltoall import AllToAllDispatcher
from vtrain_sim.model.dispatchers.base import Dispatcher, Exchange, Routing
from vtrain_sim.model.dispatchers.flex import FlexDispatcher
from vtrain_sim.model.dispatchers.registry import check_dispatcher, dispatcher, names, register

for _dispatcher in (
    AllToAllDispatcher(),
    AllGatherDispatcher(),
    FlexDispatcher("deepep"),
    FlexDispatcher("hybridep", gathers_map=True, permutes=True),
):
    register(_dispatcher)

__all__ = [
    "AllGatherDispatcher",
    "AllToAllDispatcher",
    "Dispatcher",
    "Exchange",
    "FlexDispatcher",
    "Routing",
    "check_dispatcher",
    "dispatcher",
    "names",
    "register",
]
