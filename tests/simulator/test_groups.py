"""Where groups sit, against an enumeration of all ranks by their coordinates."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import product

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vtrain_schemas.words import ROLES
from vtrain_sim.specs import ParallelSpec
from vtrain_sim.specs.groups import Group, Groups, Span

# Roles and the coordinates in which the ranks of one group differ.
DENSE = {"tp": ("tp",), "cp": ("cp",), "dp": ("cp", "dp"), "mp": ("tp", "pp")}
EXPERT = {"expert_tp": ("etp",), "ep": ("ep",), "tp_ep": ("etp", "ep"), "expert_dp": ("edp",)}

sizes = st.sampled_from([1, 1, 2, 2, 3, 4, 5, 8])
domains = st.sampled_from([1, 2, 3, 4, 6, 8, 8, 12, 16, 72])


@st.composite
def layouts(draw: st.DrawFn) -> ParallelSpec:
    tp, cp, dp, pp = draw(sizes), draw(sizes), draw(sizes), draw(sizes)
    assume(tp * cp * dp * pp <= 512)
    fitting = [n for n in range(1, tp * cp * dp + 1) if (tp * cp * dp) % n == 0]
    ep = draw(st.sampled_from(fitting))
    etp = draw(st.sampled_from([n for n in fitting if (tp * cp * dp) % (n * ep) == 0]))
    return ParallelSpec(tp=tp, pp=pp, cp=cp, dp=dp, ep=ep, expert_tp=etp)


def enumerated(p: ParallelSpec, role: str) -> list[tuple[int, ...]]:
    """The groups of a role, from the coordinates of every rank (the first coordinate varies fastest)."""
    order = {"tp": p.tp, "cp": p.cp, "dp": p.dp, "pp": p.pp}
    if role in EXPERT:
        order = {"etp": p.etp, "ep": p.ep, "edp": p.expert_dp, "pp": p.pp}
    within = {**DENSE, **EXPERT, "embedding": ("pp",)}[role]
    groups = defaultdict(list)
    for rank, reverse in enumerate(product(*(range(n) for n in reversed(order.values())))):
        coordinates = dict(zip(reversed(order), reverse, strict=True))
        if role == "embedding" and coordinates["pp"] not in (0, p.pp - 1):
            continue
        groups[tuple(c for name, c in coordinates.items() if name not in within)].append(rank)
    return sorted(tuple(g) for g in groups.values())


def spans_of(groups: list[tuple[int, ...]], domain: int) -> Span:
    """The most domains that a group spans, and the most groups that leave one domain."""
    touched = [{rank // domain for rank in ranks} for ranks in groups]
    leaving = Counter(d for group in touched if len(group) > 1 for d in group)
    return Span(max(map(len, touched)), max(leaving.values(), default=1))


@given(layouts(), st.sampled_from([*DENSE, *EXPERT, "embedding"]), domains)
@example(ParallelSpec(tp=8, pp=16, dp=8), "mp", 8)
@example(ParallelSpec(tp=16, pp=4, dp=2), "mp", 8)
@example(ParallelSpec(tp=2, pp=8), "mp", 8)
@example(ParallelSpec(tp=2, pp=8), "embedding", 8)
@example(ParallelSpec(tp=3, dp=2), "dp", 8)
@example(ParallelSpec(tp=3, cp=2, dp=2), "mp", 6)
@example(ParallelSpec(tp=1, dp=12), "dp", 8)
@settings(max_examples=400, deadline=None)
def test_groups_lie_where_megatrons_rank_order_puts_them(parallel: ParallelSpec, role: str, domain: int) -> None:
    group = getattr(Groups(parallel), role)
    expected = enumerated(parallel, role)
    assert sorted(group.members()) == expected
    assert group.role == role
    assert group.size == len(expected[0])
    assert group.span(domain) == spans_of(expected, domain)


@given(layouts(), domains, st.data())
@settings(max_examples=300, deadline=None)
def test_a_boundary_is_where_its_two_stages_sit(parallel: ParallelSpec, domain: int, data: st.DataObject) -> None:
    assume(parallel.pp > 1)
    source = data.draw(st.integers(0, parallel.pp - 1))
    target = data.draw(st.integers(0, parallel.pp - 1).filter(lambda s: s != source))
    group = Groups(parallel).boundary(source, target)
    ranks = parallel.tp * parallel.cp * parallel.dp
    pairs = [(source * ranks + r, target * ranks + r) for r in range(ranks)]
    assert sorted(group.members()) == sorted(tuple(sorted(p)) for p in pairs)
    crossing = [(a // domain, b // domain) for a, b in pairs if a // domain != b // domain]
    sent, received = (Counter(p[end] for p in crossing) for end in (0, 1))
    expected = Span(2, max(*sent.values(), *received.values())) if crossing else Span(1, 1)
    assert group.span(domain) == expected


@given(layouts(), st.sampled_from(["dp", "expert_dp"]), domains)
@settings(max_examples=200, deadline=None)
def test_both_copies_of_a_stage_are_in_its_groups(parallel: ParallelSpec, role: str, domain: int) -> None:
    """A stage's groups, each with the same ranks of the stage as far from the other end."""
    assume(parallel.pp % 2 == 0)
    ranks, stages = parallel.tp * parallel.cp * parallel.dp, parallel.pp
    group = getattr(Groups(parallel), role).over_both_copies(stages)
    expected = [
        (*one, *(rank + (stages - 1 - 2 * stage) * ranks for rank in one))
        for one in enumerated(parallel, role)
        for stage in [one[0] // ranks]
        if stage < stages // 2
    ]
    assert sorted(group.members()) == sorted(expected)
    assert group.size == len(expected[0])
    assert group.span(domain) == spans_of(expected, domain)


def test_some_boundaries_of_a_pipeline_stay_inside_a_node() -> None:
    groups = Groups(ParallelSpec(tp=2, pp=8))
    assert [groups.boundary(s, s + 1).span(8).domains for s in range(7)] == [1, 1, 1, 2, 1, 1, 1]
    assert groups.boundary(3, 4).span(8).sharers == 2
    assert groups.boundary(7, 0).span(8) == Span(2, 2)
    # Six ranks a stage: two of the first stage's find their partners in the first node, four send out of it.
    assert Groups(ParallelSpec(tp=6, pp=2)).boundary(0, 1).span(8) == Span(2, 4)


def test_roles_are_words_of_the_schema() -> None:
    groups = Groups(ParallelSpec(tp=2, pp=2, dp=2))
    for role in (*DENSE, *EXPERT, "embedding"):
        assert role in ROLES
        assert getattr(groups, role).role == role


def test_a_group_of_one_stays_where_it_is() -> None:
    assert Group("tp", 1, 1, repeats=64).span(8) == Span(1, 1)
