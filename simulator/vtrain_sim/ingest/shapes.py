"""Which operator, at which shape, each framework operator of a trace is.

Only the innermost operator that its input sizes describe counts, so that a linear layer and the product
that it calls are not both measured. A product in the backward pass is named as the gradient that it is
by comparing it with the forward operator of the same autograd sequence number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from vtrain_schemas.framework_operators import as_gradient, causal_argument, operator_rule, shaped_operator
from vtrain_schemas.kernel_names import kernel_dtype
from vtrain_schemas.operators import Operator
from vtrain_sim.ingest.facts import Facts
from vtrain_sim.ingest.notes import KEPT, NOTED
from vtrain_sim.ingest.structure import BACKWARD, DGRAD, RECOMPUTE, WGRAD, Structure
from vtrain_sim.ingest.trace import OPERATOR, Bools, Ints, Trace

# No tensor has a larger size; products of three of them stay within what a double holds.
_LARGEST = 1 << 40
_TYPES = ("", "float64", "float32", "float16", "bfloat16", "float8")
# Kinds whose backward pass is one operator of the same sizes.
_MIRRORED = ("attention", "norm", "embedding")

# Begin, ns, and operator, by sequence number.
BySequence: TypeAlias = dict[int, list[tuple[int, Operator]]]


@dataclass(frozen=True)
class Shapes:
    """shape: [host] index into `operators`, -1 for none. duration: [host] time to measure it by, ns.
    sequence: [host] autograd's sequence number of the event, or of the innermost around it that has one."""

    shape: Ints
    operators: list[Operator]
    duration: Ints
    sequence: Ints


def shapes_of(trace: Trace, structure: Structure, facts: Facts, forwards: Forwards) -> Shapes:
    """Find the operators of a window; remarks go into its notes. forwards: of the windows before, gets this one's."""
    return _Finder(trace, structure, facts, forwards).find()


class _Finder:
    def __init__(self, trace: Trace, structure: Structure, facts: Facts, forwards: Forwards) -> None:
        self.trace, self.structure, self.host = trace, structure, structure.host
        self.facts, self.forwards = facts, forwards
        self.is_operator = self.host.category == OPERATOR
        self.numbers: dict[Operator, int] = {}
        self.shape = np.full(len(self.host), -1, dtype=np.int64)
        self.duration = np.where(self.is_operator, self._time(), 0)
        self.sequence = structure.nesting.pass_down(self.host.sequence, self.host.sequence < 0)

    def find(self) -> Shapes:
        self._by_sizes()
        self._drop_outer()
        self._name_gradients()
        measured = int((self.shape >= 0).sum())
        self.trace.notes.add("operators", KEPT, "with a shape that says what they compute", measured)
        if not self.facts.has_sizes:
            self.trace.notes.add(
                "operators",
                NOTED,
                "have no input sizes (profile with record_shapes): no shapes for the cost surfaces",
                int(self.is_operator.sum()),
            )
        return Shapes(self.shape, list(self.numbers), self.duration, self.sequence)

    def _time(self) -> Ints:
        """An operator takes as long as what it launched; without a device, as long as on the host."""
        return self.structure.busy if self.trace.on_device else self.host.duration

    def _number(self, operator: Operator) -> int:
        return self.numbers.setdefault(operator, len(self.numbers))

    def _by_sizes(self) -> None:
        """Operators by name and input sizes; each pair of the two is looked at once."""
        rows = np.flatnonzero(self.is_operator & (self.host.signature >= 0))
        types = self._types_by_kernel()
        keys = np.stack([self.host.name[rows], self.host.signature[rows], types[rows]], axis=1)
        pairs, inverse = np.unique(keys, axis=0, return_inverse=True)
        numbers = np.full(len(pairs), -1, dtype=np.int64)
        for index, (name, signature, dtype) in enumerate(pairs.tolist()):
            operator = _shaped(self.trace.names[name], *self.trace.signatures[signature], _TYPES[dtype])
            if operator is not None and all(0 <= d < 1 << 62 for d in operator.dims):
                numbers[index] = self._number(operator)
        self.shape[rows] = numbers[inverse.reshape(-1)]
        if self.trace.on_device:
            # Without work on the device (a meta tensor, or a kernel that the trace lost) there is no time.
            self.shape[self.structure.busy <= 0] = -1

    def _types_by_kernel(self) -> Ints:
        """Element type of each host event's kernels, an index into `_TYPES`; for marks that do not say one."""
        dtypes = np.zeros(len(self.host), dtype=np.int64)
        if all(types for _, types, _ in self.trace.signatures):
            return dtypes
        by_name = np.array([_TYPES.index(kernel_dtype(n)) for n in self.trace.names] or [0], dtype=np.int64)
        products = np.array([k in ("gemm", "attention") for k in self.structure.kinds], dtype=bool)
        mine = products & (self.structure.launcher >= 0)
        np.maximum.at(dtypes, self.structure.launcher[mine], by_name[self.trace.device.name[mine]])
        return self.structure.nesting.add_up(dtypes, np.maximum.at)

    def _drop_outer(self) -> None:
        """Leave only the innermost: an operator that encloses another of its kind is made of that."""
        kinds = np.array([hash(o.kind) for o in self.numbers] or [0], dtype=np.int64)
        for level in reversed(self.structure.nesting.levels[1:]):
            inner = level[self.shape[level] >= 0]
            outer = self.structure.nesting.parent[inner]
            kind = kinds[self.shape[inner]]
            for _ in range(64):
                enclosed = outer >= 0
                if not enclosed.any():
                    break
                inner, outer, kind = inner[enclosed], outer[enclosed], kind[enclosed]
                same = (self.shape[outer] >= 0) & (kinds[self.shape[outer]] == kind)
                self.shape[outer[same]] = -1
                outer = self.structure.nesting.parent[outer]

    def _name_gradients(self) -> None:
        phase, sequence = self.structure.phase, self.sequence
        operators = list(self.numbers)
        backward_pass = np.isin(phase, (BACKWARD, DGRAD, WGRAD))
        rows = np.flatnonzero((self.shape >= 0) & ~backward_pass & (sequence >= 0))
        self.forwards.add(sequence[rows], self.host.start[rows], [operators[n] for n in self.shape[rows].tolist()])
        forward = self.forwards.of(np.unique(sequence[backward_pass]))
        named: dict[int, set[str]] = {}
        loose = 0
        for row in np.flatnonzero((self.shape >= 0) & backward_pass).tolist():
            operator = operators[self.shape[row]]
            if operator.kind != "gemm":
                named.setdefault(int(sequence[row]), set()).add(operator.kind)
                continue
            candidates = _earlier(forward, int(sequence[row]), int(self.host.start[row]), "gemm")
            gradient = next((g for o in candidates if (g := as_gradient(operator, o)) is not None), None)
            if gradient is None:
                # A product is a product: as the data gradient of the layer whose sizes it would have.
                loose += 1
                gradient = replace(operator, phase="dgrad", n=operator.k, k=operator.n)
            have = named.setdefault(int(sequence[row]), set()) if sequence[row] >= 0 else set()
            # Where tokens and outputs are as many, the sizes fit both: autograd takes the data gradient first.
            if gradient.m == gradient.n and gradient.phase in have:
                gradient = replace(gradient, phase="wgrad")
            have.add(gradient.phase)
            self.shape[row] = self._number(gradient)
        reason = "products of the backward pass without their forward operator: taken as data gradients"
        self.trace.notes.add("operators", NOTED, reason, loose)
        self._fused_gradients(forward, named)
        operators = list(self.numbers)
        for row in np.flatnonzero((self.shape >= 0) & (phase == RECOMPUTE)).tolist():
            self.shape[row] = self._number(replace(operators[self.shape[row]], phase="recompute"))

    def _fused_gradients(self, forward: BySequence, named: dict[int, set[str]]) -> None:
        """Backward work that no operator with sizes stands for: fused products and attention."""
        if not self.trace.on_device:
            return
        structure, sequence = self.structure, self.sequence
        of_kind = {kind: self._self_time(kind) for kind in ("gemm", "attention", "norm")}
        launching = (
            self.is_operator
            & np.isin(structure.phase, (BACKWARD, DGRAD, WGRAD))
            & (self.shape < 0)
            & (structure.self_time > 0)
        )
        for row in np.flatnonzero(launching).tolist():
            kind = next((k for k, time in of_kind.items() if time[row] > 0), "")
            candidates = _earlier(forward, int(sequence[row]), int(self.host.start[row]), kind)
            if not kind or len(candidates) != 1:
                continue
            have = named.get(int(sequence[row]), set())
            if kind == "gemm" and not {"backward", "wgrad"} & have:
                phase = "wgrad" if "dgrad" in have else "backward"
            elif kind in _MIRRORED and kind not in have:
                phase = "backward"
            else:
                continue
            self.shape[row] = self._number(replace(candidates[0], phase=phase))
            self.duration[row] = of_kind[kind][row]
            named.setdefault(int(sequence[row]), set()).add(phase if kind == "gemm" else kind)

    def _self_time(self, kind: str) -> Ints:
        """Device time of kernels of a kind that each host event launched itself."""
        device = self.trace.device
        mine = (self.structure.launcher >= 0) & np.array([k == kind for k in self.structure.kinds], dtype=bool)
        total = np.zeros(len(self.host), dtype=np.int64)
        np.add.at(total, self.structure.launcher[mine], device.duration[mine])
        return total


class Forwards:
    """Operators outside the backward pass, of the windows so far, by autograd's sequence number."""

    def __init__(self) -> None:
        self._numbers: dict[Operator, int] = {}
        # Of each window: sequence numbers, in order, begins and numbers of operators.
        self._windows: list[tuple[Ints, Ints, Ints]] = []

    def add(self, sequence: Ints, start: Ints, operators: Sequence[Operator]) -> None:
        """Take in the operators of a window."""
        numbers = np.array([self._numbers.setdefault(o, len(self._numbers)) for o in operators], dtype=np.int64)
        order = np.lexsort((start, sequence))
        if len(order):
            self._windows.append((sequence[order], start[order], numbers[order]))

    def of(self, sequences: Ints) -> BySequence:
        """Operators of some sequence numbers, in ascending order, with their begins."""
        operators = list(self._numbers)
        operators_of: BySequence = {}
        for known, start, numbers in self._windows:
            wanted = sequences[(sequences >= known[0]) & (sequences <= known[-1])]
            begin, end = np.searchsorted(known, wanted, "left"), np.searchsorted(known, wanted, "right")
            for sequence, first, last in zip(wanted.tolist(), begin.tolist(), end.tolist(), strict=True):
                if first < last:
                    operators_of.setdefault(sequence, []).extend(
                        (int(start[i]), operators[numbers[i]]) for i in range(first, last)
                    )
        return operators_of


def _earlier(forward: BySequence, sequence: int, at: int, kind: str) -> list[Operator]:
    """Operators of a kind with a sequence number that began before a time: a backward pass follows its forward pass."""
    return [o for start, o in forward.get(sequence, ()) if o.kind == kind and start < at]


@lru_cache(maxsize=1 << 16)
def _shaped(name: str, dims: bytes, types: bytes, concrete: bytes, dtype: str) -> Operator | None:
    try:
        sizes, kinds, values = (json.loads(text) if text else [] for text in (dims, types, concrete))
    except (ValueError, RecursionError):
        return None
    if not (isinstance(sizes, list) and isinstance(kinds, list) and all(_are_sizes(s) for s in sizes)):
        return None
    operator = shaped_operator(name, sizes, kinds, dtype)
    at = causal_argument(name)
    if operator is not None and at is not None and isinstance(values, list) and len(values) > at:
        return replace(operator, causal=str(values[at]) not in ("False", "0"))
    return operator


def _are_sizes(value: object) -> bool:
    """Whether something is the sizes of a tensor, of a list of tensors, or of nothing."""
    if not isinstance(value, list):
        return False
    return all(type(v) is int and 0 <= v <= _LARGEST for v in value) or all(
        isinstance(v, list) and _are_sizes(v) for v in value
    )


def kinds_by_name(trace: Trace, used: Bools) -> list[str]:
    """Kind of an operator by each of the trace's names, where `used` says that operators have it."""
    kinds = []
    for name, wanted in zip(trace.names, used.tolist(), strict=True):
        rule = operator_rule(name) if wanted else None
        kinds.append(rule.kind if rule is not None else "other")
    return kinds
