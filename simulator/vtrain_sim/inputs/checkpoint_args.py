"""The arguments in a checkpoint of Megatron-LM, read without torch.

``torch.save`` writes a zip archive with a pickle in it. A pickle is a program that may call anything: this reader knows
the names of a few containers, and takes every other name as something without content. It calls nothing of it.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vtrain_sim.file_table import is_endless
from vtrain_sim.inputs.config_fields import flags_of_fields
from vtrain_sim.inputs.launch_script import Launch
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.text_file import check_kind, read_bytes

_LARGEST = 256 << 20
# Files with the arguments: of distributed checkpoints, and of those with a folder per rank.
_NAMES = ("common.pt", "mp_rank_00/model_optim_rng.pt", "mp_rank_00_000/model_optim_rng.pt", "model_optim_rng.pt")
# Members of Megatron-Core's enumerations, which a pickle has by number, from 1.
_MEMBERS = {
    "AttnBackend": ("flash", "fused", "unfused", "local", "auto"),
    "CudaGraphScope": ("full_iteration", "attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba"),
}
_HARMLESS: dict[tuple[str, str], type] = {
    ("argparse", "Namespace"): argparse.Namespace,
    ("collections", "OrderedDict"): OrderedDict,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, list, dict)},
}
_ITERATION = "latest_checkpointed_iteration.txt"


class _Opaque:
    """Something of a class that is not known: its arguments are kept, and nothing else."""

    def __init__(self, *arguments: object, **named: object) -> None:
        self.arguments = arguments

    # What a pickle fills: objects and containers.
    def __setstate__(self, state: object) -> None: ...
    def append(self, item: object) -> None: ...
    def extend(self, items: object) -> None: ...
    def add(self, item: object) -> None: ...
    def __setitem__(self, key: object, value: object) -> None: ...


class _Reader(pickle.Unpickler):
    """Knows a few harmless names."""

    def find_class(self, module: str, name: str) -> Any:
        return _HARMLESS.get((module, name)) or type(name, (_Opaque,), {"__module__": module})

    def persistent_load(self, pid: object) -> object:
        # A tensor's storage: its data are not read.
        return _Opaque()


def is_checkpoint(path: Path) -> bool:
    """Whether a path may be of a checkpoint: a folder that holds one, or a file of torch.save."""
    return path.is_dir() or path.suffix in (".pt", ".pth", ".bin", ".ckpt")


def read_checkpoint(path: Path) -> Launch:
    """Megatron's arguments of a checkpoint, or of the newest in a folder. Raises `SpecError`."""
    file = _file(path) if path.is_dir() else path
    fields = vars(_arguments(file))
    plain = {name: _plain(value) for name, value in fields.items()}
    world = plain.get("world_size")
    return Launch(tuple(flags_of_fields(plain, str(file))), world if isinstance(world, int) and world > 0 else 0)


def _file(folder: Path) -> Path:
    """The file with the arguments."""
    newest = folder / _ITERATION
    if newest.is_file():
        word = read_bytes(newest).decode(errors="replace").strip()[:20]
        folder = folder / (f"iter_{int(word):07d}" if word.isdecimal() else "release")
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    raise SpecError(f"{folder} holds no checkpoint of Megatron-LM: none of {', '.join(_NAMES)} is there")


def _arguments(file: Path) -> argparse.Namespace:
    check_kind(file)
    try:
        with zipfile.ZipFile(file) as archive:
            name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            if name is None:
                raise SpecError(f"{file} is no file of torch.save: it has no data.pkl")
            if archive.getinfo(name).file_size > _LARGEST:
                raise SpecError(f"{file} has a data.pkl of more than {_LARGEST >> 20} MiB")
            with archive.open(name) as stream:
                content = _Reader(stream).load()
    except zipfile.BadZipFile:
        raise SpecError(f"{file} is no file of torch.save in its format since PyTorch 1.6 (a zip archive)") from None
    except OSError as error:
        raise SpecError(f"cannot read {file}: {error.strerror or error}") from None
    except SpecError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise SpecError(f"cannot read {file}: {type(error).__name__} in its data.pkl") from None
    arguments = content.get("args") if isinstance(content, dict) else None
    if not isinstance(arguments, argparse.Namespace):
        raise SpecError(f"{file} has no args of Megatron-LM")
    if is_endless(vars(arguments)):
        raise SpecError(f"{file} has args that are longer than any of Megatron-LM")
    return arguments


def _plain(value: object) -> object:
    """A value of a known kind; the name of a type or of an enumeration's member for others."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, type):
        return value.__name__  # a dtype
    if isinstance(value, _Opaque) and value.arguments:
        number = value.arguments[0]
        members = _MEMBERS.get(type(value).__name__, ())
        return members[number - 1] if isinstance(number, int) and 0 < number <= len(members) else None
    return None
