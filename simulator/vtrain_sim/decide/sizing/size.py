"""Sizes a model: candidates are planned, the largest first, and what counts is the MFU of their best plans."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.decide import Bounds, Failures
from vtrain_sim.decide.sizing.budget import SIZED, Budget
from vtrain_sim.decide.sizing.candidates import candidates
from vtrain_sim.decide.sizing.frontier import frontier
from vtrain_sim.decide.sizing.laws import get
from vtrain_sim.decide.sizing.result import Candidate, SizeResult
from vtrain_sim.decide.sizing.shapes import GPT, Shape
from vtrain_sim.decide.sizing.tokens import TokenRule
from vtrain_sim.errors import UserError
from vtrain_sim.model.step import active_parameters_of
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ModelSpec, TrainSpec
from vtrain_sim.specs.checks import finite, positive

# Of the largest in time: smaller sizes than its share are not planned, those above it are.
_BELOW = 1.25
# Sizes that are planned first, over what an MFU of 100% would pay for. They say which MFU can be expected: what would
# need so many times the best one until then is not planned.
_FIRST = (1.0, 0.75, 0.5)
# Sizes that are planned for the frontier alone, over the largest in time.
_SMALLER = (0.7, 0.5, 0.35, 0.25)
_BETTER = 1.5
# So many sizes without any plan, and it is asked whether the smallest has one.
_NONE_FITS = 12
# With a lower MFU than this, and fewer tokens of a step for each GPU, it is the batch that is small.
_IDLE = 0.25
_FEW_TOKENS = 4096


def size(
    projector: Projector,
    num_gpus: Sequence[int],
    days: float,
    batches: tuple[int, ...],
    rule: TokenRule | None = None,
    like: ModelSpec | None = None,
    base: TrainSpec | None = None,
    bounds: Bounds | None = None,
    shape: Shape = GPT,
    failures: Failures | None = None,
    progress: Progress = unwatched,
) -> SizeResult:
    """The largest compute-optimal model of a shape that trains on so many GPUs in so many days.

    num_gpus: one number, or several to choose from. rule: the tokens of a size (by default 20 for each parameter).
    like: the model whose sequence length and vocabulary candidates have (by default the shape's). failures: None:
    nothing breaks. Raises `UserError` where even the smallest candidate does not train in time, with what would help.
    """
    if not num_gpus:
        raise UserError("how many GPUs there are is missing: give --num-gpus")
    for count in num_gpus:
        positive("--num-gpus", count)
    finite("--days", days, 1e-6)
    rule = rule or TokenRule(get("chinchilla-20"))
    base, bounds = base or TrainSpec(1, 1), bounds or SIZED
    counts = tuple(sorted(set(num_gpus)))
    budgets = [Budget(projector, n, days, batches, rule, base, bounds, failures) for n in counts]
    models = candidates(shape, like or shape.usual)
    paid = rule.largest_parameters(budgets[-1].flops)
    affordable = [m for m in models if active_parameters_of(m) <= paid]
    if not affordable:
        least = active_parameters_of(models[0]) / 1e9
        raise UserError(
            f"{counts[-1]} GPUs in {days:g} days pay for a model of at most {paid / 1e9:.3g} billion parameters; the "
            f"smallest of shape {shape.name} has {least:.2g}, no published model gives proportions of a smaller one: "
            "change --num-gpus or --days"
        )
    planned: list[Candidate] = []
    for number, budget in enumerate(budgets):
        planned += _planned(budget, models, progress, number / len(budgets), 1 / len(budgets))
    chosen = _largest_in_time(planned, days)
    nearest = affordable[-1]
    naive = next((c for c in planned if c.model == nearest and c.num_gpus == counts[-1]), None)
    ordered = sorted(planned, key=lambda c: (c.active_parameters, c.num_gpus))
    return SizeResult(
        projector.cluster.name,
        counts,
        days,
        rule,
        shape,
        failures,
        paid,
        naive or budgets[-1].plan(nearest),
        tuple(ordered),
        chosen,
        frontier(ordered),
        tuple(_notes(chosen, models)),
    )


def _planned(
    budget: Budget, models: Sequence[ModelSpec], progress: Progress, done: float, share: float
) -> list[Candidate]:
    """Candidates of one budget: from what it pays for at an MFU of 100% down to below the largest in time.

    done, share: of the whole search, before these and of them.
    """
    limit = budget.rule.largest_parameters(budget.flops)
    affordable = [m for m in models if active_parameters_of(m) <= limit]
    first = [m for share in _FIRST if (m := _nearest(affordable, share * limit)) is not None]
    planned = {model: budget.plan(model) for model in dict.fromkeys(first)}
    least = 0.0
    for number, model in enumerate(reversed(affordable), 1):
        active = active_parameters_of(model)
        if active < least:
            break
        reached = max((c.naive_days / c.days for c in planned.values()), default=0.0)
        if model not in planned and reached and budget.naive_days(model) / budget.days > _BETTER * reached:
            continue
        if model not in planned:
            planned[model] = budget.plan(model)
        candidate = planned[model]
        if not least and candidate.days <= budget.days:
            least = active / _BELOW
        if len(planned) == min(_NONE_FITS, len(affordable)) and all(c.plan is None for c in planned.values()):
            budget.check(affordable[0])
        in_time = sum(c.days <= budget.days for c in planned.values())
        progress(len(planned), in_time, done + share * number / len(affordable))
    if least:
        smaller = [_nearest(affordable, part * least * _BELOW) for part in _SMALLER]
        planned |= {m: budget.plan(m) for m in smaller if m is not None and m not in planned}
    return list(planned.values())


def _nearest(models: Sequence[ModelSpec], active: float) -> ModelSpec | None:
    """The largest model of no more than so many parameters that a token uses."""
    return next((m for m in reversed(models) if active_parameters_of(m) <= active), None)


def _largest_in_time(planned: Sequence[Candidate], days: float) -> Candidate:
    """The largest candidate that trains in time, of several the cheapest. Raises `UserError` where none does."""
    fitting = [c for c in planned if c.days <= days]
    if fitting:
        return max(fitting, key=lambda c: (c.active_parameters, -c.cost_usd, -c.days))
    fastest = min(planned, key=lambda c: c.days)
    raise UserError(
        f"no candidate trains in {days:g} days: {fastest.model.name} ({fastest.parameters / 1e9:.3g} billion "
        f"parameters) would take {fastest.days:.1f}; more GPUs, more days or another --global-batch-size would help"
    )


def _notes(chosen: Candidate, models: Sequence[ModelSpec]) -> list[str]:
    """What holds the chosen size down besides the budget."""
    notes = []
    if chosen.model == models[-1]:
        notes.append("no published model gives proportions of larger ones: the budget may pay for more parameters")
    assert chosen.plan is not None
    mfu, c = chosen.plan.projection.mfu, chosen.plan.projection.configuration
    tokens = c.tokens_per_step / c.parallel.world_size
    if mfu < _IDLE and tokens < _FEW_TOKENS:
        notes.append(
            f"its MFU is {mfu:.1%}: a step has {tokens:,.0f} tokens for each GPU; a larger --global-batch-size than "
            f"{c.train.global_batch_size} leaves more work for each, if the training bears it"
        )
    return notes
