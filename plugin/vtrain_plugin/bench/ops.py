"""Times single operators on one device: GEMM in its three layouts, attention, norms, the rest.

Each operator runs as Megatron-Core runs it where Transformer Engine is absent, with PyTorch's own
kernels: fused attention, foreach-free Adam. The weight gradient accumulates into an fp32 buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from vtrain_plugin.bench.device import BenchDevice, Timing
from vtrain_plugin.bench.device_queue import Call
from vtrain_plugin.bench.output import BenchOutput
from vtrain_plugin.bench.rotation import copies
from vtrain_plugin.capture.rows import Row, operator_columns
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch

Measured: TypeAlias = tuple[Operator, Call]


class OperatorBench:
    """Measures operators on one device."""

    def __init__(self, device: BenchDevice, output: BenchOutput, seconds: float) -> None:
        self.device, self.output, self.seconds = device, output, seconds
        self.torch = device.torch

    def measure(self, operator: Operator) -> int:
        """Time an operator forward and backward; the number of rows added."""
        free = self.device.free_bytes()
        needed = copies(operator.bytes(), self.device.cache_bytes, free)
        built = [list(self._calls(operator)) for _ in range(needed.count)]
        rows = 0
        for variants in zip(*built, strict=True):
            measured, _ = variants[0]
            calls = [call for _, call in variants]
            for timing in self.device.repeat(calls, self.seconds, 5):
                self.output.add("operators", self._row(measured, timing, needed.beyond_cache))
                rows += 1
        return rows

    def _row(self, operator: Operator, timing: Timing, beyond_cache: bool) -> Row:
        return {
            "name": operator.kind,
            "source": "microbench",
            **operator_columns(operator),
            "start_ns": timing.start_ns,
            "duration_ns": timing.duration_ns,
            "calls": timing.calls,
            "host_bound": timing.host_bound,
            "in_cache": not beyond_cache,
        }

    def _calls(self, operator: Operator) -> Iterator[Measured]:
        makers = {
            "gemm": self._gemm,
            "attention": self._attention,
            "norm": self._norm,
            "activation": self._activation,
            "bias_dropout_add": self._add,
            "loss": self._loss,
            "optimizer": self._optimizer,
        }
        yield from makers[operator.kind](operator)

    def _tensor(self, operator: Operator, *shape: int, grad: bool = False) -> torch.Tensor:
        tensor = self.torch.randn(*shape, device=self.device.device, dtype=self.device.dtype(operator.dtype))
        return tensor.requires_grad_(grad)

    def _gemm(self, operator: Operator) -> Iterator[Measured]:
        torch = self.torch
        x = self._tensor(operator, operator.m, operator.k)
        weight = self._tensor(operator, operator.n, operator.k)
        gradient = self._tensor(operator, operator.m, operator.n)
        main = torch.zeros(operator.n, operator.k, device=self.device.device, dtype=torch.float32)
        yield operator, lambda: torch.nn.functional.linear(x, weight)
        yield replace(operator, phase="dgrad"), lambda: gradient @ weight
        yield replace(operator, phase="wgrad"), lambda: main.add_(gradient.t() @ x)

    def _attention(self, operator: Operator) -> Iterator[Measured]:
        sdpa = self.torch.nn.functional.scaled_dot_product_attention
        q = self._tensor(operator, operator.batch, operator.heads, operator.seq_q, operator.head_dim, grad=True)
        k, v = (
            self._tensor(operator, operator.batch, operator.kv_heads, operator.seq_kv, operator.head_dim, grad=True)
            for _ in range(2)
        )
        grouped = operator.kv_heads != operator.heads
        options = {"is_causal": True, **({"enable_gqa": True} if grouped else {})}
        yield operator, lambda: sdpa(q, k, v, **options)
        yield from self._backward(operator, lambda: sdpa(q, k, v, **options), (q, k, v))

    def _norm(self, operator: Operator) -> Iterator[Measured]:
        x = self._tensor(operator, operator.m, operator.n, grad=True)
        weight, bias = (
            self._tensor(operator, operator.n, grad=True),
            self._tensor(operator, operator.n, grad=True),
        )
        norm = self.torch.nn.functional.layer_norm
        yield operator, lambda: norm(x, (operator.n,), weight, bias)
        yield from self._backward(operator, lambda: norm(x, (operator.n,), weight, bias), (x, weight, bias))

    def _activation(self, operator: Operator) -> Iterator[Measured]:
        gelu = self.torch.nn.functional.gelu
        x = self._tensor(operator, operator.m, operator.n, grad=True)
        bias = self._tensor(operator, operator.n, grad=True)
        yield operator, lambda: gelu(x + bias, approximate="tanh")
        yield from self._backward(operator, lambda: gelu(x + bias, approximate="tanh"), (x, bias))

    def _add(self, operator: Operator) -> Iterator[Measured]:
        # A layer has two of them: both residual adds.
        x, residual = (self._tensor(operator, operator.m, operator.n, grad=True) for _ in range(2))
        bias = self._tensor(operator, operator.n, grad=True)
        yield operator, lambda: (x + bias + residual) + bias + residual
        yield from self._backward(operator, lambda: (x + bias + residual) + bias + residual, (x, bias, residual))

    def _loss(self, operator: Operator) -> Iterator[Measured]:
        torch = self.torch
        logits = self._tensor(operator, operator.m, operator.n, grad=True)
        labels = torch.randint(0, operator.n, (operator.m,), device=self.device.device)
        loss = torch.nn.functional.cross_entropy
        yield operator, lambda: loss(logits.float(), labels)
        yield from self._backward(operator, lambda: loss(logits.float(), labels), (logits,))

    def _optimizer(self, operator: Operator) -> Iterator[Measured]:
        torch = self.torch
        # Time is linear in the elements: measure at most 2^28 and at least the whole of a small one.
        count = min(operator.m, 1 << 28 if self.device.cuda else 1 << 24)
        parameter = torch.nn.Parameter(torch.zeros(count, device=self.device.device))
        parameter.grad = torch.zeros_like(parameter)
        adam = torch.optim.Adam([parameter], lr=1e-4, fused=self.device.cuda)
        yield replace(operator, m=count), adam.step

    def _backward(self, operator: Operator, forward: Call, inputs: tuple[torch.Tensor, ...]) -> Iterator[Measured]:
        output = forward()
        gradient = self.torch.ones_like(output)
        yield (
            replace(operator, phase="backward"),
            lambda: self.torch.autograd.grad(output, inputs, gradient, retain_graph=True),
        )
