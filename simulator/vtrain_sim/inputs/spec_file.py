"""YAML and TOML files that hold what the flags say: the same names, without the dashes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vtrain_sim.specs.validation import SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Sections only order a file; their names mean nothing.
_SECTIONS = ("model", "parallel", "train", "training")


def load(path: Path) -> dict[str, Any]:
    """A YAML or TOML file as a table. Raises `SpecError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    try:
        if path.suffix == ".toml":
            found: Any = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            found = yaml.safe_load(text)
        else:
            raise SpecError(f"{path} ends in neither .toml, .yaml nor .yml")
    except SpecError:
        raise
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from None
    except Exception as error:  # the YAML parser has many
        raise SpecError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise SpecError(f"{path} holds no names with values")
    return found


def read_flags(path: Path) -> tuple[list[str], dict[str, str]]:
    """The arguments that a spec file stands for, and its entries for vtrain's own options
    (``cluster``, ``preset``, ``num_gpus``). Raises `SpecError`."""
    tokens: list[str] = []
    own: dict[str, str] = {}
    for name, value in _entries(load(path), path):
        key = str(name).replace("_", "-")
        if key in ("cluster", "preset", "num-gpus", "train-tokens"):
            own[key] = str(value)
        elif value is True:
            tokens.append(f"--{key}")
        elif value is False or value is None:
            continue
        elif isinstance(value, (list, dict)):
            raise SpecError(f"{path}: {name} is a list or a table: it takes one value")
        else:
            tokens += [f"--{key}", str(value)]
    return tokens, own


def _entries(table: dict[Any, Any], path: Path) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    for name, value in table.items():
        if name in _SECTIONS and isinstance(value, dict):
            found += _entries(value, path)
        else:
            found.append((name, value))
    return found
