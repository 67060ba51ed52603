"""Where the virtual stages of a pipeline are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vtrain_sim.frozen import computed


@dataclass(frozen=True)
class PipelineShape:
    """Size of a pipeline: stages, model chunks per stage as Megatron counts them, microbatches per step."""

    stages: int
    chunks: int
    microbatches: int


@dataclass(frozen=True)
class Placement:
    """Where the virtual stages are.

    A place is one model chunk on one stage; places are numbered ``chunk * stages + stage``.
    stages: pipeline stages. chunks: places per stage (2 for DualPipe, although Megatron's vpp is 1).
    virtual_stage: for each place, which virtual stage (in the order in which a microbatch passes them)
    it holds. A virtual stage that is in several places has a copy in each direction, one per chunk.
    """

    stages: int
    chunks: int
    virtual_stage: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.virtual_stage) != self.stages * self.chunks:
            raise ValueError(f"{len(self.virtual_stage)} places for {self.stages} stages x {self.chunks} chunks")
        if set(self.virtual_stage) != set(range(self.virtual_stages)):
            raise ValueError(f"virtual stages {sorted(set(self.virtual_stage))} are not 0 to their count - 1")

    @classmethod
    @lru_cache(maxsize=1024)
    def in_turn(cls, stages: int, chunks: int) -> Placement:
        """Megatron's: the virtual stages go round the stages, one chunk after the other."""
        return cls(stages, chunks, tuple(range(stages * chunks)))

    @classmethod
    @lru_cache(maxsize=1024)
    def v_shape(cls, stages: int) -> Placement:
        """Two chunks per stage: down the stages with the first, back up with the second."""
        return cls(stages, 2, (*range(stages), *range(2 * stages - 1, stages - 1, -1)))

    @classmethod
    @lru_cache(maxsize=1024)
    def both_ways(cls, stages: int) -> Placement:
        """Two copies of each virtual stage: one down the stages, one up."""
        return cls(stages, 2, (*range(stages), *reversed(range(stages))))

    def place(self, chunk: int, stage: int) -> int:
        """Number of the place of a chunk on a stage."""
        return chunk * self.stages + stage

    def stage_of(self, place: int) -> int:
        """Stage that a place is on."""
        return place % self.stages

    def chunk_of(self, place: int) -> int:
        """Chunk of its stage that a place is."""
        return place // self.stages

    def places_of(self, virtual_stage: int) -> tuple[int, ...]:
        """Places that hold a copy of a virtual stage."""
        return self._places[virtual_stage]

    @computed
    def virtual_stages(self) -> int:
        """How many virtual stages there are."""
        return max(self.virtual_stage) + 1

    @computed
    def ends_meet(self) -> bool:
        """Whether the first and the last virtual stage are on the same stages: there the output layer can share the
        table of the embedding."""
        first, last = (
            {self.stage_of(place) for place in self.places_of(virtual_stage)}
            for virtual_stage in (0, self.virtual_stages - 1)
        )
        return first == last

    @computed
    def next_place(self) -> tuple[int, ...]:
        """For each place, where a microbatch goes next (in the same direction); -1 behind the last."""
        return tuple(self._neighbour(place, 1) for place in range(len(self.virtual_stage)))

    @computed
    def previous_place(self) -> tuple[int, ...]:
        """For each place, where a microbatch comes from (in the same direction); -1 before the first."""
        return tuple(self._neighbour(place, -1) for place in range(len(self.virtual_stage)))

    @computed
    def next_stage(self) -> tuple[int, ...]:
        """For each place, the stage on the other side of the boundary to the next virtual stage; -1 behind the last."""
        return tuple(self.stage_of(place) if place >= 0 else -1 for place in self.next_place)

    @computed
    def _places(self) -> tuple[tuple[int, ...], ...]:
        places: list[list[int]] = [[] for _ in range(self.virtual_stages)]
        for place, virtual_stage in enumerate(self.virtual_stage):
            places[virtual_stage].append(place)
        return tuple(tuple(p) for p in places)

    def _neighbour(self, place: int, step: int) -> int:
        virtual_stage = self.virtual_stage[place] + step
        if not 0 <= virtual_stage < self.virtual_stages:
            return -1
        copies = self.places_of(virtual_stage)
        same_chunk = [c for c in copies if self.chunk_of(c) == self.chunk_of(place)]
        # One copy: wherever it is. Several: a direction is a chunk.
        return copies[0] if len(copies) == 1 else same_chunk[0]
