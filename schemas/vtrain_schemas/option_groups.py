"""Options that several commands of a command line share, as one parameter of each of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import get_type_hints


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer has to see it: instead of a parameter whose type is a dataclass, that class's fields.

    The defaults of the fields are typer's options. The command is called with keywords, and gets instances.
    """
    hints = get_type_hints(command)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        types = get_type_hints(groups[name])
        for field in fields(groups[name]):
            option = inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=types[field.name])
            parameters.append(option)

    @functools.wraps(command)
    def wrapped(**given: object) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped
