"""One search of a study: what it is computed from, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.decide import Request, plan
from vtrain_sim.decide.search.cuts import divisors
from vtrain_sim.decide.study.content import digest, simulator_digest
from vtrain_sim.errors import UserError
from vtrain_sim.results import Document
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ClusterSpec

SCHEMA = "vtrain.study/1"


@dataclass(frozen=True)
class Unit:
    """One search of a study, with all that it is computed from: nothing is read when it runs.

    model, cluster: what the study calls them. machine, surfaces: the cluster and its device's coefficients. said:
    what else the study file, or the job behind the model's name, says, for the reader of the result.
    """

    model: str
    cluster: str
    request: Request
    machine: ClusterSpec
    surfaces: Surfaces
    top: int = 3
    said: Document = field(default_factory=dict, hash=False)
    simulator: str = field(default_factory=simulator_digest)

    @property
    def global_batch_size(self) -> int:
        """Sequences of a step."""
        return self.request.batches[0]

    @property
    def flags(self) -> tuple[str, ...]:
        """Megatron's arguments that the study file, or the job, gives."""
        return tuple(self.said.get("flags", ()))

    def to_dict(self) -> Document:
        """The unit in its result. inputs: digest of the content of everything that it is computed from."""
        names = {"model": self.model, "cluster": self.cluster, "global_batch_size": self.global_batch_size}
        return {**names, **self.said, "top": self.top, "inputs": self._inputs}

    @cached_property
    def _inputs(self) -> str:
        return digest(self.request, self.machine, self.surfaces, self.top, self.simulator)

    @property
    def name(self) -> str:
        """File name of the result: readable, and another one for any other unit, and for other inputs."""
        label = f"{_label(self.model)}-{_label(self.cluster)}-{self.global_batch_size}"
        return f"{label}-{digest(self.to_dict())[:10]}.json"

    @property
    def size(self) -> int:
        """About how much there is to search, in no unit: numbers of GPUs, and ways to cut layers and experts."""
        request, model = self.request, self.request.model
        counts = len(request.num_gpus) or request.max_gpus // self.machine.gpus_per_node + 1
        return counts * len(divisors(model.num_layers)) * len(divisors(model.num_experts or 1))


def _label(name: str) -> str:
    """The name of a preset as it is (it may have a point in it), of a file without folder and ending."""
    path = Path(name)
    name = path.stem if path.suffix in (".json", ".toml", ".yaml", ".yml", ".sh") else path.name
    return name.replace(":", "-")


def run_unit(unit: Unit) -> Document:
    """The plans of one unit; a search without a result is one, with its reason.

    Raises `UserError` where the simulator is another one than that of the unit, as on another machine.
    """
    if unit.simulator != simulator_digest():
        raise UserError(
            f"{unit.model} on {unit.cluster} came to a machine with another version of vtrain: install the same "
            "everywhere, and start the study again"
        )
    projector = Projector.modelled(unit.machine, unit.surfaces)
    result: Document = {"schema": SCHEMA, "unit": unit.to_dict()}
    try:
        document = plan(unit.request, projector, unit.top).to_dict()
    except UserError as error:
        return {**result, "reason": str(error)}
    # How long it took is no part of the result: it is the same wherever it ran.
    return {**result, **{k: v for k, v in document.items() if k not in ("schema", "elapsed_s")}}
