"""What it costs to stop a job and let it go on: a checkpoint that is written and read, and a start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vtrain_sim.decide.fleet.speeds import Kind

# Seconds from the start of a job's processes until it trains, without reading a checkpoint: an assumption.
STARTUP_S = 60.0
# Bytes/s at which one node writes to storage, and reads: an assumption.
NODE_BYTES_PER_S = 5e9


@dataclass(frozen=True)
class Checkpoints:
    """Seconds of checkpoints and restarts.

    restart_s: of a stop and restart, for every job; None: from the bytes. state_bytes: of a checkpoint, by kind of job.
    node_bytes_per_s: at which each node of a job writes and reads its part of them. gpus_per_node: GPUs of a node.
    startup_s: from the start of the processes until the job trains, without the reading.
    """

    restart_s: float | None = 60.0
    state_bytes: Mapping[Kind, float] = field(default_factory=dict)
    node_bytes_per_s: float = NODE_BYTES_PER_S
    gpus_per_node: int = 1
    startup_s: float = STARTUP_S

    def transfer_s(self, kind: Kind, gpus: int) -> float:
        """To write a checkpoint, or to read it, on so many GPUs."""
        nodes = -(-gpus // self.gpus_per_node)
        return self.state_bytes.get(kind, 0.0) / (self.node_bytes_per_s * nodes)

    def pause_s(self, kind: Kind, gpus: int) -> float:
        """From a stop that was planned until the job trains on so many GPUs: it is written, and read, by them."""
        if self.restart_s is not None:
            return self.restart_s
        return self.startup_s + 2 * self.transfer_s(kind, gpus)

    def recovery_s(self, kind: Kind, gpus: int) -> float:
        """The same after a failure: the checkpoint is there."""
        if self.restart_s is not None:
            return self.restart_s
        return self.startup_s + self.transfer_s(kind, gpus)
