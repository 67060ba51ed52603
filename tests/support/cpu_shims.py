"""Lets stock Megatron-Core train on CPU with gloo. Test support only: the plugin needs none of it.

Megatron-Core assumes CUDA in many literals (``device="cuda"``, ``torch.cuda.current_device()``,
streams, RNG). Each function below removes one such assumption; `apply` runs them all.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from typing import Any

import torch
import torch.distributed as dist

CPU = torch.device("cpu")
_FACTORIES = (
    "tensor",
    "zeros",
    "ones",
    "empty",
    "full",
    "arange",
    "rand",
    "randn",
    "randint",
    "zeros_like",
    "empty_like",
    "ones_like",
    "linspace",
)


def _is_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, int) and not isinstance(device, bool)


def _devices() -> None:
    torch.cuda.current_device = lambda: CPU  # type: ignore[assignment,return-value]
    torch.cuda.set_device = lambda *a, **k: None  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *a, **k: None  # type: ignore[assignment]
    torch.cuda.empty_cache = lambda *a, **k: None
    torch.cuda.is_current_stream_capturing = lambda: False


def _factories() -> None:
    def wrap(function: Any) -> Any:
        @functools.wraps(function)
        def factory(*args: Any, **kwargs: Any) -> Any:
            if _is_cuda(kwargs.get("device")):
                kwargs["device"] = CPU
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
            return function(*args, **kwargs)

        return factory

    for name in _FACTORIES:
        setattr(torch, name, wrap(getattr(torch, name)))


def _moves() -> None:
    original = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        args = tuple(CPU if i == 0 and _is_cuda(a) else a for i, a in enumerate(args))
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        return original(self, *args, **kwargs)

    torch.Tensor.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    torch.Tensor.to = to  # type: ignore[method-assign,assignment]


def _type_names() -> None:
    # The optimizers accept only parameters whose type() is a torch.cuda.* name.
    original = torch.Tensor.type

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        name = original(self, *args, **kwargs)
        if isinstance(name, str) and name.startswith("torch.") and ".cuda." not in name:
            return "torch.cuda." + name[len("torch.") :]
        return name

    torch.Tensor.type = type_  # type: ignore[method-assign,assignment]


class _Stream:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stream)

    def __hash__(self) -> int:
        return 1


class _Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.at = 0.0

    def record(self, *args: Any) -> None:
        self.at = time.perf_counter()

    def wait(self, *args: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: _Event) -> float:
        return (other.at - self.at) * 1e3


def _streams() -> None:
    torch.cuda.Stream = _Stream  # type: ignore[assignment,misc]
    torch.cuda.Event = _Event  # type: ignore[assignment,misc]
    torch.cuda.current_stream = lambda *a, **k: _Stream()  # type: ignore[assignment,return-value]
    torch.cuda.default_stream = lambda *a, **k: _Stream()  # type: ignore[assignment,return-value]
    torch.cuda.stream = lambda stream: contextlib.nullcontext()  # type: ignore[assignment,return-value]
    torch.cuda.set_stream = lambda stream: None  # type: ignore[assignment]
    torch.Tensor.record_stream = lambda self, stream: None  # type: ignore[method-assign,assignment]
    torch.cuda.nvtx.range_push = lambda *a, **k: 0
    torch.cuda.nvtx.range_pop = lambda *a, **k: 0


def _random() -> None:
    torch.cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(int(seed)) and None  # type: ignore[func-returns-value]
    torch.cuda.manual_seed_all = torch.cuda.manual_seed
    torch.cuda.get_rng_state = lambda *a, **k: torch.get_rng_state()  # type: ignore[assignment]
    torch.cuda.random.get_rng_state = torch.cuda.get_rng_state
    torch.cuda.set_rng_state = lambda state, *a, **k: torch.set_rng_state(state)  # type: ignore[assignment]
    import megatron.core.tensor_parallel.random as random

    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    logging.getLogger(random.__name__).addFilter(lambda r: "CPU RNG state changed" not in r.getMessage())


def _barrier() -> None:
    original = dist.barrier

    def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Any:
        return original(group=group, async_op=async_op)

    dist.barrier = barrier
    dist.distributed_c10d.barrier = barrier


def _modules() -> None:
    with contextlib.suppress(ImportError):
        import megatron.core.transformer.moe.moe_utils as moe_utils

        # 0.16.1 never binds this name when Transformer Engine is absent.
        if not hasattr(moe_utils, "te_general_gemm"):
            moe_utils.te_general_gemm = None
    import megatron.core.transformer.torch_norm as torch_norm

    def norm(
        cls: Any,
        config: Any,
        hidden_size: int,
        eps: float = 1e-5,
        persist_layer_norm: bool = False,
        zero_centered_gamma: bool = False,
        normalization: str = "LayerNorm",
    ) -> torch.nn.Module:
        kinds = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}
        module: torch.nn.Module = kinds[config.normalization](hidden_size, eps=eps)
        for parameter in module.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return module

    torch_norm.WrappedTorchNorm.__new__ = norm
    import megatron.core.transformer.moe.token_dispatcher as dispatcher

    if hasattr(dispatcher, "maybe_move_tensor_to_cpu"):
        # It converts only CUDA tensors; on CPU the split sizes would stay tensors.
        dispatcher.maybe_move_tensor_to_cpu = lambda tensor, as_numpy=False, record_stream=False: (
            tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor
        )


class _Absent:
    """No module is of this class."""


def absent_classes(module: Any, *names: str) -> None:
    """Without Transformer Engine these names of a module are no classes, which it asks isinstance about."""
    for name in names:
        if not isinstance(getattr(module, name, None), type):
            setattr(module, name, _Absent)


def apply() -> None:
    """Apply every shim to this process."""
    for shim in (_devices, _factories, _moves, _type_names, _streams, _random, _barrier, _modules):
        shim()
