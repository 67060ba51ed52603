"""Megatron-Core's configuration objects as JSON: `runs.config_json`.

The fields of the transformer configuration are at the top. Beside them: ``model_class``, ``wrappers``,
``ddp_config``, ``optimizer_config``, and under ``args`` what only Megatron-LM's arguments say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vtrain_plugin.adapters.megatron.arguments import argument
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.capture.tensors import dtype_name

if TYPE_CHECKING:
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

# Arguments that no configuration object holds. The others may hold paths and names: they are left out.
_ARGUMENTS = ("vocab_size", "make_vocab_size_divisible_by")
_LAYOUT_LETTERS = {"embedding": "E", "encoder": "e", "decoder": "t", "mtp": "m", "loss": "L"}


def config_json(context: ModelContext) -> str:
    """All that the configuration objects of a run say."""
    document = {
        **plain_fields(context.config),
        "model_class": context.model_class,
        "wrappers": context.wrappers,
        "ddp_config": plain_fields(context.ddp_config),
        "optimizer_config": plain_fields(context.optimizer_config),
        "args": _arguments(),
    }
    return json.dumps(document, sort_keys=True)


def plain_fields(config: object) -> dict[str, object]:
    """The fields of a dataclass as JSON can hold them; {} for anything else."""
    if not is_dataclass(config):
        return {}
    return {field.name: plain(getattr(config, field.name, None)) for field in fields(config)}


def plain(value: object) -> object:
    """A value as JSON can hold it: enumerations, functions and types by their name."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "flatten_layout"):
        return layout_text(value)
    if type(value).__name__ == "dtype":
        return dtype_name(value)
    return getattr(value, "__name__", None) or type(value).__name__


def layout_text(layout: PipelineParallelLayerLayout) -> str:
    """A pipeline layout as ``--pipeline-model-parallel-layout`` takes it, for example ``Et|tt|tL``."""
    stages, chunks = layout.layout, range(len(layout.layout[0]))
    in_order = [stage[chunk] for chunk in chunks for stage in stages]
    return "|".join("".join(_LAYOUT_LETTERS[layer.name] for layer in layers) for layers in in_order)


def _arguments() -> dict[str, object]:
    """Some of Megatron-LM's arguments; {} for a script that does not use its argument parser."""
    values = {name: argument(name) for name in _ARGUMENTS}
    return {name: plain(value) for name, value in values.items() if value is not None}
