"""What frozen objects work out about themselves, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Generic, TypeVar, cast, overload

Owner = TypeVar("Owner")
Value = TypeVar("Value")
Spec = TypeVar("Spec")


class computed(Generic[Owner, Value]):
    """An attribute that is computed when it is first read.

    `functools.cached_property` does the same, but takes a lock each time before Python 3.12: searches read many such
    attributes of many objects.
    """

    def __init__(self, function: Callable[[Owner], Value]) -> None:
        self._function = function
        self._name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Owner]) -> computed[Owner, Value]: ...

    @overload
    def __get__(self, instance: Owner, owner: type[Owner]) -> Value: ...

    def __get__(self, instance: Owner | None, owner: type[Owner]) -> computed[Owner, Value] | Value:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._function(instance)
        return value


def changed(spec: Spec, **changes: object) -> Spec:
    """A frozen dataclass with other values of some fields, as `dataclasses.replace` gives it, in a third of its time.

    For classes that check and keep nothing of themselves: searches make millions of their objects.
    """
    new = object.__new__(type(spec))
    values = new.__dict__
    values.update(spec.__dict__)
    if not changes.keys() <= values.keys():
        raise TypeError(f"{type(spec).__name__} has no field {', '.join(changes.keys() - values.keys())}")
    values.update(changes)
    return new


def hashed_once(cls: type[Spec]) -> type[Spec]:
    """Class decorator: the hash of a frozen dataclass, a key that is looked up often, is computed once per object."""
    names = [field.name for field in fields(cast("type", cls))]
    values = attrgetter(*(field.name for field in fields(cast("type", cls)) if field.compare))

    def of_fields(self: object) -> int:
        attributes = self.__dict__
        try:
            hashed: int = attributes["_hash"]
        except KeyError:
            hashed = attributes["_hash"] = hash(values(self))
        return hashed

    def fields_alone(self: object) -> dict[str, object]:
        # Hashes of strings differ between processes: a pickled object leaves its own behind.
        return {name: self.__dict__[name] for name in names}

    cls.__hash__ = of_fields  # type: ignore[method-assign,assignment]
    cls.__getstate__ = fields_alone  # type: ignore[attr-defined]
    return cls
