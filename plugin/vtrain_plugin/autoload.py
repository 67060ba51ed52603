"""Imported at interpreter start when ``VTRAIN_OUT`` is set (see vtrain_autoload.pth)."""

from vtrain_plugin.arming import arm_from_environment

arm_from_environment()
