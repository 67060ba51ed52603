"""Traces of two tensor-parallel ranks on GPUs under torch.profiler, worked out on a simulated host and device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.ingest.build import MAIN, Kineto

GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_cublas"
FLASH = "void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>, false, true>(Flash_fwd_params)"
FUSED = "void cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x128x128(Params)"
NORM = "void rmsnorm_fwd_tuned_kernel<Kernel_traits<__nv_bfloat16>>(ForwardKernelParams)"
GELU = "void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>(int, std::array<char*, 2ul>)"
ADAM = "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float>>(long, int volatile*)"
NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
HIDDEN, TOKENS = 4096, 2048
# In us: what the host needs for an operator and for the call that launches its kernel, and the device to begin.
_OPERATOR, _CALL, _BEGIN = 12.0, 4.0, 3.0
# The network: latency in us, and bytes per us.
_LATENCY, _RATE = 10.0, 200_000.0


@dataclass
class Rank:
    """One rank's trace so far. host, device: until when each is busy, us. slower: factor on its products."""

    trace: Kineto
    slower: float = 1.0
    host: float = 0.0
    device: float = 0.0
    correlation: int = 5000
    allocated: int = 2 << 30
    marks: list[tuple[str, float]] = field(default_factory=list)

    def launch(self) -> float:
        """The call that launches a kernel, within an operator that begins now; when it is made."""
        self.correlation += 1
        at = self.host + 5
        arguments = {"correlation": self.correlation}
        self.trace.event("cuda_runtime", "cudaLaunchKernel", at, _CALL, tid=MAIN, **arguments)
        return at

    def kernel(
        self, name: str, start: float, duration: float, stream: int = 7, category: str = "kernel", **arguments: Any
    ) -> None:
        """Something that runs on the device, launched by the latest call."""
        described = {"stream": stream, "correlation": self.correlation, "device": 0, **arguments}
        self.trace.event(category, name, start, duration, pid=0, tid=stream, **described)

    def compute(self, operator: str, name: str, duration: float, dims: list[list[int]] | None = None) -> None:
        """An operator with one kernel on stream 7."""
        slower = self.slower if name == GEMM else 1.0
        self.trace.op(operator, self.host, _OPERATOR, dims)
        begin = max(self.launch() + _CALL + _BEGIN, self.device + 1)
        self.kernel(name, begin, duration * slower)
        self.host, self.device = self.host + _OPERATOR, begin + duration * slower

    def copy(self, nbytes: int) -> None:
        """Copy from the host to the device, at 25 GB/s, on a stream of its own; the device waits for it."""
        self.trace.op("aten::copy_", self.host, _OPERATOR)
        begin, duration = max(self.launch() + _CALL + _BEGIN, self.device + 1), nbytes / 25_000
        self.kernel("Memcpy HtoD (Pinned -> Device)", begin, duration, 15, category="gpu_memcpy", bytes=nbytes)
        self.host, self.device = self.host + _OPERATOR, begin + duration

    def allocate(self, change: int) -> None:
        """A tensor is made, or let go."""
        self.allocated += change
        arguments = {"Device Type": 1, "Device Id": 0, "Bytes": change, "Total Allocated": self.allocated}
        sample = {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1, "tid": MAIN, "s": "t"}
        self.trace.events.append({**sample, "ts": self.host, "args": {**arguments, "Total Reserved": 3 << 30}})

    def begin(self, name: str) -> None:
        """Open a range."""
        self.marks.append((name, self.host))

    def end(self) -> None:
        """Close the innermost range."""
        name, since = self.marks.pop()
        self.trace.range(name, since, self.host - since)


def all_reduce(ranks: Sequence[Rank], elements: int, slow: float = 1.0) -> None:
    """All ranks together: it begins on each when it gets there, and ends when the last one has come."""
    described = {
        "Collective name": "allreduce",
        "In msg nelems": elements,
        "Out msg nelems": elements,
        "dtype": "BFloat16",
        "Group size": len(ranks),
        "Process Group Name": "1",
        "Process Group Description": "TENSOR_MODEL_PARALLEL_GROUP",
        "Process Group Ranks": str(list(range(len(ranks)))),
    }
    begins = [max(rank.launch() + _CALL + _BEGIN, rank.device + 2) for rank in ranks]
    end = max(begins) + slow * (_LATENCY + 2 * elements / _RATE)
    for rank, begin in zip(ranks, begins, strict=True):
        rank.trace.op("record_param_comms", rank.host, _OPERATOR, **described)
        rank.kernel(NCCL, begin, end - begin, 20, **described)
        rank.host, rank.device = rank.host + _OPERATOR, end


def layer(ranks: Sequence[Rank], number: int, attention: str, slow: float = 1.0) -> None:
    """One transformer layer forward: attention and MLP, each with an all-reduce."""
    wide = HIDDEN // 2
    for rank in ranks:
        rank.begin(f"decoder.layers.{number}")
        rank.compute("RMSNorm", NORM, 12)
        rank.allocate(64 << 20)
        rank.compute("aten::mm", GEMM, 140, [[TOKENS, HIDDEN], [HIDDEN, 3 * wide]])
        rank.compute("aten::scaled_dot_product_attention", attention, 90 if attention == FLASH else 60)
        rank.compute("aten::mm", GEMM, 50, [[TOKENS, wide], [wide, HIDDEN]])
    all_reduce(ranks, TOKENS * HIDDEN)
    for rank in ranks:
        rank.compute("RMSNorm", NORM, 12)
        rank.compute("aten::mm", GEMM, 185, [[TOKENS, HIDDEN], [HIDDEN, 2 * HIDDEN]])
        rank.compute("aten::gelu", GELU, 25)
        rank.compute("aten::mm", GEMM, 185, [[TOKENS, 2 * HIDDEN], [2 * HIDDEN, HIDDEN]])
    all_reduce(ranks, TOKENS * HIDDEN, slow)
    for rank in ranks:
        rank.end()


def write_traces(place: Path, attention: str = FLASH) -> None:
    """Two steps of four layers on two ranks, as ``rank0.json.gz`` and ``rank1.json.gz``.

    Products take 15% longer on rank 1. The host begins the second step late, and one of its transfers takes four times
    as long as the others.
    """
    ranks = [Rank(Kineto(number, 2, "NVIDIA H100 80GB HBM3"), 1.0 + 0.15 * number) for number in (0, 1)]
    for step in (0, 1):
        for rank in ranks:
            rank.begin(f"ProfilerStep#{step}")
            rank.host = max(rank.host, rank.device) + 400 * step
            rank.copy(TOKENS * 2 * 8)
        for number in range(4):
            layer(ranks, number, attention, 4.0 if (step, number) == (1, 2) else 1.0)
        for rank in ranks:
            rank.begin("Optimizer.step#AdamW.step")
        all_reduce(ranks, 1)
        for rank in ranks:
            rank.compute("aten::_fused_adamw_", ADAM, 220)
            rank.allocate(-(256 << 20))
            rank.end()
            rank.host = max(rank.host, rank.device)
            rank.end()
    place.mkdir(parents=True)
    for number, rank in enumerate(ranks):
        rank.trace.write(place / f"rank{number}.json.gz")
