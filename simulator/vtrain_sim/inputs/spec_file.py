"""YAML and TOML files that hold what the flags say: the same names, without the dashes."""

from __future__ import annotations

import sys
from pathlib import Path

from vtrain_sim.file_table import FileTable, is_endless
from vtrain_sim.inputs.flag_table import SWITCHES, VALUES, arity, opposite
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.text_file import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Sections only order a file; their names mean nothing.
_SECTIONS = ("model", "parallel", "train", "training")
# Entries that are vtrain's own options and no flags.
_OPTIONS = ("cluster", "preset", "num-gpus", "train-tokens", "price-per-gpu-hour")


def load(path: Path) -> FileTable:
    """A YAML or TOML file as a table. Raises `SpecError`."""
    text = read_text(path)
    try:
        if path.suffix == ".toml":
            table: object = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            table = yaml.safe_load(text)
        else:
            raise SpecError(f"{path} ends in neither .toml, .yaml nor .yml")
    except SpecError:
        raise
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{path} is nested too deeply") from None
    except Exception as error:  # the YAML parser has many
        raise SpecError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(table, dict):
        raise SpecError(f"{path} holds no names with values")
    if is_endless(table):
        raise SpecError(f"{path} has aliases that make it longer than any configuration")
    return table


def read_flags(path: Path) -> tuple[list[str], dict[str, str]]:
    """The arguments that a spec file stands for, and its entries for vtrain's own options
    (``cluster``, ``preset``, ``num_gpus``, ``train_tokens``, ``price_per_gpu_hour``). Raises `SpecError`."""
    return flags_of_table(load(path), path)


def flags_of_table(table: FileTable, path: Path) -> tuple[list[str], dict[str, str]]:
    """The same of what a file holds. path: where it is, for messages."""
    tokens: list[str] = []
    options: dict[str, str] = {}
    for name, value in _entries(table):
        key = str(name).replace("_", "-")
        if key in _OPTIONS:
            options[key] = str(value)
        elif key == "model":
            # As the command line calls it.
            options["preset"] = str(value)
        elif isinstance(value, bool) and f"--{key}" in VALUES:
            raise SpecError(f"{path}: {name} is {str(value).lower()}: it takes a value")
        elif value is True:
            tokens.append(f"--{key}")
        elif value is False:
            tokens += _off(f"--{key}")
        elif value is None:
            continue
        elif isinstance(value, list) and arity(f"--{key}") == "list":
            tokens += [f"--{key}", *map(str, value)]
        elif isinstance(value, (list, dict)):
            raise SpecError(f"{path}: {name} is a list or a table: it takes one value")
        else:
            tokens += [f"--{key}", str(value)]
    return tokens, options


def _off(flag: str) -> list[str]:
    """What a switch that is false stands for: the opposite switch, where off is not what Megatron has by itself.

    An unknown name stays, to be refused with the others.
    """
    if opposite(flag) in SWITCHES:
        return [opposite(flag)]
    return [] if arity(flag) else [flag]


def _entries(table: FileTable) -> list[tuple[str, object]]:
    """Names and values, those of sections included."""
    entries: list[tuple[str, object]] = []
    for name, value in table.items():
        if name in _SECTIONS and isinstance(value, dict):
            entries += _entries(value)
        else:
            entries.append((name, value))
    return entries
