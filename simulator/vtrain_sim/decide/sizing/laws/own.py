"""Laws of the user's own: coefficients on the command line, or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vtrain_sim.decide.sizing.laws import registry
from vtrain_sim.decide.sizing.laws.base import LossLaw, PowerLaw, ScalingLaw
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.inputs.spec_file import load

_POWER = ("coefficient", "exponent")
_LOSS = ("E", "A", "B", "alpha", "beta")
_WORDS = ("name", "source")
_SUFFIXES = (".toml", ".yaml", ".yml")


def find_law(text: str) -> ScalingLaw:
    """The law of a name, of a file with its coefficients, or of coefficients as "alpha=0.34,beta=0.28,...".

    Raises `UserError`.
    """
    if "=" in text:
        pairs = [part.partition("=") for part in text.split(",")]
        given = [name.strip() for name, _, _ in pairs]
        for name in given:
            if given.count(name) > 1:
                raise UserError(f"--law gives {name} twice")
        return _law({name.strip(): value.strip() for name, _, value in pairs}, "--law", "as given with --law")
    if text.endswith(_SUFFIXES):
        return _law(load(Path(text)), text, f"coefficients in {Path(text).name}")
    return registry.get(text)


def _law(table: Mapping[str, object], where: str, source: str) -> ScalingLaw:
    """A law of coefficients by name. where: for messages. source: where it says none itself."""
    known = (*_WORDS, *_POWER, *_LOSS)
    for key in table:
        if key not in known:
            raise UserError(f"{where} has {key!r}{nearest(str(key), known)}: a law has {', '.join(known)}")
    coefficients = {key: _number(where, key, value) for key, value in table.items() if key not in _WORDS}
    name, source = str(table.get("name", "own")), str(table.get("source", source))
    if set(coefficients) == set(_POWER):
        return PowerLaw(name, source, **coefficients)
    if set(coefficients) == set(_LOSS):
        e, a, b = (coefficients[key] for key in ("E", "A", "B"))
        return LossLaw(name, source, e, a, b, coefficients["alpha"], coefficients["beta"])
    raise UserError(
        f"{where} has {', '.join(coefficients) or 'no coefficient'}: a law is {' and '.join(_POWER)} (tokens = "
        f"coefficient x parameters ^ exponent), or {', '.join(_LOSS)} (loss = E + A / N^alpha + B / D^beta)"
    )


def _number(where: str, name: str, value: object) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return float(value)
    except ValueError:
        raise UserError(f"{where}: {name} is {value!r}: it takes a number") from None
