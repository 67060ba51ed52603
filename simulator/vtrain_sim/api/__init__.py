"""The verbs: one module each. The commands and ``import vtrain`` both call them."""
