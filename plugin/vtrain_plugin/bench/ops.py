"""``vtrain-profile ops``: single operators on one device, as Megatron's arguments build them."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from vtrain_plugin.bench.arguments import FlagParser, add_model_flags
from vtrain_plugin.bench.choices import Choices
from vtrain_plugin.bench.device import BenchDevice, Timing
from vtrain_plugin.bench.failure import Failure, reason_of
from vtrain_plugin.bench.model_operators import ModelSizes
from vtrain_plugin.bench.operators import Variant, Workbench, builder
from vtrain_plugin.bench.output import BenchOutput
from vtrain_plugin.bench.progress import progress
from vtrain_plugin.bench.rotation import copies
from vtrain_plugin.capture.rows import Row, operator_columns
from vtrain_schemas.operators import Operator

# Flags that the command line has as options of its own.
_OF_THE_COMMAND = (
    "num-layers",
    "hidden-size",
    "ffn-hidden-size",
    "num-attention-heads",
    "num-query-groups",
    "seq-length",
    "vocab-size",
    "swiglu",
)


def further_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Megatron's flags beyond the command's own options; raises `SizeError` for one that is not known."""
    parser = FlagParser(prog="vtrain-profile ops", allow_abbrev=False, add_help=False)
    add_model_flags(parser, _OF_THE_COMMAND)
    return parser.parse_args(list(arguments))


def sizes_of(args: argparse.Namespace, choices: Choices, **sizes: Any) -> ModelSizes:
    """The model's sizes: those given, and those of the further flags."""
    names = {field.name for field in fields(ModelSizes)}
    further = {name: value for name, value in vars(args).items() if name in names}
    return ModelSizes(
        **{
            **further,
            **sizes,
            "rope": args.position_embedding_type == "rope",
            "fused_attention": choices.fused_attention,
            "fp8": bool(choices.fp8),
        }
    )


class OperatorBench:
    """Measures operators on one device."""

    def __init__(self, bench: Workbench, output: BenchOutput, seconds: float) -> None:
        self.bench, self.output, self.seconds = bench, output, seconds
        self.failures: list[Failure] = []
        _keep_graphs()

    @property
    def device(self) -> BenchDevice:
        return self.bench.device

    def measure_all(self, operators: Sequence[Operator]) -> int:
        """Measure each of them; the number of rows added."""
        rows = 0
        with progress(len(operators)) as tell:
            for operator in operators:
                tell(operator.kind)
                rows += self.measure(operator)
        return rows

    def measure(self, operator: Operator) -> int:
        """Time an operator forward and backward; the number of rows added.

        What cannot be measured (no memory, no kernel) is added to `failures`, and costs no other operator anything.
        """
        rows = 0
        try:
            for row in self._rows(operator):
                self.output.add("operators", row)
                rows += 1
        except Exception as error:
            self.failures.append(Failure(describe(operator), reason_of(error)))
        self._release()
        return rows

    def _rows(self, operator: Operator) -> Iterator[Row]:
        needed = copies(operator.bytes(), self.device.cache_bytes, self.device.free_bytes())
        build = builder(operator.kind)
        built = [build(self.bench, operator) for _ in range(needed.count)]
        for variants in zip(*built, strict=True):
            for timing in self.device.repeat([variant.call for variant in variants], self.seconds, 5):
                yield _row(variants[0], timing, needed.beyond_cache)

    def _release(self) -> None:
        """Free the memory, and forget what was compiled: in training a fused function sees one shape, and is
        compiled for that; the second shape here would be compiled for any."""
        gc.collect()
        self.device.torch.compiler.reset()
        if self.device.cuda:
            self.device.torch.cuda.empty_cache()


def describe(operator: Operator) -> str:
    """An operator in a word and its sizes."""
    names = ("m", "n", "k", "batch", "seq_q", "heads", "head_dim")
    sizes = [f"{name} {getattr(operator, name)}" for name in names if getattr(operator, name) not in (0, 1)]
    return f"{operator.kind} ({', '.join(sizes)}, {operator.dtype})"


def _keep_graphs() -> None:
    """Let the backward pass of a compiled function run again over the same graph."""
    from torch._functorch import config

    if hasattr(config, "donated_buffer"):
        config.donated_buffer = False


def _row(variant: Variant, timing: Timing, beyond_cache: bool) -> Row:
    return {
        "name": variant.operator.kind,
        "source": "microbench",
        **operator_columns(variant.operator),
        "start_ns": timing.start_ns,
        "duration_ns": timing.duration_ns,
        "calls": timing.calls,
        "host_bound": timing.host_bound,
        "in_cache": not beyond_cache,
        "attributes": json.dumps(variant.attributes, sort_keys=True),
    }
