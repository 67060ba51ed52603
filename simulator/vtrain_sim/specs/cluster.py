"""The hardware: device, levels of the network, price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from vtrain_schemas.operators import ELEMENT_TYPES, element_bytes
from vtrain_sim.specs.checks import Range, SpecError, one_of, positive

# US dollars of an hour of one GPU.
PRICE = Range(0.0, 1e6)
# FLOP/s, bytes/s; a rate that may be left out is 0 then.
_RATE, _SHARED_RATE = Range(1.0, 1e21), Range(1.0, 1e21, or_zero=True)
_MEMORY = Range(1, 1 << 50, whole=True)
_SECONDS = Range(0.0, 1e4)
# Standard deviation of a logarithm.
_SIGMA = Range(0.0, 5.0)
_OF_LEVEL = {
    "bandwidth": _RATE,
    "latency_s": _SECONDS,
    "hop_latency_s": _SECONDS,
    "p2p_bandwidth": _SHARED_RATE,
    "node_bandwidth": _SHARED_RATE,
    "p2p_node_bandwidth": _SHARED_RATE,
    "oversubscription": Range(1.0, 1e6),
    "ramp_s": _SECONDS,
    "ramp_bytes": Range(1e-3, 1e18),
    "copy_bandwidth": _SHARED_RATE,
    "exchange_bandwidth": _SHARED_RATE,
    "hybridep_bandwidth": _SHARED_RATE,
    "sigma": _SIGMA,
    "gpus": Range(0, 1 << 40, whole=True),
    "segment": Range(0, 1 << 40, whole=True),
}
_OF_CLUSTER = {
    "overlap_efficiency": Range(0.0, 1.0),
    "contention": Range(0.5, 100.0),
    "overlap_slowdown": Range(1.0, 100.0),
    "straggler_sigma": Range(0.0, 2.0),
    "p2p_sync_s": _SECONDS,
}


@dataclass(frozen=True)
class DeviceSpec:
    """One GPU (or processor): published peaks. Efficiencies are in the cost surfaces.

    peak_flops: FLOP/s by dtype; memory_bandwidth: bytes/s; memory_bytes: capacity. modelled_only: no
    end-to-end measurement stands behind its coefficients; reports say so. cuda_names: what the driver
    calls it, where that does not have the name in it. host_bandwidth: bytes/s of copies to the host's memory or from
    there, in one direction; host_memory_bandwidth: bytes/s of that memory, its part of what the GPUs of a host share.
    Both 0: not known.
    """

    name: str
    peak_flops: dict[str, float] = field(hash=False)
    memory_bandwidth: float
    memory_bytes: int
    modelled_only: bool = False
    cuda_names: tuple[str, ...] = ()
    host_bandwidth: float = 0.0
    host_memory_bandwidth: float = 0.0

    def is_called(self, device_name: str) -> bool:
        """Whether a driver's name of a device is this one's."""
        return self.name in device_name or device_name in self.cuda_names

    def __post_init__(self) -> None:
        for dtype, rate in self.peak_flops.items():
            one_of(f"a type in peak_flops of device {self.name}", dtype, ELEMENT_TYPES)
            _RATE.check(f"peak rate for {dtype} of device {self.name}", rate)
        _RATE.check(f"memory bandwidth of device {self.name}", self.memory_bandwidth)
        _MEMORY.check(f"memory of device {self.name}", self.memory_bytes)
        for entry in ("host_bandwidth", "host_memory_bandwidth"):
            _SHARED_RATE.check(f"{entry} of device {self.name}", getattr(self, entry))

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s of a dtype; the best listed one of 16 bits or more where it is not.

        Raises `SpecError` for a narrower type that is not listed: the device does not multiply in it.
        """
        if dtype in self.peak_flops:
            return self.peak_flops[dtype]
        wide = {name: rate for name, rate in self.peak_flops.items() if element_bytes(name) >= 2}
        if element_bytes(dtype) < 2 or not wide:
            raise SpecError(
                f"device {self.name} does not multiply in {dtype}: it lists peak rates for "
                f"{', '.join(self.peak_flops)}; leave out --fp8-format and --fp4-format, or name a cluster whose "
                f"device lists {dtype}"
            )
        return max(wide.values())


# Bandwidth of a network of which nothing is known, as of the machine of a captured run.
UNKNOWN_BANDWIDTH = 1.0


@dataclass(frozen=True)
class NetworkLevel:
    """Alpha-beta parameters of one level of the network.

    A level connects domains of the level below: the innermost one single GPUs, the next one whole nodes (or NVLink
    domains of any size), a further one the groups of nodes under one leaf switch. "Node" below is such a domain.

    gpus: GPUs of one domain of this level; 0: all of the cluster, or `ClusterSpec.gpus_per_node` of the innermost.
    segment: of the innermost level, GPUs of each domain that a job of several domains takes (Slurm's --segment, 64
    of the 72 of an NVL72); 0: all. The level above then has the links of these.
    bandwidth: bytes/s that one rank reaches in a ring over this level (bus bandwidth).
    latency_s: per collective call. hop_latency_s: per step of a ring. p2p_bandwidth: bytes/s of one
    point-to-point transfer. node_bandwidth, p2p_node_bandwidth: bytes/s of collectives, and of transfers,
    that all ranks of a node share, 0: not shared.
    oversubscription: of the switches above the nodes. ramp_s, ramp_bytes: further latency of calls that
    are large against ramp_bytes (NCCL's protocols). copy_bandwidth: bytes/s at which every rank reads and writes
    the payload in its own memory, 0: not counted. exchange_bandwidth: bytes/s at which one rank sends tokens to their
    experts with kernels made for it (DeepEP), 0: `bandwidth`; hybridep_bandwidth: with those of HybridEP, 0: the same.
    sigma: uncertainty of a modelled time, standard
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
    exchange_bandwidth: float = 0.0
    hybridep_bandwidth: float = 0.0
    sigma: float = 0.15
    source: str = ""
    gpus: int = 0
    segment: int = 0

    def __post_init__(self) -> None:
        for entry, allowed in _OF_LEVEL.items():
            allowed.check(f"{entry} of network {self.name}", getattr(self, entry))

    @property
    def is_known(self) -> bool:
        """Whether anything is known of its speed."""
        return self.bandwidth > UNKNOWN_BANDWIDTH


@dataclass(frozen=True)
class ClusterSpec:
    """Devices, nodes and networks.

    gpus_per_node: GPUs of one domain of the innermost level, a node or an NVLink domain of any size. intra_node:
    links inside it; inter_node: the network between them; outer: levels above that one, if any, from the
    inside out, of which each connects domains of the one before (`gpus`).
    overlap_efficiency: share of a communication that can really hide behind compute (1 on GPUs with
    their own copy engines, 0 where communication runs on the cores that compute).
    contention: factor on compute times when all devices of a node work at once. overlap_slowdown:
    factor on the time of communication that runs beside compute, whose cores and memory it shares.
    straggler_sigma: how much nodes differ in speed, standard deviation over the mean: all wait for the
    slowest. p2p_sync_s: seconds that an exchange between stages takes beside its transfer where nothing overlaps
    it: the host waits for the device (Megatron-Core's `batch_p2p_sync`), then launches again. price_per_gpu_hour: US
    dollars; 0 where unknown.
    """

    name: str
    device: DeviceSpec
    gpus_per_node: int
    intra_node: NetworkLevel
    inter_node: NetworkLevel
    price_per_gpu_hour: float = 0.0
    overlap_efficiency: float = 1.0
    contention: float = 1.0
    overlap_slowdown: float = 1.0
    straggler_sigma: float = 0.0
    p2p_sync_s: float = 0.0
    backend: str = "nccl"
    outer: tuple[NetworkLevel, ...] = ()

    def __post_init__(self) -> None:
        positive("GPUs per node", self.gpus_per_node)
        PRICE.check("--price-per-gpu-hour", self.price_per_gpu_hour)
        for entry, allowed in _OF_CLUSTER.items():
            allowed.check(entry, getattr(self, entry))
        one_of("backend", self.backend, ("nccl", "gloo", "mpi", "ucc", "fake"))
        self._check_domains()

    @cached_property
    def levels(self) -> tuple[NetworkLevel, ...]:
        """Levels of the network, from the inside out."""
        return (replace(self.intra_node, gpus=self.gpus_per_node), self.inter_node, *self.outer)

    @classmethod
    def of_levels(cls, name: str, device: DeviceSpec, levels: Sequence[NetworkLevel]) -> ClusterSpec:
        """A cluster whose network has these levels, from the inside out. Raises `SpecError` for fewer than two."""
        if len(levels) < 2:
            raise SpecError(f"cluster {name} has {len(levels)} network levels: it takes two or more")
        intra, inter, *outer = levels
        return cls(name, device, intra.gpus, replace(intra, gpus=0), inter, outer=tuple(outer))

    def _check_domains(self) -> None:
        if self.intra_node.gpus not in (0, self.gpus_per_node):
            raise SpecError(
                f"network {self.intra_node.name} has domains of {self.intra_node.gpus} GPUs, a node has "
                f"{self.gpus_per_node}: leave out the network's gpus"
            )
        if self.intra_node.segment > self.gpus_per_node:
            raise SpecError(
                f"network {self.intra_node.name} has a segment of {self.intra_node.segment} GPUs, a domain has "
                f"{self.gpus_per_node}: it takes as many or fewer"
            )
        for below, above in pairwise(self.levels):
            if above.segment:
                raise SpecError(f"network {above.name} takes no segment: only the innermost does")
            if not below.gpus:
                raise SpecError(f"network {below.name} has another level above it: it needs gpus, those of one domain")
            if above.gpus and (above.gpus <= below.gpus or above.gpus % below.gpus):
                raise SpecError(
                    f"network {above.name} has domains of {above.gpus} GPUs: it takes a multiple of the {below.gpus} "
                    f"of {below.name}"
                )
        if self.levels[-1].gpus:
            raise SpecError(
                f"network {self.levels[-1].name} is the outermost: it connects the whole cluster and takes no gpus"
            )
