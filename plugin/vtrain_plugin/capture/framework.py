"""What a capture needs of the framework that trains. `vtrain_plugin.adapters.base` is what to implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch

    from vtrain_plugin.capture.hooked import Hooked, ModuleCall
    from vtrain_plugin.capture.rows import Row
    from vtrain_plugin.capture.session import Session


class ModuleRules(Protocol):
    """Which modules are recorded, and what they are."""

    def span_kind(self, path: str, module: torch.nn.Module, operators: bool) -> str | None:
        """Span kind of a module, None where it is not recorded; operators: linear layers and the like too."""
        ...

    def layer_number(self, module: torch.nn.Module) -> int | None:
        """Number of a layer in the whole model, from 1; the modules inside are not asked about."""
        ...

    def has_delayed_weight_gradient(self, module: torch.nn.Module) -> bool:
        """Whether a module computes the gradient of its weights apart from its backward pass."""
        ...

    def before_module(self, call: ModuleCall) -> None:
        """A recorded module is about to run: learn from its input."""
        ...

    def operator_of(self, call: ModuleCall, output: torch.Tensor | None) -> Operator | None:
        """The forward operator that a module is, less what its own recorded children are."""
        ...

    def communication_inside(self, module: torch.nn.Module) -> str:
        """Role of the group whose communication is inside a module's own kernels, where no call shows it; else ""."""
        ...


class Framework(ModuleRules, Protocol):
    """One training framework, during one capture."""

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages whose modules may hold their own reference to a function that is wrapped."""
        ...

    def install(self, session: Session) -> None:
        """Wrap what shows that training work begins and that a step ends; nothing else runs during warm-up."""
        ...

    def install_recording(self, session: Session) -> None:
        """Wrap everything else that is recorded; at the end of the warm-up."""
        ...

    def why_no_hooks(self, model: torch.nn.Module) -> str:
        """Why the modules of a model chunk must get no hooks; "" where they may."""
        ...

    def on_model(self, model: torch.nn.Module, hooked: Sequence[Hooked]) -> None:
        """The modules of a model chunk have been hooked; none of them where they must not."""
        ...

    def start_step(self) -> None:
        """A recorded step begins."""
        ...

    def role_of_group(self, group: torch.distributed.ProcessGroup) -> str | None:
        """Role of a process group that has no description; None where it is not known."""
        ...

    def describe_run(self) -> Row:
        """Columns of the runs table that the framework knows."""
        ...

    def describe_rank(self) -> Row:
        """Columns of the ranks table that the framework knows: coordinates and parameters."""
        ...

    def remove(self) -> None:
        """Let go of what is no patch of the session; may be called more than once, must not raise."""
        ...
