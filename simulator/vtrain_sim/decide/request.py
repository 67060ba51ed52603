"""What to plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.objective import RANKINGS, Objective
from vtrain_sim.decide.search.bounds import Bounds
from vtrain_sim.specs import ClusterSpec, Configuration, ModelSpec, TrainSpec
from vtrain_sim.specs.checks import SpecError, finite, one_of, positive
from vtrain_sim.specs.train import TOKENS


@dataclass(frozen=True)
class Request:
    """What to plan. tokens: to train on; 0: only iteration times are compared.

    num_gpus: exact counts; max_gpus: all up to so many. deadline_days: plans that take longer are
    dropped. failures: None: nothing breaks and no checkpoint is written. allow_tight: also plans that leave less
    memory than the margin of a projection (`simulate.memory.MARGIN`). own: the configuration of the job that is
    planned, which is ranked too; own_name: what it is called. exhaustive: every candidate is evaluated, also what
    cannot be among the best.
    """

    model: ModelSpec
    batches: tuple[int, ...]
    tokens: float = 0.0
    num_gpus: tuple[int, ...] = ()
    max_gpus: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    base: TrainSpec = field(default_factory=lambda: TrainSpec(1, 1))
    rank_by: str = "days"
    deadline_days: float = 0.0
    failures: Failures | None = None
    allow_tight: bool = False
    own: Configuration | None = None
    own_name: str = ""
    exhaustive: bool = False

    def __post_init__(self) -> None:
        one_of("--rank-by", self.rank_by, RANKINGS)
        TOKENS.check("--train-tokens", self.tokens)
        finite("--deadline-days", self.deadline_days)
        if not self.batches:
            raise SpecError("--global-batch-size is missing: sequences of one step, or a list of several")
        for batch in self.batches:
            positive("--global-batch-size", batch)
        if self.num_gpus and self.max_gpus:
            raise SpecError("--num-gpus and --max-gpus say two different things: give exact numbers, or a largest one")
        if self.deadline_days and not self.tokens:
            raise SpecError("--deadline-days needs --train-tokens")

    def ratio(self, one: float, other: float) -> float:
        """How much longer, or dearer, one plan is than another, from what they are ranked by."""
        # MFU is the larger the shorter the time is.
        return other / one if self.rank_by == "mfu" else one / other

    def objective(self, cluster: ClusterSpec) -> Objective:
        """What plans on a cluster are ranked by."""
        return Objective(cluster, self.rank_by, self.tokens, self.deadline_days, self.failures)
