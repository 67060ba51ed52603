"""Workbenches of operators from Megatron's flags, with libraries that are there or are stood in for."""

from __future__ import annotations

from typing import Any

from vtrain_plugin.bench.choices import choose
from vtrain_plugin.bench.device import BenchDevice, CpuDevice
from vtrain_plugin.bench.installed import Installed
from vtrain_plugin.bench.operators import Workbench
from vtrain_plugin.bench.ops import further_flags, sizes_of

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 32,
    "vocab_size": 128,
    "ffn_hidden_size": 96,
    "dtype": "float32",
}


class PretendedGpu(CpuDevice):
    """The processor, for what chooses by whether the device is a GPU."""

    cuda = True

    def __init__(self) -> None:
        super().__init__(pin=False)


def bench_on(
    device: BenchDevice, *flags: str, have: Installed | None = None, swiglu: bool = False, **sizes: Any
) -> Workbench:
    """The workbench of a command line."""
    have = have or Installed()
    args = further_flags(flags)
    args.swiglu = swiglu
    choices = choose(args, have, device.cuda)
    return Workbench(device, sizes_of(args, choices, **{**SIZES, "swiglu": swiglu, **sizes}), choices, have)
