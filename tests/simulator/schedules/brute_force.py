"""Independent reference: every operator of every stage and every transfer as a node of a graph.

Written without looking at the replay; it shares with it only the instructions and the placement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vtrain_sim.schedules import Exchange, Instruction, Message, Pass, Placement, Receive, Send

Node = object
Operators = Sequence[Sequence[float]]
# End of each pass of a stage, in the order in which it runs them.
PassEnds = list[tuple[Pass, float]]


@dataclass
class Graph:
    """Longest paths; weight: seconds of a node, before: the nodes that it comes after."""

    weight: dict[Node, float] = field(default_factory=dict)
    before: dict[Node, list[Node]] = field(default_factory=dict)

    def add(self, node: Node, weight: float, *before: Node) -> Node:
        self.weight[node], self.before[node] = weight, list(before)
        return node

    def ends(self) -> dict[Node, float]:
        """End of each node, in topological order."""
        after: dict[Node, list[Node]] = {node: [] for node in self.weight}
        for node, earlier in self.before.items():
            for e in earlier:
                after[e].append(node)
        missing = {node: len(earlier) for node, earlier in self.before.items()}
        end = dict.fromkeys(self.weight, 0.0)
        ready = [node for node, count in missing.items() if count == 0]
        done = 0
        while ready:
            node = ready.pop()
            done += 1
            end[node] += self.weight[node]
            for later in after[node]:
                end[later] = max(end[later], end[node])
                missing[later] -= 1
                if missing[later] == 0:
                    ready.append(later)
        assert done == len(self.weight), "the graph has a circle"
        return end


def brute_force(
    instructions: Sequence[Sequence[Instruction]],
    operators: dict[str, Callable[[int], Sequence[float]]],
    placement: Placement,
    transfer_s: Sequence[float],
    ready_s: Sequence[float],
    overlapped: bool = True,
) -> tuple[list[float], list[PassEnds]]:
    """End of each stage, and of each of its passes.

    operators: for each kind of pass, the durations of its operators at a place. transfer_s, ready_s: by place.
    """
    graph = Graph()
    sent: dict[Message, Node] = {}
    received: dict[Message, Node] = {}
    last: list[Node] = []
    passes: list[list[tuple[Pass, Node]]] = []
    for stage, todo in enumerate(instructions):
        previous = graph.add(("start", stage), 0.0)
        passes.append([])
        begun: set[int] = set()
        for at, instruction in enumerate(todo):
            if isinstance(instruction, Pass):
                place = instruction.chunk * placement.stages + stage
                for index, duration in enumerate(operators[instruction.kind](place)):
                    previous = graph.add((stage, at, index), duration, previous)
                if place not in begun:
                    begun.add(place)
                    gathered = graph.add(("gathered", place), ready_s[place])
                    previous = graph.add((stage, at, "gathered"), 0.0, previous, gathered)
                passes[-1].append((instruction, previous))
            elif isinstance(instruction, Exchange):
                sent.update(dict.fromkeys(instruction.sends, previous))
                received.update(dict.fromkeys(instruction.receives, previous))
                transfers = [("transfer", m) for m in (*instruction.sends, *instruction.receives)]
                previous = graph.add((stage, at), 0.0, previous, *transfers)
            elif isinstance(instruction, Send):
                sent[instruction.message] = previous
                if not overlapped:
                    previous = graph.add((stage, at), crossing(instruction.message, placement, transfer_s), previous)
            else:
                assert isinstance(instruction, Receive)
                previous = graph.add((stage, at), 0.0, previous, ("transfer", instruction.message))
        last.append(previous)
    for message, node in sent.items():
        came = [received[message]] if message in received else []
        graph.add(("transfer", message), crossing(message, placement, transfer_s), node, *came)
    end = graph.ends()
    return [end[node] for node in last], [[(one, end[node]) for one, node in stage] for stage in passes]


def crossing(message: Message, placement: Placement, transfer_s: Sequence[float]) -> float:
    """Seconds of a transfer: named by the place on the boundary's side that comes first for a microbatch."""
    place = message.chunk * placement.stages + message.stage
    if message.direction == "F":
        return transfer_s[place]
    above = placement.virtual_stage[place] - 1
    copies = [p for p, v in enumerate(placement.virtual_stage) if v == above]
    same_direction = [p for p in copies if p // placement.stages == message.chunk]
    return transfer_s[same_direction[0] if len(copies) > 1 else copies[0]]
