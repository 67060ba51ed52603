"""All hooks of a recording: modules, gradients, communication, optimizer."""

from __future__ import annotations

from typing import Any

from vtrain_plugin.adapters.megatron import collectives, gradients, loss
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.adapters.megatron.modules import ModuleHooks


class Hooks:
    """Installs and removes the hooks of one recording."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.context = ModelContext()
        self.modules = ModuleHooks(session, self.context)
        self._models: set[int] = set()

    def install(self) -> None:
        """Hooks that do not need the model."""
        session = self.session
        collectives.install(session, self.context)
        gradients.install(session)
        loss.install(session, self.modules)

    def on_model(self, model: Any) -> None:
        """Hook a model chunk the first time it is seen."""
        if id(model) in self._models:
            return
        self._models.add(id(model))
        self.context.learn(model)
        self.modules.install(model, chunk=len(self._models) - 1)

    def remove(self) -> None:
        self.modules.remove()
