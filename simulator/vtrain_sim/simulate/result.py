"""What one projection says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.results import Document, Result, Row
from vtrain_sim.simulate.memory import MemoryVerdict
from vtrain_sim.specs import ClusterSpec, Configuration, TrainSpec
from vtrain_sim.specs.checks import finite

SCHEMA = "vtrain.projection/1"
# The band holds the true time with this probability, if errors are normal in the logarithm.
BAND_PROBABILITY = 0.9
# One number, or one for each of many configurations.
Number = TypeVar("Number", float, NDArray[np.float64])


def days_to_train(steps: Number, iteration_time_s: Number) -> Number:
    """Days of so many steps. Like the two below, takes numbers or arrays."""
    return steps * iteration_time_s / 86400


def dollars(days: Number, gpus: Number, cluster: ClusterSpec) -> Number:
    """US dollars for so many GPUs at the cluster's price per GPU-hour."""
    return days * 24 * gpus * cluster.price_per_gpu_hour


def peak_of(cluster: ClusterSpec, train: TrainSpec) -> float:
    """FLOP/s of a device at its peak in the type that the linear layers multiply in."""
    return cluster.device.peak(train.precision.product_dtype)


def share_of_peak(flops: Number, gpus: Number, peak_flops: Number, iteration_time_s: Number) -> Number:
    """FLOPs of a step per second over the peak of the devices, FLOP/s each (`peak_of`)."""
    return flops / (gpus * peak_flops * iteration_time_s)


@dataclass(frozen=True, repr=False)
class Projection(Result):
    """What a configuration would do, per training step. Times in seconds, sizes in bytes, shares 0 to 1.

    iteration_time_low_s, iteration_time_high_s: band that holds the true time with `BAND_PROBABILITY`.
    breakdown_s: where the time of the bottleneck stage (critical_stage) goes; adds up to iteration_time_s.
    provenance: shares of that time that were measured, interpolated or modelled. train_tokens: tokens to
    train on, 0 where only steps matter. errors: by source (a kind of work, wherever it occurs), the share of the step
    by which it may be wrong, and step_sigma: what is beside them, one standard deviation of the logarithm each.

    >>> import vtrain as vt
    >>> projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
    >>> projection.iteration_time_low_s < projection.iteration_time_s < projection.iteration_time_high_s
    True
    >>> projection.memory.fits, 0 < projection.mfu < 1
    (True, True)
    """

    configuration: Configuration
    cluster: ClusterSpec
    iteration_time_s: float
    iteration_time_low_s: float
    iteration_time_high_s: float
    critical_stage: int
    breakdown_s: dict[str, float]
    provenance: dict[str, float]
    memory: MemoryVerdict
    model_flops: float
    hardware_flops: float
    train_tokens: float = 0.0
    errors: dict[str, float] = field(default_factory=dict, repr=False)
    step_sigma: float = 0.0

    @property
    def mfu(self) -> float:
        """Model FLOPs (no recomputation) per second over the devices' peak (PaLM, appendix B); 0 to 1.

        >>> import vtrain as vt
        >>> projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
        >>> 0 < projection.mfu <= projection.hfu <= 1
        True
        """
        return self._share_of_peak(self.model_flops)

    @property
    def model_tflops_per_s_per_gpu(self) -> float:
        """Model TFLOP/s of one device: what Megatron-LM logs as "throughput per GPU (TFLOP/s/GPU)".

        >>> import vtrain as vt
        >>> projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
        >>> round(projection.model_tflops_per_s_per_gpu / 312, 3) == round(projection.mfu, 3)
        True
        """
        return self.model_flops / self.iteration_time_s / self.configuration.parallel.world_size / 1e12

    @property
    def peak_tflops_per_s_per_gpu(self) -> float:
        """What MFU and HFU are shares of: the device's published TFLOP/s in the type that linear layers multiply in.

        >>> import vtrain as vt
        >>> vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)).peak_tflops_per_s_per_gpu
        312.0
        """
        return peak_of(self.cluster, self.configuration.train) / 1e12

    @property
    def hfu(self) -> float:
        """Executed FLOPs (recomputation included), mean of the ranks, per second over the devices' peak; 0 to 1.

        >>> import vtrain as vt
        >>> projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
        >>> projection.hfu == projection.to_dict()["hfu"]
        True
        """
        return self._share_of_peak(self.hardware_flops)

    def _share_of_peak(self, flops: float) -> float:
        ranks = self.configuration.parallel.world_size
        peak = peak_of(self.cluster, self.configuration.train)
        return float(share_of_peak(flops, ranks, peak, self.iteration_time_s))

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Training tokens per second and device.

        >>> import vtrain as vt
        >>> projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
        >>> tokens = projection.configuration.tokens_per_step
        >>> round(projection.tokens_per_s_per_gpu * 8 * projection.iteration_time_s) == tokens
        True
        """
        configuration = self.configuration
        return configuration.tokens_per_step / self.iteration_time_s / configuration.parallel.world_size

    def days(self, tokens: float) -> float:
        """Days to train on `tokens` tokens without interruption.

        >>> import vtrain as vt
        >>> projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
        >>> projection.days(2e12) == 2 * projection.days(1e12)
        True
        """
        finite("tokens", tokens)
        return float(days_to_train(tokens / self.configuration.tokens_per_step, self.iteration_time_s))

    def cost_usd(self, tokens: float) -> float:
        """US dollars for `tokens` tokens at the cluster's price per GPU-hour.

        >>> import vtrain as vt
        >>> projection = vt.project(vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16))
        >>> gpu_hours = 8 * 24 * projection.days(1e12)
        >>> round(projection.cost_usd(1e12) / gpu_hours, 2) == projection.cluster.price_per_gpu_hour
        True
        """
        return float(dollars(self.days(tokens), self.configuration.parallel.world_size, self.cluster))

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.projection/1."""
        parallel, train = self.configuration.parallel, self.configuration.train
        document = {
            "schema": SCHEMA,
            "cluster": self.cluster.name,
            "device": self.cluster.device.name,
            "modelled_only": self.cluster.device.modelled_only,
            "num_gpus": parallel.world_size,
            "parallel": {
                "tp": parallel.tp,
                "pp": parallel.pp,
                "vpp": parallel.vpp,
                "cp": parallel.cp,
                "ep": parallel.ep,
                "etp": parallel.etp,
                "dp": parallel.dp,
                "fsdp": parallel.fsdp,
                "stage_layers": list(self.configuration.stage_layers),
                "sequence_parallel": parallel.sequence_parallel,
                "distributed_optimizer": parallel.distributed_optimizer,
            },
            "micro_batch_size": train.micro_batch_size,
            "global_batch_size": train.global_batch_size,
            "schedule": self.configuration.schedule,
            "iteration_time_s": self.iteration_time_s,
            "iteration_time_low_s": self.iteration_time_low_s,
            "iteration_time_high_s": self.iteration_time_high_s,
            "band_probability": BAND_PROBABILITY,
            "critical_stage": self.critical_stage,
            "breakdown_s": self.breakdown_s,
            "provenance": self.provenance,
            "memory": {
                "fits": self.memory.fits,
                "tight": self.memory.tight,
                "margin_bytes": self.memory.margin_bytes,
                "capacity_bytes": self.memory.capacity_bytes,
                "remedy": self.memory.remedy,
                "stages": [
                    {"stage": s.stage, "peak_bytes": s.peak_bytes, **{f"{k}_bytes": v for k, v in s.terms().items()}}
                    for s in self.memory.stages
                ],
            },
            "mfu": self.mfu,
            "hfu": self.hfu,
            "peak_tflops_per_s_per_gpu": self.peak_tflops_per_s_per_gpu,
            "model_tflops_per_s_per_gpu": self.model_tflops_per_s_per_gpu,
            "tokens_per_s_per_gpu": self.tokens_per_s_per_gpu,
        }
        return document | self._training()

    def _training(self) -> dict[str, float]:
        """Days and dollars, where the tokens to train on were given."""
        tokens = self.train_tokens
        if not tokens:
            return {}
        return {"train_tokens": tokens, "days": self.days(tokens), "cost_usd": self.cost_usd(tokens)}

    def summary(self) -> dict[str, object]:
        """Layout, time, MFU and memory."""
        parallel = self.configuration.parallel
        return {
            "model": self.configuration.model.name or None,
            "cluster": self.cluster.name,
            "num_gpus": parallel.world_size,
            **parallel.sizes,
            "iteration_time_s": self.iteration_time_s,
            "mfu": self.mfu,
            "fits": self.memory.fits,
            **self._training(),
        }

    def rows(self) -> list[Row]:
        """One row, with the columns of a sweep's."""
        parallel, train = self.configuration.parallel, self.configuration.train
        row: Row = {
            "cluster": self.cluster.name,
            "num_gpus": parallel.world_size,
            **{name: getattr(parallel, name) for name in ("tp", "pp", "vpp", "cp", "ep", "etp", "dp")},
            "mbs": train.micro_batch_size,
            "gbs": train.global_batch_size,
            "seq_length": self.configuration.model.seq_length,
            "recompute": train.recompute_granularity,
            "schedule": self.configuration.schedule,
            "iteration_time_s": self.iteration_time_s,
            "iteration_time_low_s": self.iteration_time_low_s,
            "iteration_time_high_s": self.iteration_time_high_s,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "model_tflops_per_s_per_gpu": self.model_tflops_per_s_per_gpu,
            "tokens_per_s_per_gpu": self.tokens_per_s_per_gpu,
            "peak_bytes": self.memory.worst.peak_bytes,
            "fits": self.memory.fits,
        }
        return [row | self._training()]

    def tables(self) -> dict[str, list[Row]]:
        """Where the time of the bottleneck stage goes, and the memory of each stage."""
        time = sorted(self.breakdown_s.items(), key=lambda part: -part[1])
        return {
            "where the time goes": [
                {"part": part, "time_s": seconds, "share": seconds / self.iteration_time_s} for part, seconds in time
            ],
            "memory by stage": [
                {"stage": s.stage, "peak_bytes": s.peak_bytes, **{f"{k}_bytes": v for k, v in s.terms().items()}}
                for s in self.memory.stages
            ],
        }
