"""Which layers are of a kind, from Megatron's --moe-layer-freq, and from the lists of other arguments like it."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from vtrain_sim.specs.checks import SpecError

# Of alternating layers that are written as a repeated list.
_LONGEST_PERIOD = 8


def moe_layers(pattern: str, num_layers: int, flag: str = "--moe-layer-freq") -> tuple[bool, ...]:
    """For each layer, whether it is one. "N": every Nth layer, from the first; a list of 0 and 1: as it says.

    Raises `SpecError` for anything that is neither, or a list of another length.
    """
    text = pattern.strip()
    try:
        value = _evaluate(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SpecError(f"{flag} is {pattern!r}: it takes a whole number or a list such as ([0]*3+[1]*58)") from None
    if isinstance(value, int):
        if value < 1:
            raise SpecError(f"{flag} is {value}: it must be 1 or more")
        return tuple(layer % value == 0 for layer in range(num_layers))
    if len(value) != num_layers:
        raise SpecError(f"{flag} lists {len(value)} layers, the model has {num_layers}")
    if any(v not in (0, 1) for v in value):
        raise SpecError(f"{flag} lists something else than 0 and 1: {pattern}")
    return tuple(bool(v) for v in value)


def write_pattern(layers: Sequence[int]) -> str:
    """A list of 0 and 1, one per layer, as Megatron's ``--moe-layer-freq`` takes it."""
    for period in range(2, min(_LONGEST_PERIOD, len(layers) // 2) + 1):
        unit, times = list(layers[:period]), len(layers) // period
        if len(set(unit)) > 1 and list(layers) == unit * times:
            return f"({unit}*{times})".replace(" ", "")
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][0] == layer:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return "(" + "+".join(f"[{run[0]}]*{len(run)}" for run in runs) + ")"


def _evaluate(node: ast.expr) -> int | list[int]:
    """Whole numbers, lists of them, sums of lists, and lists times a number: nothing else."""
    if isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= 1 << 16:
        return node.value
    if isinstance(node, ast.List):
        items = [_evaluate(item) for item in node.elts]
        if all(isinstance(item, int) for item in items):
            return [item for item in items if isinstance(item, int)]
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(node.op, ast.Mult):
            if isinstance(left, int) and isinstance(right, list):
                left, right = right, left
            if isinstance(left, list) and isinstance(right, int) and len(left) * right <= 1 << 16:
                return left * right
    raise ValueError("not a pattern")
