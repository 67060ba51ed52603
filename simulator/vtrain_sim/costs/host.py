"""Copies between a device and the memory of its host, and updates that run there."""

from __future__ import annotations

from vtrain_sim.costs.estimate import MODELLED, Estimate
from vtrain_sim.errors import UserError
from vtrain_sim.model.offload import ADAM_BYTES, COPY, GRADIENT_BYTES, OVERLAPPED_UPDATE
from vtrain_sim.specs import ClusterSpec

# Standard deviation of the logarithm: published rates of links and memories, less what is usually lost.
_SIGMA = 0.25


def host_estimate(op: str, nbytes: int, cluster: ClusterSpec) -> Estimate:
    """Duration of one copy or update of `model.offload`; raises `UserError` where the device does not say the rates."""
    device = cluster.device
    for name in ("host_bandwidth", "host_memory_bandwidth"):
        if not getattr(device, name):
            raise UserError(
                f"device {device.name} does not say its {name} (bytes/s), which offloading to the host needs: name a "
                "cluster file whose device has it"
            )
    seconds = nbytes / (device.host_bandwidth if op == COPY else device.host_memory_bandwidth)
    if op == OVERLAPPED_UPDATE:
        # Both directions of the link at the same time, of which gradients take longer.
        seconds = max(seconds, nbytes / ADAM_BYTES * GRADIENT_BYTES / device.host_bandwidth)
    return Estimate(seconds, _SIGMA, MODELLED)
