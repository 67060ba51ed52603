"""The hardware: device, links inside a node, network between nodes, price."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vtrain_sim.specs.validation import finite, one_of, positive, whole


@dataclass(frozen=True)
class DeviceSpec:
    """One GPU (or processor): published peaks. Efficiencies are in the cost surfaces.

    peak_flops: FLOP/s by dtype; memory_bandwidth: bytes/s; memory_bytes: capacity. modelled_only: no
    end-to-end measurement stands behind its coefficients; reports say so. cuda_names: what the driver
    calls it, where that does not have the name in it.
    """

    name: str
    peak_flops: dict[str, float] = field(hash=False)
    memory_bandwidth: float
    memory_bytes: int
    modelled_only: bool = False
    cuda_names: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> DeviceSpec:
        """From the table of a file; `source` says where its numbers are from."""
        values = {k: v for k, v in table.items() if k != "source"}
        values["cuda_names"] = tuple(values.get("cuda_names", ()))
        return cls(**values)

    def is_called(self, device_name: str) -> bool:
        """Whether a driver's name of a device is this one's."""
        return self.name in device_name or device_name in self.cuda_names

    def __post_init__(self) -> None:
        for dtype, rate in self.peak_flops.items():
            finite(f"peak rate for {dtype} of device {self.name}", rate, 1.0)
        finite(f"memory bandwidth of device {self.name}", self.memory_bandwidth, 1.0)
        whole(f"memory of device {self.name}", self.memory_bytes, 1)

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s of a dtype; the best listed one where it is not."""
        return self.peak_flops.get(dtype) or max(self.peak_flops.values())


@dataclass(frozen=True)
class NetworkSpec:
    """Alpha-beta parameters of one level of the network.

    bandwidth: bytes/s that one rank reaches in a ring over this level (bus bandwidth).
    latency_s: per collective call. hop_latency_s: per step of a ring. p2p_bandwidth: bytes/s of one
    point-to-point transfer. node_bandwidth, p2p_node_bandwidth: bytes/s of collectives, and of transfers,
    that all ranks of a node share, 0: not shared.
    oversubscription: of the switches above the nodes. ramp_s, ramp_bytes: further latency of calls that
    are large against ramp_bytes (NCCL's protocols). sigma: uncertainty of a modelled time, standard
    deviation of its logarithm.
    """

    name: str
    bandwidth: float
    latency_s: float
    hop_latency_s: float = 0.0
    p2p_bandwidth: float = 0.0
    node_bandwidth: float = 0.0
    p2p_node_bandwidth: float = 0.0
    oversubscription: float = 1.0
    ramp_s: float = 0.0
    ramp_bytes: float = 1.0
    copy_bandwidth: float = 0.0
    sigma: float = 0.15
    source: str = ""

    def __post_init__(self) -> None:
        finite(f"bandwidth of network {self.name}", self.bandwidth, 1.0)
        finite(f"latency of network {self.name}", self.latency_s)
        finite(f"hop latency of network {self.name}", self.hop_latency_s)
        finite(f"point-to-point bandwidth of network {self.name}", self.p2p_bandwidth)
        finite(f"node bandwidth of network {self.name}", self.node_bandwidth)
        finite(f"oversubscription of network {self.name}", self.oversubscription, 1.0)


@dataclass(frozen=True)
class ClusterSpec:
    """Devices, nodes and networks.

    overlap_efficiency: share of a communication that can really hide behind compute (1 on GPUs with
    their own copy engines, 0 where communication runs on the cores that compute).
    contention: factor on compute times when all devices of a node work at once. overlap_slowdown:
    factor on the time of communication that runs beside compute, whose cores and memory it shares.
    straggler_sigma: how much nodes differ in speed, standard deviation over the mean: all wait for the
    slowest. price_per_gpu_hour: US dollars; 0 where unknown.
    """

    name: str
    device: DeviceSpec
    gpus_per_node: int
    intra_node: NetworkSpec
    inter_node: NetworkSpec
    price_per_gpu_hour: float = 0.0
    overlap_efficiency: float = 1.0
    contention: float = 1.0
    overlap_slowdown: float = 1.0
    straggler_sigma: float = 0.0
    backend: str = "nccl"

    def __post_init__(self) -> None:
        positive("GPUs a node", self.gpus_per_node)
        finite("--price-per-gpu-hour", self.price_per_gpu_hour)
        finite("overlap efficiency", self.overlap_efficiency)
        finite("contention", self.contention, 0.5)
        finite("overlap slowdown", self.overlap_slowdown, 1.0)
        finite("straggler sigma", self.straggler_sigma)
        one_of("backend", self.backend, ("nccl", "gloo", "mpi", "ucc", "fake"))
