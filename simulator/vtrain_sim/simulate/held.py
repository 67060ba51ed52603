"""What stages hold in memory while a step runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from vtrain_sim.schedules.passes import FORWARD, produces_gradients
from vtrain_sim.schedules.replay import PassSpan
from vtrain_sim.simulate.batch import Evaluator
from vtrain_sim.simulate.layout import Layout
from vtrain_sim.simulate.spans import Held
from vtrain_sim.specs import Configuration


def held_by_stages(
    evaluator: Evaluator, configuration: Configuration, layout: Layout, passes: Iterable[PassSpan], begin_s: float
) -> Iterator[Held]:
    """What each stage holds, by stage and in it by time. begin_s: when the passes begin.

    Activations live from the forward pass to the pass that makes the weight gradients; all else that a stage holds
    is there from the beginning of the step to its end.
    """
    terms = evaluator.evaluate([configuration]).stage_memory
    kept_bytes, placement = layout.places["kept_bytes"].tolist(), layout.placement
    changes: dict[int, list[tuple[float, int, float]]] = defaultdict(list)
    for one in passes:
        nbytes = kept_bytes[placement.place(one.chunk, one.stage)]
        if one.kind == FORWARD:
            changes[one.stage].append((begin_s + one.start_s, 1, nbytes))
        elif produces_gradients(one.kind, layout.schedule.splits_backward):
            changes[one.stage].append((begin_s + one.end_s, -1, -nbytes))
    for stage in range(placement.stages):
        fixed = sum(float(values[stage]) for name, values in terms.items() if name != "activations")
        count, activations = 0, 0.0
        yield Held(stage, 0.0, count, fixed)
        for at_s, change, nbytes in sorted(changes[stage]):
            count += change
            activations = activations + nbytes if count else 0.0
            yield Held(stage, at_s, count, fixed + activations)
