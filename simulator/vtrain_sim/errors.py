"""What commands turn into a sentence on stderr: the error that ends them with exit code 2, and the warning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something in the input is wrong; the message says what, where, and what would be valid.

    >>> import vtrain as vt
    >>> try:
    ...     vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=3, mbs=1, gbs=16)
    ... except vt.UserError as error:
    ...     print(error)
    --num-gpus is 8, which is not a multiple of tensor x pipeline x context parallel size (3)
    """


class SpecError(UserError):
    """A configuration that cannot exist or that Megatron-Core refuses."""


class Notice(UserWarning):
    """Something that a result leaves out or takes for granted, and that its reader should know."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


# Words of options are short and much alike: what is less so is another option, not a slip.
_FLAGS_ALIKE = 0.75


def nearest_flag(flag: str, known: Iterable[str]) -> str:
    """The same for an option that begins with dashes, which count for nothing; only for what is much alike."""
    names = {name.lstrip("-"): name for name in known}
    matches = difflib.get_close_matches(flag.lstrip("-"), names, n=1, cutoff=_FLAGS_ALIKE)
    return f" (did you mean {names[matches[0]]!r}?)" if matches else ""
