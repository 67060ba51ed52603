"""From the file to the model."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.file_table import FileTable
from vtrain_sim.inputs.huggingface.config_file import load
from vtrain_sim.inputs.huggingface.family import Family
from vtrain_sim.inputs.huggingface.gpt_like import GPT_LIKE
from vtrain_sim.inputs.huggingface.hybrid import HYBRID
from vtrain_sim.inputs.huggingface.llama_like import LLAMA_LIKE
from vtrain_sim.inputs.huggingface.notes import notes
from vtrain_sim.inputs.huggingface.refused import REFUSED
from vtrain_sim.inputs.huggingface.windows import windows
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.model import ModelSpec

_FAMILIES = {**LLAMA_LIKE, **GPT_LIKE, **HYBRID}


def known_types() -> tuple[str, ...]:
    """Each ``model_type`` that is read."""
    return tuple(sorted(_FAMILIES))


def read_config(path: Path) -> ModelSpec:
    """The model of a ``config.json`` (or of the folder that holds one). Raises `SpecError`."""
    path, config, _ = load(path)
    family = _family(path, config)
    # A null is a field that is not there, except where it takes back a default.
    c = {name: value for name, value in {**family.defaults, **config}.items() if value is not None}
    try:
        fields = family.read(c)
        fields |= windows(c, family.windows, fields["num_layers"])
        return ModelSpec(name=str(config.get("_name_or_path") or config["model_type"]), **fields)
    except KeyError as error:
        raise SpecError(f"{path} does not say {error.args[0]}") from None
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        raise SpecError(f"{path} has a size that is not a number") from None


def left_out(path: Path) -> tuple[str, ...]:
    """A sentence for each thing of a ``config.json`` that changes a step somewhat and is left out."""
    path, config, encoders = load(path)
    return notes(path, config, _family(path, config), encoders)


def _family(path: Path, config: FileTable) -> Family:
    kind = str(config["model_type"])
    if kind == "minimax":
        # Two architectures share the word: one tells each layer's attention, 1 where it is softmax attention.
        types = config.get("attn_type_list")
        kind = "minimax_m2" if isinstance(types, list) and types and all(one == 1 for one in types) else "minimax_m1"
    if kind in REFUSED:
        raise SpecError(f"{path} is a {config['model_type']} model, which has {REFUSED[kind]}, not simulated")
    if kind not in _FAMILIES:
        raise SpecError(f"{path} is a {kind} model: read are {', '.join(known_types())}")
    return _FAMILIES[kind]
