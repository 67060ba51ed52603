"""Megatron's flags of the model and of how it is built, as ``ops`` and ``rank`` take them."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from vtrain_plugin.bench.model_operators import SizeError

_MODEL_INTEGERS = {
    "num-layers": 0,
    "hidden-size": 0,
    "ffn-hidden-size": 0,
    "num-attention-heads": 0,
    "num-query-groups": 0,
    "kv-channels": 0,
    "seq-length": 0,
    "vocab-size": 50304,
    "num-experts": 0,
    "moe-router-topk": 2,
    "moe-ffn-hidden-size": 0,
    "moe-shared-expert-intermediate-size": 0,
    "expert-model-parallel-size": 1,
    "expert-tensor-parallel-size": 0,
    "q-lora-rank": 0,
    "kv-lora-rank": 32,
    "qk-head-dim": 128,
    "qk-pos-emb-head-dim": 64,
    "v-head-dim": 128,
}
_MODEL_SWITCHES = ("swiglu", "disable-bias-linear", "qk-layernorm", "multi-latent-attention")
_BUILD_SWITCHES = (
    "no-bias-gelu-fusion",
    "no-bias-swiglu-fusion",
    "no-bias-dropout-fusion",
    "no-rope-fusion",
    "no-masked-softmax-fusion",
    "no-gradient-accumulation-fusion",
    "no-persist-layer-norm",
    "moe-grouped-gemm",
    "moe-permute-fusion",
)


def layer_pattern(text: str) -> int | list[int]:
    """Megatron's --moe-layer-freq: every how many layers, or ``([0]*3+[1]*58)`` with a 1 for each layer of experts.

    Raises ValueError for anything else.
    """
    if text.strip().isdigit() and int(text) > 0:
        return int(text)
    pattern: list[int] = []
    for part in text.strip().strip("()").split("+"):
        match = re.fullmatch(r"\s*\[([01](?:\s*,\s*[01])*)\](?:\s*\*\s*(\d+))?\s*", part)
        if match is None:
            raise ValueError(text)
        pattern += [int(layer) for layer in match[1].split(",")] * int(match[2] or 1)
    return pattern


class FlagParser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence: it raises `SizeError`."""

    def error(self, message: str) -> NoReturn:
        raise SizeError(message)


def add_model_flags(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add the sizes of the model and the choices of its build. without: names that the caller has already."""
    for name, default in _MODEL_INTEGERS.items():
        if name not in without:
            parser.add_argument(f"--{name}", type=int, default=default)
    for name in (*_MODEL_SWITCHES, *_BUILD_SWITCHES):
        if name not in without:
            parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--normalization", default="LayerNorm", choices=("LayerNorm", "RMSNorm"))
    parser.add_argument("--position-embedding-type", default="rope", choices=("rope", "learned_absolute"))
    parser.add_argument("--transformer-impl", default="", choices=("", "local", "transformer_engine"))
    parser.add_argument("--attention-backend", default="auto", choices=("auto", "flash", "fused", "unfused", "local"))
    parser.add_argument("--fp8-format", default="", choices=("", "e4m3", "hybrid"))
    parser.add_argument("--fp8-recipe", default="delayed", choices=("tensorwise", "delayed", "mxfp8", "blockwise"))
    parser.add_argument("--moe-layer-freq", type=layer_pattern, default=1)
    parser.add_argument("--hidden-dropout", type=float, default=0.0)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
