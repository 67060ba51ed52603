"""Where the ranks of each communication group sit, in Megatron-Core's rank order.

Ranks are numbered tensor parallel first, then context, data and pipeline parallel; for the experts expert tensor
parallel first, then expert, expert data and pipeline parallel (`megatron.core.parallel_state.RankGenerator`, order
``tp-cp-ep-dp-pp``). Ranks of a domain of the network, a node for example, are numbered one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.frozen import computed, hashed_once
from vtrain_sim.specs.context_parallel import A2A, ALL_GATHER, HIERARCHICAL, P2P

if TYPE_CHECKING:
    from vtrain_sim.specs.parallel import ParallelSpec

# How the groups of a layer lie over nodes repeats after as many bundles of them: more only tell worlds apart
# that are the same to a layer.
_BUNDLES = 16


@dataclass(frozen=True)
class Span:
    """How the groups of a role lie over the domains of one level of the network.

    domains: that the most spread group spans. sharers: groups that cross the border of one domain at the same
    time, of the domain where they are the most; 1 where no group leaves its domain.
    """

    domains: int
    sharers: int


@hashed_once
@dataclass(frozen=True)
class Group:
    """The groups of one role, all of which communicate at the same time: what one of them looks like, and how many.

    role: word of `vtrain_schemas.words.ROLES`. size: ranks of one group. stride: distance in rank order from one
    block of its ranks to the next. block: ranks next to each other (1 but for model parallel groups). concurrent:
    groups next to each other in rank order, one block apart. repeats: such bundles of groups, one after the
    other from rank `first` on. one_way: its first rank sends and its second receives, at full duplex. mirrored: a
    group also has the ranks at the same positions of the bundle that is as far from the last as its own is from the
    first; bundles are the stages of a pipeline that microbatches pass both ways.
    """

    role: str
    size: int
    stride: int
    block: int = 1
    concurrent: int = 1
    repeats: int = 1
    first: int = 0
    one_way: bool = False
    mirrored: bool = False

    def members(self) -> Iterator[tuple[int, ...]]:
        """The ranks of each group."""
        for ranks in _members(self, self.repeats):
            yield tuple(ranks.tolist())

    def span(self, domain: int) -> Span:
        """How these groups lie over domains of so many ranks."""
        return _span(self, domain)

    @property
    def period(self) -> int:
        """Ranks of one bundle of groups."""
        return self.positions * self.stride

    @property
    def positions(self) -> int:
        """Blocks of ranks that a group has in one bundle."""
        return self.size // self.block // (2 if self.mirrored else 1)

    @property
    def last_rank(self) -> int:
        """The last rank of the last of these groups."""
        if self.repeats > 1:
            return self.first + self.repeats * self.period - 1
        return self.first + (self.positions - 1) * self.stride + self.concurrent * self.block - 1

    def over_both_copies(self, stages: int) -> Group:
        """The groups within the stages of a pipeline that has two copies of the parameters: a stage's and those of the
        stage that holds the other copy."""
        return _mirrored(self, stages)


@lru_cache(maxsize=65536)
def _mirrored(group: Group, stages: int) -> Group:
    return replace(group, size=2 * group.size, repeats=stages, mirrored=True)


@lru_cache(maxsize=65536)
def strided(role: str, size: int, stride: int, repeats: int) -> Group:
    """Groups of ranks `stride` apart, `stride` of them side by side, and such bundles one after the other."""
    return Group(role, size, stride, concurrent=stride, repeats=repeats)


@lru_cache(maxsize=65536)
def _group(role: str, size: int, stride: int, block: int, concurrent: int) -> Group:
    return Group(role, size, stride, block, concurrent)


@lru_cache(maxsize=65536)
def _span(group: Group, domain: int) -> Span:
    if group.size == 1 or group.last_rank // domain == group.first // domain:
        return Span(1, 1)
    regular = _regular_pair(group, domain) if group.size == 2 and group.repeats == 1 else _regular(group, domain)
    return regular or _counted(group, domain)


def _first_bundles(group: Group) -> Group:
    repeats = min(group.repeats, _BUNDLES)
    return group if repeats == group.repeats else strided(group.role, group.size, group.stride, repeats)


def _regular(group: Group, domain: int) -> Span | None:
    """Bundles without gaps whose sizes and the domain's divide each other."""
    positions, period = group.positions, group.period
    if group.mirrored or group.first or positions == 1 or group.concurrent * group.block != group.stride:
        return None
    if domain % period == 0:
        return Span(1, 1)
    if group.stride % domain == 0 and domain % group.block == 0:
        return Span(positions, domain // group.block)
    if group.stride % domain == 0 and group.block % domain == 0:
        return Span(group.size // domain, 1)
    if domain % group.stride == 0 and period % domain == 0:
        return Span(period // domain, group.concurrent)
    return None


def _regular_pair(group: Group, domain: int) -> Span | None:
    """Pairs between two stages that fill domains, or of which a whole number fills a domain."""
    stage = group.concurrent
    if group.block > 1 or group.first % stage or group.stride % stage:
        return None
    if stage % domain == 0:
        return Span(2, domain)
    if domain % stage == 0:
        inside = group.first // domain == (group.first + group.stride) // domain
        return Span(1, 1) if inside else Span(2, stage)
    return None


def _counted(group: Group, domain: int) -> Span:
    """Any other layout, rank by rank over one period of bundles against domains."""
    repeats = group.repeats
    if not group.mirrored:
        repeats = min(repeats, domain // gcd(group.period, domain))
    domains = np.sort(_members(group, repeats), axis=1) // domain
    domains = domains[domains[:, 0] != domains[:, -1]]
    if not len(domains):
        return Span(1, 1)
    entered = np.diff(domains, axis=1, prepend=-1) > 0
    if group.one_way:
        sharers = max(_most_common(domains[:, 0]), _most_common(domains[:, 1]))
    else:
        sharers = _most_common(domains[entered])
    return Span(int(entered.sum(axis=1).max()), sharers)


def _most_common(values: NDArray[np.int64]) -> int:
    return int(np.unique(values, return_counts=True)[1].max())


def _members(group: Group, repeats: int) -> NDArray[np.int64]:
    """[groups, size] ranks of the groups of the first bundles."""
    bundles = group.first + np.arange(repeats) * group.period
    starts = (bundles[:, None] + np.arange(group.concurrent) * group.block).reshape(-1, 1)
    blocks = np.arange(group.positions) * group.stride
    offsets = (blocks[:, None] + np.arange(group.block)).reshape(1, -1)
    members: NDArray[np.int64] = starts + offsets
    if not group.mirrored:
        return members
    by_bundle = members.reshape(repeats, group.concurrent, -1)
    both = np.concatenate([by_bundle, by_bundle[::-1]], axis=2)[: repeats // 2]
    return both.reshape(-1, group.size)


def boundary(stage_ranks: int, from_stage: int, to_stage: int) -> Group:
    """Transfers from each of the `stage_ranks` ranks of a stage to the same rank of another one."""
    first, second = sorted((from_stage, to_stage))
    stride = (second - first) * stage_ranks
    return Group("pp", 2, stride, 1, stage_ranks, 1, first * stage_ranks, one_way=True)


@dataclass(frozen=True)
class LayerGroups:
    """The groups within a stage whose ranks share a layer, as far as a layer can tell: their first bundles."""

    tp: Group
    cp: Group
    cp_a2a: Group
    cp_ring: Group
    cp_gather: Group
    ep: Group
    expert_tp: Group
    tp_ep: Group


class Groups:
    """The communication groups of a parallel layout."""

    def __init__(self, parallel: ParallelSpec) -> None:
        self.parallel = parallel

    @property
    def stage_ranks(self) -> int:
        """Ranks of one pipeline stage: stage s has ranks s * stage_ranks to (s + 1) * stage_ranks - 1."""
        return self.parallel.tp * self.parallel.cp * self.parallel.dp

    def boundary(self, from_stage: int, to_stage: int) -> Group:
        """Transfers from each rank of a stage to the same rank of another; all ranks of a stage send at once."""
        return boundary(self.stage_ranks, from_stage, to_stage)

    @computed
    def tp(self) -> Group:
        """Tensor parallel."""
        return self._strided("tp", self.parallel.tp, 1)

    @computed
    def cp(self) -> Group:
        """Context parallel."""
        return self._strided("cp", self.parallel.cp, self.parallel.tp)

    @computed
    def cp_a2a(self) -> Group:
        """Context parallel ranks that exchange heads for tokens: all, or inner groups of neighbours.

        As Megatron-Core's `create_hierarchical_groups` numbers them. Of size 1 where there are none, as the next two.
        """
        parallel = self.parallel
        size = parallel.cp if parallel.cp_comm_type == A2A else max(1, parallel.cp_a2a_size)
        return self._strided("cp", size, parallel.tp)

    @computed
    def cp_ring(self) -> Group:
        """Context parallel ranks whose keys and values go round: all, or one of each inner group."""
        inner, rings = self.cp_a2a.size, self.parallel.cp_comm_type in (P2P, HIERARCHICAL)
        return self._strided("cp", self.parallel.cp // inner if rings else 1, self.parallel.tp * inner)

    @computed
    def cp_gather(self) -> Group:
        """Context parallel ranks that gather all keys and values."""
        gathers = self.parallel.cp_comm_type == ALL_GATHER
        return self._strided("cp", self.parallel.cp if gathers else 1, self.parallel.tp)

    @computed
    def dp(self) -> Group:
        """Data parallel, context parallel ranks included."""
        return self._strided("dp", self.parallel.dp * self.parallel.cp, self.parallel.tp)

    @computed
    def expert_tp(self) -> Group:
        """Expert tensor parallel."""
        return self._strided("expert_tp", self.parallel.etp, 1)

    @computed
    def ep(self) -> Group:
        """Expert parallel."""
        return self._strided("ep", self.parallel.ep, self.parallel.etp)

    @computed
    def tp_ep(self) -> Group:
        """Expert tensor and expert parallel together."""
        return self._strided("tp_ep", self.parallel.etp * self.parallel.ep, 1)

    @computed
    def expert_dp(self) -> Group:
        """Ranks that hold the same experts."""
        return self._strided("expert_dp", self.parallel.expert_dp, self.parallel.etp * self.parallel.ep)

    @computed
    def mp(self) -> Group:
        """Model parallel: tensor and pipeline together."""
        if self.parallel.pp == 1:
            return self._strided("mp", self.parallel.tp, 1)
        tp, ranks = self.parallel.tp, self.stage_ranks
        return _group("mp", tp * self.parallel.pp, ranks, tp, ranks // tp)

    @computed
    def embedding(self) -> Group:
        """First and last stage, which share the table of tied embeddings; one rank without a pipeline."""
        ranks, last = self.stage_ranks, self.parallel.pp - 1
        return _group("embedding", 2 if last else 1, max(1, last) * ranks, 1, ranks)

    @computed
    def of_layer(self) -> LayerGroups:
        """The groups that share a layer."""
        return LayerGroups(*(_first_bundles(getattr(self, field.name)) for field in fields(LayerGroups)))

    def _strided(self, role: str, size: int, stride: int) -> Group:
        return strided(role, size, stride, self.parallel.world_size // (size * stride))
