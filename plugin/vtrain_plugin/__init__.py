"""vtrain's profiling plugin for Megatron-Core.

Three ways to use it, none of which changes training code's behaviour:

* ``torchrun ... -m vtrain_plugin --out DIR pretrain_gpt.py ARGS`` for an unmodified script;
* ``vtrain_plugin.enable(out="DIR")``, or the environment variable ``VTRAIN_OUT=DIR``;
* ``with vtrain_plugin.profile(out="DIR"):`` around one's own loop.

The capture begins after the warm-up steps, ends by itself, and removes every hook. Nothing that
goes wrong inside it reaches training: it reports once and switches itself off.
"""

from vtrain_plugin.api import disable, enable, profile
from vtrain_plugin.capture.settings import Settings, SettingsError

__version__ = "0.1.0"
__all__ = ["Settings", "SettingsError", "disable", "enable", "profile"]
