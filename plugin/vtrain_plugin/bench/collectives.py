"""Times collectives and point-to-point transfers over sizes and group sizes, in the job's own world.

Run one process per device: ``vtrain-profile collectives`` starts those of one node, a launcher those of several.
Groups are some devices on each of some nodes, so that what crosses nodes is told from what does not.

Between two calls each rank computes for a moment, as in training: the payload was just written, and ranks
arrive unevenly. The transfer is then the shortest duration over the ranks, which the catalog's views work out.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vtrain_plugin.bench.device import BenchDevice, choose_device
from vtrain_plugin.bench.device_queue import Call
from vtrain_plugin.bench.node_layout import NodeLayout
from vtrain_plugin.bench.output import BenchOutput
from vtrain_plugin.bench.progress import progress
from vtrain_plugin.capture.process import new_run_id
from vtrain_plugin.capture.rows import operator_columns
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")


def default_sizes(largest_bytes: int) -> list[int]:
    """Powers of two from 1 KiB; every other one below 64 KiB."""
    sizes = [1 << s for s in range(10, 16, 2)] + [1 << s for s in range(16, 34)]
    return [s for s in sizes if s <= largest_bytes]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of one rank."""
    parser = argparse.ArgumentParser(prog="python -m vtrain_plugin.bench.collectives")
    parser.add_argument("--out", required=True)
    parser.add_argument("--run-id", default="", help="the same on all ranks; rank 0 chooses where it is not given")
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--sizes", default="", help="bytes, comma separated")
    parser.add_argument("--max-bytes", type=int, default=256 << 20)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--pin", action="store_true")
    args = parser.parse_args(arguments)
    device = choose_device(args.pin)
    import torch.distributed as dist

    dist.init_process_group(device.backend)
    layout = NodeLayout.of_world()
    output = BenchOutput(args.out, _agreed(args.run_id), "collectives", device.clock_source)
    sizes = [int(s) for s in args.sizes.split(",") if s] or default_sizes(args.max_bytes)
    bench = CollectiveBench(device, output, layout, args.dtype, args.repeats)
    groups, ops = layout.groups(), args.ops.split(",")
    # Rank 0 is in every group.
    with progress(1 + len(groups) * len(ops), shown=dist.get_rank() == 0) as tell:
        tell("compute, alone and together")
        bench.contention()
        for ranks in groups:
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                for op in ops:
                    tell(f"{op}, {len(ranks)} ranks over {layout.nodes(ranks)} nodes")
                    for nbytes in sizes:
                        bench.measure(op, nbytes, group, ranks)
            dist.barrier()
    output.write({"hosts": list(layout.hosts)})
    if dist.get_rank() == 0:
        print(f"wrote {args.out}/run_id={output.run_id}")
    dist.destroy_process_group()


def _agreed(run_id: str) -> str:
    """The run id; where none was given, rank 0's choice on all ranks."""
    import torch.distributed as dist

    chosen = [run_id or "collectives-" + new_run_id()]
    dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


class CollectiveBench:
    """Measures on one rank."""

    def __init__(self, device: BenchDevice, output: BenchOutput, layout: NodeLayout, dtype: str, repeats: int) -> None:
        import torch
        import torch.distributed as dist

        self.torch, self.dist = torch, dist
        self.device, self.output, self.layout = device, output, layout
        self.dtype_name, self.dtype, self.repeats = dtype, device.dtype(dtype), repeats
        side = 4096 if device.cuda else 384
        self._a = torch.randn(side, side, device=device.device, dtype=self.dtype)
        self._sequence = 0

    def _compute(self) -> None:
        for _ in range(2):
            self._a @ self._a

    def measure(self, op: str, nbytes: int, group: ProcessGroup, ranks: list[int]) -> None:
        """Time one operation at one payload, bytes."""
        size = len(ranks)
        elements = max(size, nbytes // self.dtype.itemsize // size * size)
        call = self._call(op, elements, group, ranks)
        if call is None:
            return
        payload = elements * self.dtype.itemsize
        for repeat in range(self.repeats + 2):
            self._compute()
            timing = self.device.time(call)
            self._sequence += 1
            if repeat < 2:
                continue
            name, members = op, ranks
            if op == "p2p":
                name, members = "send" if self.dist.get_rank() == ranks[0] else "recv", [ranks[0], ranks[-1]]
            self.output.add(
                "collectives",
                {
                    "op": name,
                    "role": "pp" if op == "p2p" else "world",
                    "source": "microbench",
                    "bytes": payload,
                    "dtype": self.dtype_name,
                    "group_ranks": members,
                    "nodes": self.layout.nodes(members),
                    "ranks_per_node": self.layout.ranks_per_node(members),
                    "sequence": self._sequence,
                    "is_async": False,
                    "start_ns": timing.start_ns,
                    "duration_ns": timing.duration_ns,
                    "exposed_ns": timing.duration_ns,
                    "host_bound": timing.host_bound,
                },
            )

    def _call(self, op: str, elements: int, group: ProcessGroup, ranks: list[int]) -> Call | None:
        dist, torch, size = self.dist, self.torch, len(ranks)
        whole = torch.ones(elements, device=self.device.device, dtype=self.dtype)
        part = torch.ones(elements // size, device=self.device.device, dtype=self.dtype)
        if op == "all_reduce":
            return lambda: dist.all_reduce(whole, group=group)
        if op == "all_gather":
            return lambda: dist.all_gather_into_tensor(whole, part, group=group)
        if op == "reduce_scatter":
            return lambda: dist.reduce_scatter_tensor(part, whole, group=group)
        if op == "all_to_all":
            target = torch.empty_like(whole)
            return lambda: dist.all_to_all_single(target, whole, group=group)
        if op == "p2p":
            me = dist.get_rank()
            if me == ranks[0]:
                return lambda: dist.send(whole, ranks[-1], group=group)
            if me == ranks[-1]:
                return lambda: dist.recv(whole, ranks[0], group=group)
            return None
        raise SystemExit(f"unknown operation {op!r}: known are {', '.join(OPS)}")

    def contention(self, repetitions: int = 16) -> None:
        """Time a few transformer layers alone, and on all ranks at once.

        Every rank's time is kept: synchronous training goes at the pace of the slowest.
        """
        dist = self.dist
        work = ReferenceWork(self.device, self.dtype)
        operator = Operator("other", "forward", work.tokens, work.hidden, dtype=self.dtype_name)
        for _ in range(3):
            work.run()
        # Alternate the two conditions, so that a slow drift of the machine meets both alike.
        for repetition in range(repetitions):
            for name in ("reference_alone", "reference_together"):
                dist.barrier()
                # Ranks take turns at being alone.
                alone = repetition % dist.get_world_size() == dist.get_rank()
                if name == "reference_alone" and not alone:
                    continue
                timing = self.device.time(work.run)
                self.output.add(
                    "operators",
                    {
                        "name": name,
                        "source": "microbench",
                        **operator_columns(operator),
                        "step": repetition,
                        "start_ns": timing.start_ns,
                        "duration_ns": timing.duration_ns,
                        "calls": timing.calls,
                        "host_bound": timing.host_bound,
                    },
                )
        dist.barrier()


class ReferenceWork:
    """Forward and backward of a few transformer layers: the mix of a training step.

    A single hot GEMM would stay in cache and hide what devices of a node take from each other
    (memory bandwidth, power); distinct weights and activations do not.
    """

    def __init__(self, device: BenchDevice, dtype: torch.dtype) -> None:
        torch = device.torch
        self._torch = torch
        self.hidden, self.tokens, self._heads = (4096, 4096, 32) if device.cuda else (512, 512, 8)
        h = self.hidden
        shapes = ((h, 3 * h), (h, h), (h, 4 * h), (4 * h, h))
        self._weights = [
            [torch.randn(*s, device=device.device, dtype=dtype).mul_(0.02).requires_grad_() for s in shapes]
            for _ in range(2)
        ]
        self._input = torch.randn(self.tokens, h, device=device.device, dtype=dtype)

    def run(self) -> None:
        """One forward and backward pass."""
        x = self._input
        for weights in self._weights:
            x = self._layer(x, weights)
        x.square().mean().backward()
        for weights in self._weights:
            for w in weights:
                w.grad = None

    def _layer(self, x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        torch = self._torch
        qkv = (x @ weights[0]).view(self.tokens, 3, self._heads, -1)
        q, k, v = qkv.permute(1, 2, 0, 3)
        scores = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        x = x + (scores @ v).transpose(0, 1).reshape(self.tokens, self.hidden) @ weights[1]
        return x + torch.nn.functional.gelu(x @ weights[2]) @ weights[3]


if __name__ == "__main__":
    main()
