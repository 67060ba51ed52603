"""What a training framework implements to be captured.

An adapter is one package with one subclass of `Adapter`, named in the entry-point group ``vtrain.adapters``
or registered with `vtrain_plugin.adapters.register`. Importing it must import neither torch nor the
framework: a process that never trains may be armed too.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from vtrain_plugin.capture.hooked import Hooked, ModuleCall
from vtrain_plugin.capture.rows import Row
from vtrain_plugin.capture.session import Session
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch


class Adapter(ABC):
    """One training framework, during one capture (see `vtrain_plugin.capture.framework.Framework`).

    name: its name in the registry. trigger: the module whose import shows that a process trains with it.
    packages: whose modules may hold their own reference to a function that the adapter or the capture
    wraps.
    """

    name: ClassVar[str]
    trigger: ClassVar[str]
    packages: tuple[str, ...] = ()

    @classmethod
    def detect(cls) -> bool:
        """Whether this process has imported the framework."""
        return cls.trigger in sys.modules

    @abstractmethod
    def install(self, session: Session) -> None:
        """Wrap what shows that training work begins and that a step ends.

        The wrappers run the adapter's code through ``session.guard``: ``session.on_model(model)`` and
        ``session.on_training_work()`` before a forward pass. After the optimizer step they call
        ``session.on_optimizer_end()``, outside the guard: hooks that are over are taken out there. Nothing else
        of the plugin runs during warm-up. Wrap with ``session.patches``: the session takes them out.
        """

    def install_recording(self, session: Session) -> None:  # noqa: B027
        """Wrap what else is recorded, at the end of the warm-up; modules and collectives are already."""

    @abstractmethod
    def span_kind(self, path: str, module: torch.nn.Module, operators: bool) -> str | None:
        """Span kind (see `vtrain_schemas.words`) of a module; None where it is not recorded.

        path: the module's path in the model. operators: whether linear layers, norms and attention cores are
        recorded.
        """

    def layer_number(self, module: torch.nn.Module) -> int | None:
        """Number of a layer in the whole model, from 1; None where it is not known, and for what is no layer.

        The modules inside a layer have its number: they are not asked about.
        """
        return None

    def has_delayed_weight_gradient(self, module: torch.nn.Module) -> bool:
        """Whether a module computes the gradient of its weights apart from its backward pass, and later."""
        return False

    def before_module(self, call: ModuleCall) -> None:  # noqa: B027
        """A recorded module is about to run: learn from its input."""

    def operator_of(self, call: ModuleCall, output: torch.Tensor | None) -> Operator | None:
        """The forward operator that a module is, less what its own recorded children are; None for none."""
        return None

    def communication_inside(self, module: torch.nn.Module) -> str:
        """Role of the group whose communication is inside a module's own kernels, where no call shows it; else ""."""
        return ""

    def why_no_hooks(self, model: torch.nn.Module) -> str:
        """Why the modules of a model chunk must get no hooks; "" where they may. Only phases are recorded then."""
        return ""

    def on_model(self, model: torch.nn.Module, hooked: Sequence[Hooked]) -> None:  # noqa: B027
        """The modules of a model chunk have been hooked: learn from the model. May raise to end the capture."""

    def start_step(self) -> None:  # noqa: B027
        """A recorded step begins."""

    def role_of_group(self, group: torch.distributed.ProcessGroup) -> str | None:
        """Role (see `vtrain_schemas.words`) of a process group that torch has no description of."""
        return None

    def describe_run(self) -> Row:
        """Columns of the runs table that the framework knows: model, layout, batch, configuration."""
        return {}

    def describe_rank(self) -> Row:
        """Columns of the ranks table that the framework knows: coordinates and parameters."""
        return {}

    def remove(self) -> None:  # noqa: B027
        """Let go of what is no patch of the session; may be called more than once, must not raise."""
