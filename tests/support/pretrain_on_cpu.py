"""Runs an unmodified ``pretrain_gpt.py`` of a Megatron-LM checkout on this machine's CPU, with gloo.

``python tests/support/pretrain_on_cpu.py CHECKOUT/pretrain_gpt.py ARGUMENTS``: sets aside what Megatron-LM asks of a GPU
before it trains, and runs the script with its arguments. It knows nothing of vtrain.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import runpy
import sys
import typing
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from support import cpu_shims, latent_shims  # noqa: E402

_HELPERS = "megatron.core.datasets.helpers_cpp"


def _one_device() -> None:
    # Megatron-LM sets up its groups only where there is a device, and asks for its compute capability.
    properties = SimpleNamespace(major=8, minor=0, name="cpu", total_memory=1 << 34, multi_processor_count=1)
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_properties = lambda *a, **k: properties  # type: ignore[assignment]
    torch.cuda.get_device_capability = lambda *a, **k: (8, 0)
    torch.cuda.get_device_name = lambda *a, **k: "cpu"


def _index_helpers() -> None:
    """Take the compiled index builder of the installed package: a checkout would compile one into its own tree."""
    import megatron.core.datasets.utils as datasets

    datasets.compile_helpers = lambda: None
    if importlib.util.find_spec(_HELPERS) is not None:
        return
    for file in importlib.metadata.files("megatron-core") or ():
        if file.name.startswith("helpers_cpp"):
            spec = importlib.util.spec_from_file_location(_HELPERS, str(file.locate()))
            assert spec is not None
            assert spec.loader is not None
            sys.modules[_HELPERS] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[_HELPERS])


def _initialization() -> None:
    """Start without CUDA, and warm up no fused kernel."""
    import megatron.training.initialize as initialize
    import megatron.training.training as training

    start = functools.partial(initialize.initialize_megatron, allow_no_cuda=True)
    for module in (initialize, training):
        for name, replacement in (
            ("initialize_megatron", start),
            ("set_jit_fusion_options", lambda *a, **k: None),
        ):
            if hasattr(module, name):
                setattr(module, name, replacement)
    fused = sys.modules.get("megatron.legacy.fused_kernels")
    if fused is not None:
        fused.load = lambda args: None  # type: ignore[attr-defined]


def _absent_layers() -> None:
    """Name the classes that multi-token prediction asks about and that only Transformer Engine has."""
    with contextlib.suppress(ImportError):
        from megatron.core.tensor_parallel import inference_layers

        cpu_shims.absent_classes(
            inference_layers, "InferenceColumnParallelLinear", "InferenceLayerNormColumnParallelLinear"
        )


def _keep_outputs() -> None:
    # gloo sends asynchronously from storage that the schedule would already have freed.
    from megatron.core.model_parallel_config import ModelParallelConfig

    check = ModelParallelConfig.__post_init__

    def keep(self: Any) -> None:
        self.deallocate_pipeline_outputs = False
        check(self)

    ModelParallelConfig.__post_init__ = keep


def main() -> None:
    script = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(script.parent))
    if not hasattr(typing, "override"):
        # Newer versions are written for Python 3.12; nothing else in them is.
        typing.override = lambda function: function  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    if "--multi-latent-attention" in sys.argv:
        latent_shims.apply()
    else:
        cpu_shims.apply()
    _absent_layers()
    _one_device()
    _index_helpers()
    _initialization()
    _keep_outputs()
    sys.argv = [str(script), *sys.argv[2:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
