"""What is known of the models of one ``model_type``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from vtrain_sim.file_table import FileTable, SpecFields

Reader: TypeAlias = Callable[[FileTable], SpecFields]

BESIDE = "attention and feed-forward block beside each other, which run one after the other here"
OUTPUT_BIAS = "a bias of the output layer, which is left out"
EMBEDDING_NORM = "a norm of the embeddings, which is left out"
NO_ROPE = "layers without rotary embedding, which have it here"


def qk_norm(on: object, weights: str) -> SpecFields:
    """Norms of queries and keys, where they are on, with weights as `ModelSpec` names them."""
    return {"qk_layernorm": True, "qk_layernorm_weights": weights} if on else {}


@dataclass(frozen=True)
class Family:
    """read: the model's fields. defaults: what a file may leave out, as Transformers has it.

    windows: how its layers alternate where the file does not list them (`windows.py`); "" where none has a window.
    approximated: what its models have that is simulated as something else, or not at all.
    reads: fields that change a step somewhat, are left out of other families, and are read here.
    """

    read: Reader
    defaults: Mapping[str, object] = field(default_factory=dict)
    windows: str = ""
    approximated: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
