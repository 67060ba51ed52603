"""When the backward pass of a module is over.

A hook of a module's input runs ahead of the autograd node that made the input. That may be long after the module's own
nodes have run: the node waits for everything else that took its outputs (the other experts, the other projection of
latent attention), and nodes of other branches come before it. The node that took the input says it exactly: what runs
after it, up to the next span, is the accumulation of the module's weight gradients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from vtrain_plugin.capture.guard import Guard

if TYPE_CHECKING:
    import torch

# Nodes that are looked at from a module's output on: of one operator, of a block with other modules in it.
_OPERATOR_NODES, _BLOCK_NODES = 16, 256


class Input:
    """The tensor that a module was given, and where in the autograd graph it comes from.

    handle: of the hook that runs when all of the tensor's gradient is there; None without one. The tensor itself is not
    kept: it may be a recomputed activation that is to be freed.
    """

    __slots__ = ("_leaf", "handle", "node")

    def __init__(self, tensor: torch.Tensor, handle: Any) -> None:
        # None for a leaf, which comes from nowhere; the graph keeps it while it is asked about.
        self.node = tensor.grad_fn
        self._leaf = id(tensor) if self.node is None else None
        self.handle = handle

    def feeds(self, node: Any) -> bool:
        """Whether a node takes the tensor (or another one that the same node made)."""
        for source, _ in node.next_functions:
            if source is None:
                continue
            if source is self.node or (self._leaf is not None and id(getattr(source, "variable", None)) == self._leaf):
                return True
        return False


class Block:
    """A call of a module that has recorded modules inside, and what ends its backward pass."""

    __slots__ = ("end", "input", "result", "watched")

    def __init__(self, given: Input, result: Any, end: Callable[[], None]) -> None:
        self.input = given
        self.result = result
        self.end = end
        self.watched = False


class BackwardEnds:
    """Ends the backward spans of modules when the nodes that took their input have run."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        # Spans whose last node has run; what ends them, and how deep in the model they are.
        self._over: list[tuple[int, Callable[[], None]]] = []
        self._blocks: dict[Hashable, list[Block]] = {}

    def watch_operator(self, given: Input, output: torch.Tensor, depth: int, end: Callable[[], None]) -> None:
        """Call `end` when a module without others inside is over; nothing where its node is not found."""
        self._end_after(_consumers(output.grad_fn, given, _OPERATOR_NODES), given, depth, end)

    def watch_block(
        self, given: Input, output: torch.Tensor, parent: Hashable, depth: int, end: Callable[[], None]
    ) -> None:
        """The same for a module with others inside, where another one beside it takes tensors of the same node."""
        if given.node is None:
            return
        beside = self._blocks.setdefault((parent, given.node), [])
        beside.append(Block(given, output.grad_fn, end))
        if len(beside) < 2:
            return
        for one in beside:
            if not one.watched:
                one.watched = True
                self._end_after(_consumers(one.result, one.input, _BLOCK_NODES), one.input, depth, one.end)

    def flush(self) -> None:
        """End what is over, the innermost first: something else begins or ends."""
        while self._over:
            over, self._over = sorted(self._over, key=lambda one: -one[0]), []
            for _, end in over:
                end()

    def forget(self) -> None:
        """Drop what is kept of the autograd graph: blocks beside each other are of one forward pass."""
        self._blocks.clear()

    def _end_after(self, nodes: list[Any], given: Input, depth: int, end: Callable[[], None]) -> None:
        """Call `end` when all nodes have run, instead of when the input's own node does; there may be none."""
        if not nodes:
            return
        if given.handle is not None:
            given.handle.remove()
        left = [len(nodes)]

        def run(*gradients: object) -> None:
            self._guard.run(self._count, left, depth, end)

        for node in nodes:
            node.register_hook(run)

    def _count(self, left: list[int], depth: int, end: Callable[[], None]) -> None:
        left[0] -= 1
        if not left[0]:
            self._over.append((depth, end))


def _consumers(start: Any, given: Input, most: int) -> list[Any]:
    """The nodes that take the input among the nearest `most` behind `start`."""
    if start is None:
        return []
    nodes = []
    queue, seen = deque([start]), {start}
    while queue:
        node = queue.popleft()
        if given.feeds(node):
            nodes.append(node)
        for source, _ in node.next_functions:
            if source is not None and source not in seen and source is not given.node and len(seen) < most:
                seen.add(source)
                queue.append(source)
    return nodes
