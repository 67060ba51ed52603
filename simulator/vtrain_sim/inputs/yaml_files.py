"""YAML files that describe a training: Megatron-LM's functional tests, Megatron-Bridge's and NeMo's recipes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs.config_fields import flags_of_fields, word_of
from vtrain_sim.inputs.launch_script import Launch, allocates
from vtrain_sim.inputs.spec_file import flags_of_table, load
from vtrain_sim.specs.checks import SpecError

# Sections of a recipe that say something of a step; a name of several is taken from the first.
_SECTIONS = (
    "model",
    "transformer",
    "config",
    "train",
    "dataset",
    "data",
    "ddp",
    "optimizer",
    "mixed_precision",
    "comm_overlap",
    "dist",
)
_NOT_GPT = (
    "t5",
    "bert",
    "vl",
    "llava",
    "vision",
    "retro",
    "diffusion",
    "flux",
    "dit",
    "wan",
    "whisper",
    "mimo",
    "audio",
    "omni",
)
_PRECISIONS = {"bf16-mixed": "bf16", "16-mixed": "fp16", "bf16": "bf16", "16": "fp16", "32": "fp32"}


def read_yaml(path: Path) -> Launch:
    """Megatron's arguments that a YAML file stands for, and the number of processes. Raises `SpecError`.

    It has ``MODEL_ARGS`` as Megatron-LM's functional tests have, or the sections of a recipe (``model``, ``train``,
    ...), or else the names of the flags, as a spec file has.
    """
    table = load(path)
    if "MODEL_ARGS" in table:
        return _of_functional_test(table, path)
    model = table.get("model")
    if isinstance(model, dict) and any(
        name in table for name in ("train", "trainer", "optimizer", "optim", "ddp", "strategy")
    ):
        return _of_recipe(table, path)
    tokens, options = flags_of_table(table, path)
    if options:
        raise SpecError(f"{path} has {', '.join(options)}: give it with --spec")
    return Launch(tuple(tokens))


def _of_functional_test(table: FileTable, path: Path) -> Launch:
    """As tests/functional_tests/shell_test_utils/_run_training.sh makes a command line of it."""
    arguments = table["MODEL_ARGS"]
    if not isinstance(arguments, dict) or not all(str(name).startswith("-") for name in arguments):
        raise SpecError(f"{path} has MODEL_ARGS that are no arguments of Megatron-LM")
    tokens: list[str] = []
    for name, value in arguments.items():
        if value in ("", None):
            continue
        tokens.append(str(name))
        if value is not True:
            tokens += _words(value)
    environment = table.get("ENV_VARS") or {}
    return Launch((*tokens, *allocates({str(name): str(value) for name, value in environment.items()})))


def _words(value: object) -> list[str]:
    """The words of a value: several where it is in brackets."""
    if isinstance(value, list):
        return [str(one) for one in value]
    if isinstance(value, bool):
        return [str(value).lower()]
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        return shlex.split(text[1:-1].replace(",", " "))
    return [text]


def _of_recipe(table: FileTable, path: Path) -> Launch:
    """A configuration with sections, whose names are those of Megatron's configuration objects."""
    fields: dict[str, Any] = {}
    for part in _parts(table):
        for name, value in part.items():
            if fields.get(name) is None:
                fields[name] = _plain(value)
    target = str(table["model"].get("_target_", ""))
    kind = target.rpartition(".")[2].lower()
    if any(
        word in target.lower().split(".")[-3:-1] or word in kind
        for word in _NOT_GPT
        if len(word) > 3 or kind.startswith(word)
    ):
        raise SpecError(f"{path} trains {target}, which is not simulated: decoder-only language models are")
    fields.setdefault("seq_length", fields.get("sequence_length"))
    _check_activation(fields, path)
    if "precision" in fields and not fields.get("bf16") and not fields.get("fp16"):
        fields[_PRECISIONS.get(str(fields["precision"]), "bf16")] = True
    if fields.get("mixed_precision") and not fields.get("bf16"):
        fields["fp16" if str(fields["mixed_precision"]).startswith("fp16") else "bf16"] = True
    if "share_embeddings_and_output_weights" in fields:
        fields["untie_embeddings_and_output_weights"] = not fields["share_embeddings_and_output_weights"]
    missing = [name for name in ("num_layers", "hidden_size", "num_attention_heads") if not fields.get(name)]
    if missing:
        raise SpecError(
            f"{path} does not say {', '.join(missing)}: it changes a recipe, and has not all of one (a dump with "
            "cfg.to_yaml() has)"
        )
    return Launch(tuple(flags_of_fields(fields, str(path))), _processes(table))


def _parts(table: FileTable) -> list[Mapping[str, Any]]:
    """The sections of a recipe, inner ones of a model's and of a trainer's included."""
    parts: list[Mapping[str, Any]] = []
    trainer = table.get("trainer")
    strategy = trainer.get("strategy") if isinstance(trainer, dict) else table.get("strategy")
    for one in (*(table.get(name) for name in _SECTIONS), trainer, strategy):
        if isinstance(one, dict):
            parts.append(one)
            parts += [inner for name in ("config", "transformer", "ddp") if isinstance(inner := one.get(name), dict)]
    return [
        {**part, "mixed_precision": table["mixed_precision"]}
        if i == 0 and isinstance(table.get("mixed_precision"), str)
        else part
        for i, part in enumerate(parts)
    ]


def _plain(value: Any) -> Any:
    """A value without the words around it that a dump has of types and enumerations."""
    if isinstance(value, dict):
        return word_of(value) if "_target_" in value else None
    return value


def _check_activation(fields: dict[str, Any], path: Path) -> None:
    """Take in the function between the products of the feed-forward block."""
    function = word_of(fields.pop("activation_func", None)).lower()
    if fields.get("gated_linear_unit") and function not in ("", "silu", "gelu", "swiglu", "fast_gelu"):
        raise SpecError(f"{path}: activation_func is {function} with a gate, which is not simulated")
    if function in ("squared_relu", "relu_squared"):
        fields["squared_relu"] = True
    if str(fields.get("activation")) in ("swiglu", "fast-swiglu"):
        fields["gated_linear_unit"] = True


def _processes(table: FileTable) -> int:
    trainer = table.get("trainer")
    if not isinstance(trainer, dict):
        return 0
    nodes, devices = trainer.get("num_nodes", 1), trainer.get("devices")
    return nodes * devices if isinstance(nodes, int) and isinstance(devices, int) else 0
